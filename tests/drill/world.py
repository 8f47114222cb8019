"""The drill's world: two PostgreSQL servers with the product's own roles, and what Airflow keeps between tasks."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import psycopg
from psycopg import sql

from include.local.databases import ROLES, SOURCE, WAREHOUSE, provision
from include.local.errors import LocalError
from include.local.servers import HOST, EmbeddedPostgres, is_free
from include.sources import TableSpec
from tests.entries import specs_below

Answer = TypeVar("Answer")

HERE = Path(__file__).parent
MODELS_DIR = HERE / "models"
PASSWORDS = {role: "drill" for role in ROLES}
USERS = {SOURCE: "shop_reader", WAREHOUSE: "raw_loader"}
SIDES = tuple(USERS)

# Recovery after an immediate stop should be quick. No machine loses power here, so fsync may be off in the source; the
# warehouse keeps it, and gives away commits that do not ask to be durable.
SETTINGS = {"max_wal_size": "256MB", "checkpoint_timeout": "60s", "shared_buffers": "64MB", "deadlock_timeout": "200ms"}
SETTINGS_OF = {SOURCE: {"fsync": "off"}, WAREHOUSE: {"synchronous_commit": "off"}}


@dataclass(frozen=True)
class Store:
    """Airflow's Variables and run states, as files: a set is one rename, so a kill leaves the old value or the new."""

    folder: Path

    def get(self, key: str, default: str | None = None) -> str | None:
        path = self.folder / key
        return path.read_text() if path.exists() else default

    def set(self, key: str, value: str) -> None:
        fresh = self.folder / f"{key}.{os.getpid()}.new"
        fresh.write_text(value)
        fresh.rename(self.folder / key)

    def delete(self, key: str) -> None:
        (self.folder / key).unlink(missing_ok=True)

    def clear(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            path.unlink()


@dataclass
class World:
    """Source and warehouse as servers of their own, below `folder`.

    Attributes:
        unblock: Called where a question waits for a lock: a frozen task may hold it, and would for ever.
    """

    folder: Path
    servers: dict[str, EmbeddedPostgres] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    admin_dsns: dict[str, str] = field(default_factory=dict)
    unblock: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        for side in SIDES:
            self.ports[side] = free_port()
            server = EmbeddedPostgres(self.folder / side, self.ports[side], SETTINGS | SETTINGS_OF[side]).start()
            self.servers[side], self.admin_dsns[side] = server, server.superuser_dsn(side)

    @cached_property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @cached_property
    def specs(self) -> dict[str, TableSpec]:
        return {spec.table: spec for spec in specs_below(MODELS_DIR)}

    def fresh(self) -> None:
        """Empty databases with the product's own roles and grants, empty source tables, no Variable."""
        self.store.clear()
        for server in self.servers.values():
            with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as connection:
                for name in SIDES:
                    connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            provision(server, PASSWORDS)
        names = sql.SQL(", ").join(sql.Literal(name) for name in self.specs)
        source = sql.SQL((HERE / "sql" / "source.sql").read_text()).as_string().replace("{names}", names.as_string())
        with psycopg.connect(self.app_dsn) as connection:
            connection.execute(source)
        with self.admin(WAREHOUSE) as connection:
            for script in ("warehouse", "types"):
                connection.execute((HERE / "sql" / f"{script}.sql").read_text())

    @property
    def app_dsn(self) -> str:
        """The source as its application, which writes."""
        return f"postgresql://shop_app:drill@{HOST}:{self.ports[SOURCE]}/{SOURCE}"

    def task_dsn(self, side: str, port: int | None = None) -> str:
        """A side as the pipeline's tasks connect to it, or to a proxy on `port`."""
        return f"postgresql://{USERS[side]}:drill@{HOST}:{port or self.ports[side]}/{side}"

    def admin(self, side: str) -> psycopg.Connection:
        """A superuser's session, in autocommit mode, for the oracle alone. What it did survives a crash."""
        return psycopg.connect(
            self.admin_dsns[side], autocommit=True, options="-c synchronous_commit=on -c lock_timeout=5s"
        )

    def ask(self, side: str, question: Callable[[psycopg.Connection], Answer]) -> Answer:
        """The answer of a question asked as superuser, again where the server was just stopped or a lock in the way."""
        for _ in range(10):
            try:
                with self.admin(side) as connection:
                    return question(connection)
            except psycopg.errors.LockNotAvailable as error:
                failed: psycopg.Error = error
                self.unblock()
            except psycopg.OperationalError as error:
                failed = error
                self.revive(side)
        raise failed

    def kill_server(self, pid: int) -> None:
        """What `pg_ctl stop -m immediate` does: no checkpoint, no goodbye."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGQUIT)

    def wait_until_down(self, side: str, pid: int) -> None:
        """Until the server that was this process is gone; the oracle may have started the next one meanwhile."""
        while pid == self.postmaster(side) and self.servers[side].is_running():
            time.sleep(0.005)

    def postmaster(self, side: str) -> int | None:
        """The server's process; None while it is down."""
        with suppress(FileNotFoundError, IndexError):
            return int((self.servers[side].data_dir / "postmaster.pid").read_text().split()[0])
        return None

    def revive(self, side: str) -> None:
        """Start a server that was stopped; a second stop in the middle of its start is survived as well."""
        for _ in range(10):
            try:
                self.servers[side].start()
                return
            except LocalError:
                time.sleep(0.1)
        self.servers[side].start()


def free_port() -> int:
    """Below the ports that the system hands to clients: one of those could take it while the server is down."""
    return next(port for port in random.SystemRandom().sample(range(20000, 32000), 200) if is_free(port))
