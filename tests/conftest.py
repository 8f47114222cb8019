"""What all tests share: a real PostgreSQL server, fresh databases on it, and installations to run commands in."""

from __future__ import annotations

import atexit
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from include.local.environment import ROOT, Installation, airflow_settings
from include.local.servers import EmbeddedPostgres

# Before any test imports Airflow, which reads its configuration once: nothing of the person's own installation.
_HOME = Path(tempfile.mkdtemp(prefix="elt-test-airflow-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ |= airflow_settings(Installation(_HOME), api_port=8080)
os.environ |= {"AIRFLOW_HOME": str(_HOME / "airflow"), "DBT_TARGET_PATH": str(ROOT / ".local" / "dbt")}


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
    give_up = pytest.fail if os.environ.get("CI") else pytest.skip
    give_up("needs ICU or an extension: install a PostgreSQL of the system, or say with PG_BINDIR= where one is")


@dataclass(frozen=True)
class Checkout:
    """An installation below `here.state`; commands run in it as the Makefile would run them."""

    here: Installation
    root: Path = ROOT

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m include.local …`, whatever comes of it."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "DBT_"))}
        environment = {
            **kept,
            "ELT_STATE": str(self.here.state),
            "ROWS": "2000",
            "PYTHONPATH": str(self.root),
            **variables,
        }
        return subprocess.run(
            [sys.executable, "-m", "include.local", *command],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

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
