"""Database sessions with pinned text forms, time zone and time-outs: COPY text means the same on both sides."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import psycopg
from psycopg import IsolationLevel, sql
from psycopg.errors import InsufficientPrivilege, WrongObjectType
from psycopg.pq import TransactionStatus
from psycopg.rows import namedtuple_row, tuple_row

from include.errors import TerminalError, TransientError
from include.postgres.poolers import refuse_shared_server
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


def pin(
    connection: Connection, *, read_only: bool, connect: Callable[[], Connection] = lambda: _refuse_pooler()
) -> Connection:
    """Pin the settings of a fresh session and leave it in autocommit mode, so that transactions are always explicit.

    `row_security=off` makes a policy raise instead of hiding rows. `synchronous_commit=on`, whatever the server's
    default: what one task hands to the next survives a crash of the server, the staged rows as well as the load.
    `read committed`: whoever waited for a lock then sees what its holder did.

    Args:
        connection: A session in which nothing was asked yet.
        read_only: Refuse to write in it.
        connect: Makes another one like it, where a pooler stands in between, whose process numbers are its own.

    Raises:
        TerminalError: the session is not what was asked for, or a pooler would lend its server to others; nothing of
            ours is then left on that.
    """
    connection.autocommit = True
    connection.row_factory = tuple_row  # whatever `cursor` the connection's extra names
    asked = asked_settings(connection.info.options)
    values = {"read_only": "on" if read_only else "off", "asked": list(asked), "pid": connection.info.backend_pid}
    found = _pin(connection, values | {"is_ours": False})
    _refuse_another_session(connection, found, asked)
    if found.pid != connection.info.backend_pid:
        refuse_shared_server(connection, connect)
        _pin(connection, values | {"is_ours": True})
    return connection


@contextmanager
def look(told: Mapping[str, Any]) -> Iterator[Connection]:
    """A pinned session that writes nothing, of what libpq is told."""

    def connect() -> Connection:
        return psycopg.connect(**told)

    with connect() as connection:
        yield pin(connection, read_only=True, connect=connect)


def _pin(connection: Connection, values: dict[str, Any]) -> Any:
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(statement("pin_session"), values).fetchone()


def _refuse_pooler() -> Connection:
    raise TerminalError("a pooler stands in between, where it is not looked at: connect to the server itself")


def asked_settings(options: str) -> dict[str, str]:
    """The settings that libpq's `options` ask the server for, by their names in small letters, the last one of each."""
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\\\s])+", options)]
    pairs = re.findall(r"(?:^|\0)(?:-c\0?|--)([^\0=]+)=([^\0]*)", "\0".join(words))
    return {name.lower().replace("-", "_"): value for name, value in pairs}


def _refuse_another_session(connection: Connection, found: Any, asked: dict[str, str]) -> None:
    """Compare what was asked for with what is there. A value may be a secret, and is not said."""
    pinned = statement("pin_session").as_string()
    missing = [
        name
        for (name, value), given in zip(asked.items(), found.given, strict=True)
        if value != given and f"('{name}', " not in pinned and not _is_same(connection, name, value)
    ]
    if missing:
        raise TerminalError(
            f"it asks for {', '.join(missing)} in its `options`, and its session has it not: a pooler drops them "
            "(PgBouncer's ignore_startup_parameters); set them for the role instead, or connect to the server itself"
        )
    for what, wanted, given in (
        ("database", connection.info.dbname, found.database),
        ("role", connection.info.user, found.role),
    ):
        if wanted != given:
            raise TerminalError(
                f"it asks for {what} {wanted!r} and its session is in {given!r}: a pooler leads elsewhere; "
                "call it there as the server does"
            )
    if found.unsafe:
        raise TerminalError(
            f"{', '.join(found.unsafe)} is set for its session, which hides rows or damage, or leaves out what guards "
            "them; run there as superuser: alter role … reset it"
        )


def _is_same(connection: Connection, name: str, value: str) -> bool:
    """Whether a setting has a value, as the server understands it (64MB is 65536)."""
    query = "select current_setting(%s, true) is not distinct from set_config(%s, %s, true)"
    with suppress(psycopg.Error):
        row = connection.execute(query, (name, name, value)).fetchone()
        return bool(row and row[0])
    return False


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
    try:
        with suppress(WrongObjectType), connection.transaction():
            connection.execute(query)
    except InsufficientPrivilege:
        _lock_by_query(connection, schema, table)


def _lock_by_query(connection: Connection, schema: str, table: str) -> None:
    """Lock a table of which the role may read single columns: they do not suffice for LOCK, but for a query.

    Raises:
        TransientError: the table was truncated or rewritten between the query's snapshot and its lock.
        InsufficientPrivilege: the role may read no column either.
    """
    with connection.transaction():  # a savepoint: what is refused leaves the caller's transaction as it was
        connection.execute(sql.SQL("select from {} where false").format(sql.Identifier(schema, table)))
    relation = relation_text(schema, table)
    row = connection.execute(statement("rewritten"), {"relation": relation}).fetchone()
    if row and row[0]:
        raise TransientError(f"{relation} was truncated or rewritten as it was about to be read; it is read again")


def lock_holders(connection: Connection, name: str, *relations: str, is_read: bool = False) -> list[str]:
    """Who else is at some tables' locks, or at the lock of a name: what a server does not say when it gives up waiting.

    Args:
        connection: A session in no transaction.
        name: As `ledger.lock` takes it.
        relations: From `relation_text`.
        is_read: They were only to be read: who lets readers in does not count.
    """
    values = {"relations": list(relations), "name": name, "is_read": is_read}
    rows = connection.execute(statement("lock_holders"), values).fetchall()
    return [f"{who} {does} {mode} on {what}" for who, does, mode, what in rows]


def identifiers(names: tuple[str, ...] | list[str], prefix: sql.Composable = sql.SQL("")) -> sql.Composed:
    """Quoted names, comma separated, each after `prefix` (for example `old.`)."""
    return sql.SQL(", ").join(prefix + sql.Identifier(name) for name in names)


def relation_text(schema: str, table: str) -> str:
    """`"schema"."table"` quoted as text, for `to_regclass`."""
    return sql.Identifier(schema, table).as_string()
