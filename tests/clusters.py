"""Servers that follow each other, fail over, crash and are made anew."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from include.local.servers import EmbeddedPostgres, is_free

DATABASE = "shop"


def free_port() -> int:
    """Below the ports that the system hands to clients: one of those could take it while the server is down."""
    return next(port for port in random.SystemRandom().sample(range(20000, 32000), 200) if is_free(port))


def admin(server: EmbeddedPostgres, database: str = DATABASE) -> psycopg.Connection:
    return psycopg.connect(server.superuser_dsn(database), autocommit=True)


def await_true(connection: psycopg.Connection, condition: str, seconds: float = 60) -> None:
    """Until a server says that something has happened."""
    deadline = time.monotonic() + seconds
    while not connection.execute(f"select {condition}").fetchone()[0]:
        assert time.monotonic() < deadline, f"not after {seconds} s: {condition}"
        time.sleep(0.01)


def place(folder: Path, name: str) -> Path:
    """For a cluster's files: a folder of its own, which an unprivileged server may enter."""
    inside = Path(tempfile.mkdtemp(dir=folder))
    inside.chmod(0o755)
    return inside / name


def new_cluster(kind: type[EmbeddedPostgres], folder: Path, name: str, settings: dict[str, str]) -> EmbeddedPostgres:
    """A cluster that a standby may follow, through the socket."""
    server = kind(place(folder, name), free_port(), settings).start()
    with (server.data_dir / "pg_hba.conf").open("a") as access:
        access.write("local replication postgres trust\n")
    with admin(server, "postgres") as connection:
        connection.execute("select pg_reload_conf()")
    return server


def new_standby(kind: type[EmbeddedPostgres], primary: EmbeddedPostgres, folder: Path, name: str) -> EmbeddedPostgres:
    """A hot standby that follows the primary."""
    standby = kind(place(folder, name), free_port())
    standby._make_private(standby.data_dir)
    primary_dsn = ("-h", str(primary.socket_dir), "-p", str(primary.port), "-U", "postgres")
    standby._run("pg_basebackup", *primary_dsn, "-R", "-X", "stream", "-c", "fast", data_dir=standby.data_dir)
    return standby.start()


def catch_up(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    """Until the standby shows all that the primary has committed."""
    with admin(primary) as connection:
        row = connection.execute("select pg_switch_wal()::text").fetchone()
    with admin(standby) as connection:
        await_true(connection, f"pg_last_wal_replay_lsn() >= '{row and row[0]}'")


def cut_off(standby: EmbeddedPostgres) -> None:
    """Nothing that the primary does from now on reaches the standby."""
    with admin(standby) as connection:
        connection.execute("select pg_wal_replay_resume()")  # one that is paused does not hear of it
        connection.execute("alter system set primary_conninfo = ''")
        connection.execute("select pg_reload_conf()")
        await_true(connection, "not exists (select from pg_stat_wal_receiver)")


def promote(standby: EmbeddedPostgres) -> None:
    """Make it a primary, with what it has received."""
    with admin(standby) as connection:
        connection.execute("select pg_promote()")
        await_true(connection, "not pg_is_in_recovery()")


def crash(server: EmbeddedPostgres) -> None:
    """End it without a checkpoint or a flush, then start it again."""
    server._run("pg_ctl", "stop", "-w", "-m", "immediate")
    server.start()


def lose(server: EmbeddedPostgres, change: Callable[[psycopg.Connection], object], read: Callable[[], object]) -> None:
    """Commit without waiting for the disk, have it read, and crash: what would write it meanwhile stands still."""
    with admin(server) as connection:
        found = connection.execute("select pid from pg_stat_activity where backend_type = 'walwriter'").fetchone()
        assert found
        os.kill(found[0], signal.SIGSTOP)
        try:
            connection.execute("set synchronous_commit = off")
            change(connection)
            read()
        finally:
            os.kill(found[0], signal.SIGKILL)
    crash(server)
