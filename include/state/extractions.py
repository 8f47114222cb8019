"""Extractions under way, in the warehouse: what each of their tasks reads, who is at it, and what is staged.

The row of a range is its lock: whoever stages the range, loads it or drops it holds that row first, then its table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog
from psycopg import errors, sql
from psycopg.rows import class_row, namedtuple_row
from psycopg.types.json import Jsonb

from include.errors import TerminalError
from include.postgres.buckets import Buckets
from include.postgres.server import Server
from include.postgres.sessions import Connection
from include.sources import TableSpec
from include.sql import statement
from include.state.ledger import SCHEMA
from include.state.messages import Part, Staged

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Ticket:
    """A begun extraction: its number, the newest load it follows and its begin by the warehouse's clock."""

    extraction_id: int
    after_load_id: int
    started_at: datetime


Bounds = tuple[list[str] | None, list[str] | None]
"""The keys, as text, that a range begins with and ends before; None: unbounded."""


ABANDONED_AFTER = timedelta(days=7)
"""After that no load is to come: retries, queues and clocks of all Airflows that share the warehouse take less."""


def staging_table(extraction_id: int) -> sql.Identifier:
    """Staging table of an extraction; named by number, so that no source name can outgrow 63 bytes."""
    return sql.Identifier(SCHEMA, f"staging_{extraction_id}")


def begin(
    connection: Connection,
    spec: TableSpec,
    run_id: str,
    shape: dict[str, Any] | None,
    bounds: Sequence[list[str]] = (),
) -> Ticket:
    """Draw the number of a new extraction and note its ranges; committed before any read snapshot is taken.

    Args:
        connection: A warehouse session.
        spec: The table.
        run_id: Airflow run.
        shape: The source table's shape, which the load will put in the ledger.
        bounds: The keys, as text, that ranges after the first begin with.
    """
    values = {"source": spec.source, "table": spec.table, "run_id": run_id, "shape": Jsonb(shape) if shape else None}
    insert = "insert into _elt.extraction_range (extraction_id, number, lower_key, upper_key) values (%s, %s, %s, %s)"
    with connection.transaction(), connection.cursor(row_factory=class_row(Ticket)) as cursor:
        ticket = cursor.execute(statement("begin_extraction"), values).fetchone()
        assert ticket is not None
        for number, (lower, upper) in enumerate(zip([None, *bounds], [*bounds, None], strict=True)):
            cursor.execute(insert, (ticket.extraction_id, number, lower, upper))
    return ticket


def claim(connection: Connection, spec: TableSpec, part: Part) -> tuple[Bounds, Staged | None]:
    """Hold a part until the transaction ends; waits for another attempt at it, up to `lock_timeout`.

    Returns:
        Its range of the key, and what an earlier attempt has staged.

    Raises:
        TerminalError: it was loaded, or a later attempt has discarded it: nothing may be staged any more.
    """
    query = """
        select lower_key, upper_key, snapshot_xmax, snapshot_running, rows_extracted, bytes_extracted, copy_format,
            staged_at, server, lost, lost_since
        from _elt.extraction_range as part join _elt.extraction using (extraction_id)
        where extraction_id = %(extraction_id)s and number = %(number)s
            and source = %(source)s and table_name = %(table)s and run_id = %(run_id)s
        for update of part
    """
    row = connection.execute(query, vars(part)).fetchone()
    if row is None:
        raise TerminalError(
            f"{spec.name}: what it was to read is loaded, or a later attempt has taken over; this one stops without a "
            f"change; to read the table again, clear its {spec.first_task} task"
        )
    if row[2] is None:
        return row[:2], None
    server, lost, lost_since = row[8:]
    return row[:2], Staged(*row[2:8], server=server and Server(**server), lost=lost, lost_since=lost_since)


