"""COPY out of one server straight into another: bytes, never Python objects, in constant memory."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from psycopg import errors, sql
from psycopg.abc import Buffer
from psycopg.copy import LibpqWriter
from psycopg.generators import copy_to
from psycopg.pq import ExecStatus
from psycopg.pq.abc import PGresult

from include.errors import StalledError, TransientError
from include.postgres.catalog import SAME_EVERYWHERE
from include.postgres.sessions import Connection, identifiers

Format = Literal["binary", "text"]

BLOCK_BYTES = 256 * 1024
"""Bytes gathered before a write: one call for thousands of rows instead of one each."""


def stall_seconds() -> float:
    """How long nothing may move in a stream: `ELT_STALL_MINUTES`, else 30 minutes.

    Long, because a query that finds its first row late sends nothing before.
    """
    return 60 * float(os.environ.get("ELT_STALL_MINUTES") or 30)


@dataclass(frozen=True)
class Copied:
    """Rows and bytes of COPY data that went through, and in which form."""

    rows: int
    bytes: int
    form: Format

    def __add__(self, other: Copied) -> Copied:
        return Copied(self.rows + other.rows, self.bytes + other.bytes, self.form)


def copy_format(types: Iterable[str]) -> Format:
    """Binary where both servers are sure to read it alike, which spares them the text; else text."""
    return "binary" if SAME_EVERYWHERE.issuperset(types) else "text"


def stream(
    source: Connection,
    rows: sql.Composable,
    target: Connection,
    table: sql.Identifier,
    columns: list[str],
    form: Format,
    *,
    freeze: bool = True,
) -> Copied:
    """Copy the rows of a query on the source into a table.

    Args:
        source: A pinned session on the source, in its snapshot.
        rows: The query.
        target: A session of the loader role, in a transaction.
        table: What it writes to.
        columns: Of both, in the query's order.
        form: From `copy_format`.
        freeze: Spares the table a later rewriting of its rows; only where the open transaction has created it. A
            reader with an older snapshot sees all of it or nothing.

    Raises:
        TransientError: both ended well but counted differently. A stream cut at a row boundary looks complete to the
            writer, so the counts of both command tags have to agree.
        StalledError: nothing moved for `stall_seconds`. One that sends slowly is left alone.
        psycopg.Error: what either server said.
    """
    copy_in = sql.SQL("copy {} ({}) from stdin (format {}, freeze {})").format(
        table, identifiers(columns), sql.SQL(form), sql.SQL("on" if freeze else "off")
    )
    copy_out = sql.SQL("copy ({}) to stdout (format {})").format(rows, sql.SQL(form))
    moved = 0
    with _Reader(source, copy_out) as reader, target.cursor() as writer:
        with writer.copy(copy_in, writer=_Writer(writer)) as sink:
            for block in reader:
                sink.write(block)
                moved += len(block)
        if reader.rows != writer.rowcount:
            raise TransientError(f"the source sent {reader.rows} rows, the warehouse took {writer.rowcount}")
        return Copied(writer.rowcount, moved, form)


class _Reader:
    """`copy … to stdout` read through libpq itself: psycopg's own loop costs three times the CPU for each row.

    Iterating yields blocks of many rows; `rows` is then what the server's command tag counts.
    """

    def __init__(self, connection: Connection, query: sql.Composable) -> None:
        self._connection = connection
        self._query = query
        self._readable, self._writable = select.poll(), select.poll()
        self._readable.register(connection.pgconn.socket, select.POLLIN)
        self._writable.register(connection.pgconn.socket, select.POLLOUT)
        self._is_over = False
        self.rows = -1

    def __enter__(self) -> _Reader:
        pgconn = self._connection.pgconn
        pgconn.send_query(self._query.as_bytes(self._connection))
        while pgconn.flush():
            self._writable.poll()
        self._check(self._result(), ExecStatus.COPY_OUT)
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_over and not self._connection.closed:
            # Given up in the middle: nothing else can be asked in this session until the stream is read to its end.
            self._connection.close()

    def __iter__(self) -> Iterator[bytes]:
        receive = self._connection.pgconn.get_copy_data
        gathered = bytearray()
        while (received := receive(1))[0] >= 0:
            if received[0] == 0:
                self._wait()
                continue
            gathered += received[1]
            if len(gathered) >= BLOCK_BYTES:
                yield bytes(gathered)
                gathered.clear()
        result = self._result()
        self._check(result, ExecStatus.COMMAND_OK)
        self._finish()
        self.rows = result.command_tuples if result and result.command_tuples is not None else -1
        if gathered:
            yield bytes(gathered)

    def _wait(self) -> None:
        """Wait for more from the server. Unlike a blocking read, it lets a signal through."""
        if not self._readable.poll(1000 * stall_seconds()):
            problem = stalled("the source", self._connection, "sent")
            self._connection.close()
            raise problem
        self._connection.pgconn.consume_input()

    def _result(self) -> PGresult | None:
        while self._connection.pgconn.is_busy():
            self._wait()
        return self._connection.pgconn.get_result()

    def _finish(self) -> None:
        """Take what else there is, so that the session can be asked again."""
        while self._result():
            pass
        self._is_over = True

    def _check(self, result: PGresult | None, wanted: ExecStatus) -> None:
        if result is None or result.status != wanted:
            self._finish()
            if result is None:
                raise errors.OperationalError("the source ended the session in the middle of a COPY")
            raise errors.error_from_result(result, self._connection.info.encoding)


class _Writer(LibpqWriter):
    """psycopg's own, which gives up where the server takes nothing."""

    def _put(self, data: Buffer) -> None:
        try:
            self.connection.wait(copy_to(self._pgconn, data, flush=True), timeout=stall_seconds())
        except errors._WaitTimeout:
            problem = stalled("the warehouse", self.connection, "taken")
            self.connection.close()
            raise problem from None

    def finish(self, exc: BaseException | None = None) -> None:
        if not self.connection.closed:  # else it would wait for an answer
            super().finish(exc)


def stalled(side: str, connection: Connection, done: str) -> StalledError:
    """Names the server's process, which somebody may look for there."""
    info = connection.info
    return StalledError(
        f"{side} (pid {info.backend_pid}, database {info.dbname} on {info.host}:{info.port}) has {done} nothing for "
        f"{stall_seconds() / 60:g} minutes: what stands between may keep dead connections open; its session is ended. "
        "A query that finds its first row later than that needs an index, or a larger ELT_STALL_MINUTES"
    )
