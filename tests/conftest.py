"""What all tests share: a real PostgreSQL server, fresh databases on it, and installations to run commands in."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from include.local.environment import ROOT, Installation
from include.local.servers import EmbeddedPostgres
from tests import own_airflow
from tests.clusters import free_port

_HOME = Path(tempfile.mkdtemp(prefix="elt-test-airflow-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
own_airflow.use(_HOME)
os.environ["DBT_TARGET_PATH"] = str(ROOT / ".local" / "dbt")


class Postgres:
    """A running server that hands out empty databases."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.server = server
        self._numbers = itertools.count(1)

    def database(self, name: str | None = None) -> str:
        """Create an empty database and return its URI, as superuser."""
        name = name or f"test_{next(self._numbers)}"
        with psycopg.connect(self.server.superuser_dsn("postgres"), autocommit=True) as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return self.server.superuser_dsn(name)


class SystemPostgres(EmbeddedPostgres):
    """A PostgreSQL installed on this machine: it has ICU, and extensions, which the embedded one lacks."""

    def _program(self, name: str) -> Path:
        return system_programs() / name


def system_programs() -> Path:
    """Where a PostgreSQL of the system keeps its programs; without one the test is skipped, in CI it fails."""
    pg_config, initdb = shutil.which("pg_config"), shutil.which("initdb")
    places: list[str | Path | None] = [
        os.environ.get("PG_BINDIR"),
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True),
        pg_config and subprocess.run([pg_config, "--bindir"], capture_output=True, text=True).stdout.strip(),
        initdb and Path(initdb).parent,
    ]
    for place in (Path(place) for place in places if place):
        if (place / "initdb").exists():
            return place
    _give_up("needs ICU or an extension: install a PostgreSQL of the system, or say with PG_BINDIR= where one is")


def _give_up(problem: str) -> NoReturn:
    """What a machine lacks is skipped there, and fails in CI."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(problem)


class PgBouncer:
    """Poolers of the system before a server, one for each kind of pool, for its superuser, who needs no password.

    They drop `options`, as people set them up, and know the database `postgres` as `alias` as well.
    """

    POOLS = {"session": "session", "transaction": "transaction", "statement": "statement", "one server": "session"}

    def __init__(self, folder: Path, server: EmbeddedPostgres) -> None:
        self.ports: dict[str, int] = {}
        self._folder, self._server, self._processes = folder, server, list[subprocess.Popen[bytes]]()

    def __enter__(self) -> PgBouncer:
        self._folder.mkdir(mode=0o755, parents=True)
        (self._folder / "users").write_text('"postgres" ""\n')
        for pool, mode in self.POOLS.items():
            self.ports[pool] = port = free_port()
            place = f"host={conninfo_to_dict(self._server.superuser_dsn('postgres'))['host']} port={self._server.port}"
            configuration = self._folder / f"{pool}.ini"
            configuration.write_text(
                f"""[databases]
                alias = {place} dbname=postgres
                * = {place}
                [pgbouncer]
                listen_addr = 127.0.0.1
                listen_port = {port}
                unix_socket_dir =
                auth_type = trust
                auth_file = {self._folder / "users"}
                pool_mode = {mode}
                default_pool_size = {1 if pool == "one server" else 20}
                ignore_startup_parameters = extra_float_digits,options
                """.replace(
                    "  ", ""
                )
            )
            command = [_pgbouncer(), "--quiet", str(configuration)]
            with (self._folder / f"{pool}.log").open("wb") as log:
                self._processes.append(subprocess.Popen(command, stdout=log, stderr=log, **self._server._identity))
            self._wait_for(pool)
        return self

    def _wait_for(self, pool: str) -> None:
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.ports[pool])).close()
                return
            except ConnectionRefusedError:
                assert self._processes[-1].poll() is None, (self._folder / f"{pool}.log").read_text()

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def dsn(self, pool: str, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.ports[pool]}/{database}"


def _pgbouncer() -> str:
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    return program or _give_up("needs PgBouncer: apt install pgbouncer, brew install pgbouncer")


@dataclass(frozen=True)
class Checkout:
    """An installation below `here.state`; commands run in it as the Makefile would run them."""

    here: Installation
    root: Path = ROOT

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m include.local …`, whatever comes of it."""
        with self.start(*command, **variables) as child:
            out, err = child.communicate(timeout=600)
        return subprocess.CompletedProcess(child.args, child.returncode, out, err)

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        """Begin `python -m include.local …`."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "DBT_"))}
        environment = {
            **kept,
            "ELT_STATE": str(self.here.state),
            "ROWS": "2000",
            "PYTHONPATH": str(self.root),
            **variables,
        }
        return subprocess.Popen(
            [sys.executable, "-m", "include.local", *command],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def copied(self, root: Path) -> Checkout:
        """A copy of the tree below `root`, to be changed, on the same installation."""
        for part in ("dags", "include", "dbt", "plugins"):
            shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("target", "__pycache__"))
        (root / ".venv").symlink_to(ROOT / ".venv")
        return Checkout(self.here, root)

    def source(self) -> psycopg.Connection:
        return psycopg.connect(self.run("dsn-source").stdout.strip())

    def warehouse(self) -> psycopg.Connection:
        return psycopg.connect(self.run("dsn-warehouse").stdout.strip())


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder that an unprivileged server may enter, which pytest's own is not for root."""
    path = Path(tempfile.mkdtemp(prefix="elt-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def postgres(folder: Path) -> Iterator[Postgres]:
    with EmbeddedPostgres(folder / "postgres", settings={"fsync": "off"}) as server:
        yield Postgres(server)
        server.remove()


@pytest.fixture(scope="session")
def system_postgres(folder: Path) -> Iterator[Postgres]:
    with SystemPostgres(folder / "system_postgres", settings={"fsync": "off"}) as server:
        yield Postgres(server)
        server.remove()
