"""What is tried again: decided by SQLSTATE, never by a text, which every server writes in its own language.

libpq keeps the SQLSTATE of a refused connection to itself. It shows it in the trace of the protocol alone (from version
18 on), so a connection that failed is tried once more, traced.
"""

from __future__ import annotations

import re
import select
import socket
import sys
import time
from collections.abc import Mapping
from os import dup
from tempfile import TemporaryFile
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.pq import ConnStatus, PGconn, PollingStatus, abc

AGAIN = ("08", "25", "40", "53", "55006", "55P03", "57", "58", "HV000", "HV00N", "XX000")
"""SQLSTATEs, or the classes they begin with, of what passes: connections, read-only transactions (a failover),
deadlocks, resources, locks, whatever an operator or a time-out ended, input and output, a foreign server's connection,
and what the server itself did not expect. Whatever else a server says, it says again."""

FOR_GOOD = ("57P04",)
"""Of these, the exceptions: a database that was dropped."""

MISUSE = {"ProgrammingError", "DataError", "IntegrityError", "NotSupportedError"}
"""Errors of either driver (PEP 249) that are final where no server was asked."""

CONNECT_SECONDS = 30

_REFUSAL = re.compile(rb'\tErrorResponse\t.*? C "(\w{5})"')


def is_final(error: BaseException) -> bool:
    """Whether another attempt would meet this error of psycopg or psycopg2 as well.

    That of a connection that was refused carries no SQLSTATE: see `is_refused`.
    """
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if state is None:
        return not MISUSE.isdisjoint(each.__name__ for each in type(error).__mro__)
    if state == "23505" and error.diag.schema_name == "pg_catalog":  # type: ignore[attr-defined]
        return False  # another session made a thing of the same name at the same time: the next attempt finds it
    return not state.startswith(AGAIN) or state in FOR_GOOD


def parameters_of(error: psycopg.Error) -> dict[str, str]:
    """libpq's parameters of the connection that failed; none where another thing did."""
    options = error.pgconn.info if error.pgconn else []
    return {each.keyword.decode(): each.val.decode() for each in options if each.val}


def is_refused(parameters: Mapping[str, Any]) -> bool:
    """Whether who answers on the other side refuses us for good; after a connection has failed.

    A password, a database, a right that is missing: by its SQLSTATE. A certificate, a file of ours, or another
    protocol: something was said, and the connection failed over it. Nobody there, or hung up on: not refused.

    Args:
        parameters: libpq's, by name.
    """
    if not parameters or sys.platform != "linux":
        return False  # psycopg traces there alone
    with TemporaryFile() as trace:
        connection = PGconn.connect_start(make_conninfo(**parameters).encode())
        connection.trace(trace.fileno())
        has_spoken = _has_spoken_before_it_failed(connection)
        connection.untrace()
        connection.finish()
        trace.seek(0)
        states = _REFUSAL.findall(trace.read())
    if states and has_spoken is not None:
        state = states[-1].decode()
        return not state.startswith(AGAIN) or state in FOR_GOOD
    return bool(has_spoken)


def _has_spoken_before_it_failed(connection: abc.PGconn) -> bool | None:
    """Whether the other side's last act was to say something; None where the connection succeeds, or takes too long."""
    deadline, has_spoken = time.monotonic() + CONNECT_SECONDS, False
    while connection.status != ConnStatus.BAD:
        status = connection.connect_poll()
        if status == PollingStatus.OK:
            return None
        if status == PollingStatus.FAILED:
            break
        reading, writing = ([connection.socket], []) if status == PollingStatus.READING else ([], [connection.socket])
        if not any(select.select(reading, writing, [], max(0, deadline - time.monotonic()))):
            return None
        has_spoken = bool(reading) and _has_bytes(connection.socket)
    return has_spoken


def _has_bytes(descriptor: int) -> bool:
    """Whether there is something to read, not the end of the connection."""
    with socket.socket(fileno=dup(descriptor)) as peer:
        try:
            return bool(peer.recv(1, socket.MSG_PEEK))
        except OSError:
            return False
