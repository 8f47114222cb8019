"""Database sessions with pinned text forms, time zone and time-outs: COPY text means the same on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.errors import WrongObjectType
from psycopg.pq import TransactionStatus

from include.sql import statement

Connection = psycopg.Connection

KEEPALIVE = {
    "connect_timeout": 30,
    "keepalives_idle": 60,
    "keepalives_interval": 10,
    "keepalives_count": 6,
    "tcp_user_timeout": 120_000,
}
"""libpq options of every connection (seconds; `tcp_user_timeout` milliseconds): two minutes to notice a dead peer."""


def pin(connection: Connection, *, read_only: bool) -> Connection:
    """Pin the settings of a fresh session and leave it in autocommit mode, so that transactions are always explicit.

    `row_security=off` makes a policy raise instead of hiding rows. `synchronous_commit=on`, whatever the server's
    default: what one task hands to the next survives a crash of the server, the staged rows as well as the load.
    `read committed`: whoever waited for a lock then sees what its holder did.
    """
    connection.autocommit = True
    connection.execute(statement("pin_session"), {"read_only": "on" if read_only else "off"})
    return connection


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """A read-only REPEATABLE READ transaction: every statement in it sees the same committed rows."""
    connection.isolation_level = IsolationLevel.REPEATABLE_READ
    try:
        with connection.transaction():
            yield
    finally:
        # Elsewhere it cannot be changed, and saying so would hide why the block failed.
        if connection.info.transaction_status == TransactionStatus.IDLE:
            connection.isolation_level = None


def lock_table(connection: Connection, schema: str, table: str) -> None:
    """Keep a table from being altered, truncated or dropped until the transaction ends; its rows may change.

    Has to come before the snapshot that the table is read in: after it, a TRUNCATE or rewrite would make the table look
    empty to us. Any query takes the snapshot, of the catalog too, but not this.
    """
    query = sql.SQL("lock table {} in access share mode").format(sql.Identifier(schema, table))
    # What the server does not lock: foreign tables, and materialised views, whose refresh hides no row from us.
    with suppress(WrongObjectType), connection.transaction():
        connection.execute(query)


def identifiers(names: tuple[str, ...] | list[str], prefix: sql.Composable = sql.SQL("")) -> sql.Composed:
    """Quoted names, comma separated, each after `prefix` (for example `old.`)."""
    return sql.SQL(", ").join(prefix + sql.Identifier(name) for name in names)


def relation_text(schema: str, table: str) -> str:
    """`"schema"."table"` quoted as text, for `to_regclass`."""
    return sql.Identifier(schema, table).as_string()