def record(connection: Connection, part: Part, staged: Staged, held: Buckets | None) -> None:
    """Note a part as staged, in the transaction that staged its rows: one is as durable as the other.

    Args:
        connection: In the transaction that claimed the part.
        part: The part.
        staged: What was read of it.
        held: Buckets of which every row is staged.
    """
    query = """
        update _elt.extraction_range set snapshot_xmax = %(snapshot_xmax)s, snapshot_running = %(snapshot_running)s,
            rows_extracted = %(rows_extracted)s, bytes_extracted = %(bytes_extracted)s, copy_format = %(copy_format)s,
            staged_at = %(staged_at)s, bucket_count = %(bucket_count)s, buckets = %(buckets)s, server = %(server)s,
            lost = %(lost)s, lost_since = %(lost_since)s
        where extraction_id = %(extraction_id)s and number = %(number)s
    """
    values = {
        **vars(staged),
        "server": staged.server and Jsonb(vars(staged.server)),
        "bucket_count": held.count if held else None,
        "buckets": list(held.numbers) if held else None,
        "extraction_id": part.extraction_id,
        "number": part.number,
    }
    connection.execute(query, values)


def forget_shape(connection: Connection, part: Part) -> None:
    """Keep what an extraction saw of its table out of the ledger: raw has rows that others read, by what they saw."""
    query = "update _elt.extraction set source_shape = null where extraction_id = %s"
    connection.execute(query, (part.extraction_id,))


def staged_rows(connection: Connection, part: Part) -> dict[int, int | None]:
    """Rows staged of each range, None while they are not; the ranges are held until the transaction ends.

    A warehouse that was restored draws its numbers again: what has the number and is not of this run is not meant.
    """
    query = """
        select number, rows_extracted from _elt.extraction_range as part join _elt.extraction using (extraction_id)
        where extraction_id = %(extraction_id)s
            and source = %(source)s and table_name = %(table)s and run_id = %(run_id)s
        order by number for update of part
    """
    return dict(connection.execute(query, vars(part)).fetchall())


def held_buckets(connection: Connection, extraction_id: int) -> Buckets | None:
    """The buckets of which an extraction staged every row. Its ranges, if it has several, agree: they are the whole."""
    query = "select bucket_count, buckets from _elt.extraction_range where extraction_id = %s and number = 0"
    row = connection.execute(query, (extraction_id,)).fetchone()
    return Buckets(row[0], tuple(row[1])) if row and row[0] else None


def own(connection: Connection, run_id: str) -> None:
    """Hold the lock of a run as long as the session lasts: its process carries out all of it, and would load it."""
    connection.execute("select pg_advisory_lock_shared(hashtextextended('elt:run ' || %s, 0))", (run_id,))


def discard_leftovers(connection: Connection, spec: TableSpec, is_over: Callable[[str], bool]) -> None:
    """Drop what dead attempts at this table staged; what an attempt that still moves is at waits for the next run.

    Args:
        connection: A warehouse session.
        spec: The table.
        is_over: Whether a run id can no longer load what it staged. A run that had a process of its own is over when
            that is gone, and whatever is older than `ABANDONED_AFTER`.
    """
    query = """
        select extraction_id, run_id,
            has_owner and pg_try_advisory_xact_lock(hashtextextended('elt:run ' || run_id, 0))
            or greatest(started_at, (
                select max(part.staged_at) from _elt.extraction_range as part
                where part.extraction_id = one.extraction_id
            )) < clock_timestamp() - %s as is_left
        from _elt.extraction as one where source = %s and table_name = %s
    """
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        rows = cursor.execute(query, (ABANDONED_AFTER, spec.source, spec.table)).fetchall()
    for row in rows:
        if (row.is_left or is_over(row.run_id)) and discard(connection, row.extraction_id):
            log.info(
                "leftover staging dropped",
                table=spec.name,
                run_id=row.run_id,
                extraction_id=row.extraction_id,
            )


def discard(connection: Connection, extraction_id: int) -> bool:
    """Forget an extraction and drop what it staged, unless an attempt holds one of its ranges."""
    with suppress(errors.LockNotAvailable), connection.transaction():
        query = "select from _elt.extraction_range where extraction_id = %s order by number for update nowait"
        connection.execute(query, (extraction_id,))
        connection.execute("delete from _elt.extraction where extraction_id = %s", (extraction_id,))
        connection.execute(sql.SQL("drop table if exists {}").format(staging_table(extraction_id)))
        return True
    return False
