"""Servers that fail over, crash and are made anew."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from include.local.servers import EmbeddedPostgres
from include.sessions import pin
from tests.drill.world import free_port
from tests.include.conftest import Pipeline

# No commit that does not ask for it reaches the disk within a test; a standby may follow through the socket.
SETTINGS = {"fsync": "off", "wal_writer_delay": "10s", "shared_buffers": "32MB", "max_wal_senders": "4"}
DATABASE = "shop"


def await_true(connection: psycopg.Connection, condition: str, seconds: float = 60) -> None:
    """Until a server says that something has happened."""
    deadline = time.monotonic() + seconds
    while not connection.execute(f"select {condition}").fetchone()[0]:
        assert time.monotonic() < deadline, f"not after {seconds} s: {condition}"
        time.sleep(0.01)


def _place(folder: Path, name: str) -> Path:
    """For a cluster's files: a folder of its own, which an unprivileged server may enter."""
    place = Path(tempfile.mkdtemp(dir=folder))
    place.chmod(0o755)
    return place / name


def new_cluster(kind: type[EmbeddedPostgres], folder: Path, name: str) -> EmbeddedPostgres:
    """A cluster with an empty database of the name that all have."""
    server = kind(_place(folder, name), free_port(), SETTINGS).start()
    with (server.data_dir / "pg_hba.conf").open("a") as access:
        access.write("local replication postgres trust\n")
    with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as connection:
        connection.execute("select pg_reload_conf()")
        connection.execute(f"create database {DATABASE}")
    return server


def new_standby(kind: type[EmbeddedPostgres], primary: EmbeddedPostgres, folder: Path, name: str) -> EmbeddedPostgres:
    """A hot standby that follows the primary."""
    standby = kind(_place(folder, name), free_port())
    standby._make_private(standby.data_dir)
    primary_dsn = ("-h", str(primary.socket_dir), "-p", str(primary.port), "-U", "postgres")
    standby._run("pg_basebackup", *primary_dsn, "-R", "-X", "stream", "-c", "fast", data_dir=standby.data_dir)
    return standby.start()


def admin(server: EmbeddedPostgres, database: str = DATABASE) -> psycopg.Connection:
    return psycopg.connect(server.superuser_dsn(database), autocommit=True)


def catch_up(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    """Until the standby shows all that the primary has committed."""
    with admin(primary) as connection:
        row = connection.execute("select pg_switch_wal()::text").fetchone()
    with admin(standby) as connection:
        await_true(connection, f"pg_last_wal_replay_lsn() >= '{row and row[0]}'")


def cut_off(standby: EmbeddedPostgres) -> None:
    """Nothing that the primary does from now on reaches the standby."""
    with admin(standby) as connection:
        connection.execute("alter system set primary_conninfo = ''")
        connection.execute("select pg_reload_conf()")
        await_true(connection, "not exists (select from pg_stat_wal_receiver)")


def promote(standby: EmbeddedPostgres) -> None:
    with admin(standby) as connection:
        connection.execute("select pg_promote()")
        await_true(connection, "not pg_is_in_recovery()")


def crash(server: EmbeddedPostgres) -> None:
    """Without a checkpoint or a flush, then started again."""
    server._run("pg_ctl", "stop", "-w", "-m", "immediate")
    server.start()


def lose(server: EmbeddedPostgres, change: Callable[[psycopg.Connection], object], read: Callable[[], object]) -> None:
    """Commit without waiting for the disk, have it read, and crash."""
    with psycopg.connect(server.superuser_dsn(DATABASE), autocommit=True) as connection:
        connection.execute("set synchronous_commit = off")
        change(connection)
        read()
    crash(server)


def move_to(pipeline: Pipeline, server: EmbeddedPostgres) -> None:
    """The source's address leads to another server from now on."""
    for connection in (pipeline.app, pipeline.source):
        connection.close()
    pipeline.source_dsn = server.superuser_dsn(DATABASE)
    pipeline.app = psycopg.connect(pipeline.source_dsn, autocommit=True)
    pipeline.source = pin(psycopg.connect(pipeline.source_dsn), read_only=True)
