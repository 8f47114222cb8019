"""Poolers: whether the server of a session is this session's own, or is lent from transaction to transaction."""

from __future__ import annotations

import select
from collections.abc import Callable

import psycopg
from psycopg.pq import ExecStatus

from include.errors import TerminalError

ROUNDS = 4
"""Rounds of four questions, in which a shared server shows: a pooler lends the one used last, or all in turn."""

PATIENCE_SECONDS = 2

REFUSAL = (
    "a pooler that lends its servers from transaction to transaction (PgBouncer's pool_mode `transaction` or "
    "`statement`) stands in between: our session's settings would reach other clients, and theirs us; connect to the "
    "server itself, or to a pool in session mode"
)


def refuse_shared_server(connection: psycopg.Connection, connect: Callable[[], psycopg.Connection]) -> None:
    """Find out whether the pooler behind a connection keeps a server for it alone. Changes nothing on any server.

    Two connections take turns in asking for their server. Where each has its own, each hears of one, and not of the
    other's.

    Args:
        connection: A session through a pooler, in autocommit mode and idle.
        connect: Makes another connection like it.

    Raises:
        TerminalError: it does not.
    """
    ours: set[int] = set()
    theirs: set[int] = set()
    with connect() as other:
        other.autocommit = True
        for number in range(4 * ROUNDS):
            if number % 4 < 2:
                ours.add(server_of(connection))
                continue
            other.pgconn.send_query(b"select pg_backend_pid()")
            if not _answers(other, PATIENCE_SECONDS):
                # Every server is taken. Whoever is answered before one that waits longer has a server already.
                ours.add(server_of(connection))
                if not _answers(other, 0):
                    other.close()
                    break
            while result := other.pgconn.get_result():
                if result.status != ExecStatus.TUPLES_OK:
                    raise psycopg.errors.error_from_result(result)
                theirs.add(int(result.get_value(0, 0) or 0))
    if len(ours) > 1 or len(theirs) > 1 or ours & theirs:
        raise TerminalError(REFUSAL)


def _answers(connection: psycopg.Connection, seconds: float) -> bool:
    return bool(select.select([connection.pgconn.socket], [], [], seconds)[0])


def server_of(connection: psycopg.Connection) -> int:
    """The process of the server that answers."""
    row = connection.execute("select pg_backend_pid()", prepare=False).fetchone()  # or it would be left there
    assert row is not None
    return int(row[0])
