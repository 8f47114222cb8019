"""The drill's world: PostgreSQL servers with the product's own roles, and what Airflow keeps between tasks."""

from __future__ import annotations

import os
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

from include.local.databases import WAREHOUSE, provision, roles_of
from include.local.errors import LocalError
from include.local.sample import Sample
from include.local.servers import HOST, EmbeddedPostgres
from include.sources import TableSpec
from tests import clusters
from tests.drill.proxy import Front
from tests.entries import specs_below

Answer = TypeVar("Answer")

HERE = Path(__file__).parent
MODELS_DIR = HERE / "models"
SHOP = Sample("shop", "shop_app", "shop_reader", HERE / "sql" / "roles.sql", "")
SOURCE = SHOP.name
PASSWORDS = {role: "drill" for role in roles_of(SHOP)}
USERS = {SOURCE: SHOP.reader, WAREHOUSE: "raw_loader"}
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

    Whoever writes to the source, and the tasks that read it, come through a front each, which may lead elsewhere.

    Attributes:
        standby: Follows the source's server, in the scenes that need one.
        unblock: Called where a question waits for a lock: a frozen task may hold it, and would for ever.
    """

    folder: Path
    servers: dict[str, EmbeddedPostgres] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)
    admin_dsns: dict[str, str] = field(default_factory=dict)
    unblock: Callable[[], None] = lambda: None
    standby: EmbeddedPostgres | None = None

    def __post_init__(self) -> None:
        for side in SIDES:
            self._install(side, self._new_cluster(side))
        self.writing, self.reading = (Front(self.ports[SOURCE]) for _ in range(2))

    def _new_cluster(self, side: str) -> EmbeddedPostgres:
        return clusters.new_cluster(EmbeddedPostgres, self.folder, side, SETTINGS | SETTINGS_OF[side])

    def _install(self, side: str, server: EmbeddedPostgres) -> None:
        self.servers[side], self.ports[side] = server, server.port
        self.admin_dsns[side] = server.superuser_dsn(side)

    def close(self) -> None:
        """Stop everything and remove what it wrote."""
        self.remove_standby()
        for front in (self.writing, self.reading):
            front.close()
        for server in self.servers.values():
            server.remove()

    @cached_property
    def store(self) -> Store:
        return Store(self.folder / "store")

    @cached_property
    def specs(self) -> dict[str, TableSpec]:
        return {spec.table: spec for spec in specs_below(MODELS_DIR)}

    def fresh(self, *, made_anew: bool = False) -> None:
        """Empty databases with the product's own roles and grants, empty source tables, no Variable.

        Args:
            made_anew: In a new cluster of the source: one that is made later repeats all OIDs.
        """
        self.store.clear()
        self.remove_standby()
        if made_anew:
            self._succeed(self._new_cluster(SOURCE))
        self.writing.lead_to(self.ports[SOURCE])
        self.reading.lead_to(self.ports[SOURCE])
        for server in self.servers.values():
            with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as connection:
                for name in SIDES:
                    connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            provision(server, PASSWORDS, SHOP)
        self._create_source()
        with self.admin(WAREHOUSE) as connection:
            for script in ("warehouse", "types"):
                connection.execute((HERE / "sql" / f"{script}.sql").read_text())

    def _create_source(self) -> None:
        names = sql.SQL(", ").join(sql.Literal(name) for name in self.specs)
        source = sql.SQL((HERE / "sql" / "source.sql").read_text()).as_string().replace("{names}", names.as_string())
        with psycopg.connect(f"postgresql://shop_app:drill@{HOST}:{self.ports[SOURCE]}/{SOURCE}") as connection:
            connection.execute(source)

    # The source is not what it was.

    def follow(self) -> EmbeddedPostgres:
        """A standby that shows all that the source has, and from now on no more."""
        if self.standby is None:
            self.standby = clusters.new_standby(EmbeddedPostgres, self.servers[SOURCE], self.folder, "standby")
        with clusters.admin(self.standby) as connection:
            connection.execute("select pg_wal_replay_resume()")
            clusters.catch_up(self.servers[SOURCE], self.standby)
            connection.execute("select pg_wal_replay_pause()")
        return self.standby

    def remove_standby(self) -> None:
        if self.standby:
            self.standby.remove()
            self.standby = None

    def take_over(self) -> None:
        """The source's server is gone; the standby, which has not received its last commits, takes its place."""
        standby, self.standby = self.standby, None
        assert standby is not None
        self.servers[SOURCE]._run("pg_ctl", "stop", "-w", "-m", "immediate")
        clusters.promote(standby)
        self._succeed(standby)

    def make_anew(self, fill: Callable[[str], object]) -> None:
        """A volume was lost; the script that made the source runs again, on another cluster, with other rows."""
        self.remove_standby()
        self._succeed(self._new_cluster(SOURCE))
        provision(self.servers[SOURCE], PASSWORDS, SHOP)
        self._create_source()
        fill(f"postgresql://shop_app:drill@{HOST}:{self.ports[SOURCE]}/{SOURCE}")

    def crash(self) -> None:
        clusters.crash(self.servers[SOURCE])

    def _succeed(self, server: EmbeddedPostgres) -> None:
        """Another server in the place of the source's; who reads is led there, who writes has to be let in."""
        self.servers[SOURCE].remove()
        self._install(SOURCE, server)
        self.reading.lead_to(self.ports[SOURCE])

    @property
    def app_dsn(self) -> str:
        """The source as its application, which writes."""
        return f"postgresql://shop_app:drill@{HOST}:{self.writing.port}/{SOURCE}"

    def address(self, side: str) -> int:
        """The port that tasks come to."""
        return self.reading.port if side == SOURCE else self.ports[side]

    def task_dsn(self, side: str, port: int | None = None) -> str:
        """A side as the pipeline's tasks connect to it, or to a proxy on `port`."""
        return f"postgresql://{USERS[side]}:drill@{HOST}:{port or self.address(side)}/{side}"

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
