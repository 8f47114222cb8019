"""The ledger in the warehouse: what was loaded, and which extractions are under way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import md5
from typing import Any

import structlog
from psycopg import sql
from psycopg.rows import class_row, namedtuple_row
from psycopg.types.json import Jsonb

from include.buckets import Buckets
from include.catalog import columns_of
from include.errors import TerminalError
from include.sessions import Connection
from include.sources import TableSpec
from include.sql import statement
from include.watermark import LastMark

log = structlog.get_logger(__name__)

SCHEMA = "_elt"


@dataclass(frozen=True)
class Ticket:
    """A begun extraction: its number, the newest load it follows and its begin by the warehouse's clock."""

    extraction_id: int
    after_load_id: int
    started_at: datetime

    @property
    def staging(self) -> sql.Identifier:
        """The table it stages its rows in."""
        return staging_table(self.extraction_id)


@dataclass(frozen=True)
class Gap:
    """Cursor values, `lower <= cursor < upper`, that no load in the ledger has read; None: from the beginning."""

    lower: datetime | None
    upper: datetime


def staging_table(extraction_id: int) -> sql.Identifier:
    """Staging table of an extraction; named by number, so that no source name can outgrow 63 bytes."""
    return sql.Identifier(SCHEMA, f"staging_{extraction_id}")


def lock(connection: Connection, name: str) -> None:
    """Take the warehouse-wide lock `name` until the transaction ends; waits `lock_timeout` at most."""
    connection.execute("select pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"elt:{name}",))


def ensure(connection: Connection, raw_schema: str) -> None:
    """Create the ledger and a raw schema where they are missing; bring a ledger of an earlier version up to date."""
    script = statement("create_ledger")
    made_by = f"Made by create_ledger.sql {md5(script.as_bytes(), usedforsecurity=False).hexdigest()}"
    current = (
        "select obj_description(to_regclass('_elt.extraction'), 'pg_class') = %s and to_regnamespace(%s) is not null"
    )
    row = connection.execute(current, (made_by, sql.Identifier(raw_schema).as_string())).fetchone()
    if row and row[0]:
        return
    with connection.transaction():
        lock(connection, "schema")
        for schema in (SCHEMA, raw_schema):
            row = connection.execute("select to_regnamespace(%s)", (sql.Identifier(schema).as_string(),)).fetchone()
            if row is None or row[0] is None:
                connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
        connection.execute(script)
        connection.execute(sql.SQL("comment on table _elt.extraction is {}").format(sql.Literal(made_by)))


def last_mark(connection: Connection, spec: TableSpec) -> LastMark | None:
    """The newest load of the table that moved its watermark."""
    with connection.cursor(row_factory=class_row(LastMark)) as cursor:
        return cursor.execute(statement("last_mark"), {"source": spec.source, "table": spec.table}).fetchone()


def standing_mark(connection: Connection, spec: TableSpec) -> LastMark | None:
    """The newest mark, if what it speaks of is still there: not where the raw table, or the ledger itself, is gone."""
    row = connection.execute("select to_regclass('_elt.load_ledger') is not null").fetchone()
    last = last_mark(connection, spec) if row and row[0] else None
    if last and not columns_of(connection, spec.raw_schema, spec.table):
        log.warning("the raw table is gone: everything is read again", table=spec.name)
        return None
    return last


def gaps(connection: Connection, spec: TableSpec) -> list[Gap]:
    """What lies below the watermark and was read by no load: ledger rows are lost, or a part of it was restored."""
    with connection.cursor(row_factory=class_row(Gap)) as cursor:
        return cursor.execute(statement("gaps"), {"source": spec.source, "table": spec.table}).fetchall()


def last_shape(connection: Connection, spec: TableSpec) -> dict[str, Any] | None:
    """The source table's shape as the newest load of the table from its watermark, or of the whole of it, saw it."""
    row = connection.execute(statement("last_shape"), {"source": spec.source, "table": spec.table}).fetchone()
    return row and row[0]


def begin(connection: Connection, spec: TableSpec, run_id: str, shape: dict[str, Any] | None = None) -> Ticket:
    """Draw the number of a new extraction; committed at once, before the read snapshot is taken.

    Args:
        connection: A warehouse session.
        spec: The table.
        run_id: Airflow run.
        shape: The source table's shape, which the load will put in the ledger.
    """
    with connection.cursor(row_factory=class_row(Ticket)) as cursor:
        values = {
            "source": spec.source,
            "table": spec.table,
            "run_id": run_id,
            "shape": Jsonb(shape) if shape else None,
        }
        ticket = cursor.execute(statement("begin_extraction"), values).fetchone()
    assert ticket is not None
    return ticket


def hold(connection: Connection, spec: TableSpec, ticket: Ticket, buckets: Buckets | None) -> None:
    """Note which buckets are staged whole, and hold the extraction's row until the transaction ends.

    Raises:
        TerminalError: a later attempt has discarded this one meanwhile; what it staged must not be committed.
    """
    query = "update _elt.extraction set bucket_count = %s, buckets = %s where extraction_id = %s"
    held = (buckets.count, list(buckets.numbers)) if buckets else (None, None)
    if connection.execute(query, (*held, ticket.extraction_id)).rowcount == 0:
        raise TerminalError(f"{spec.name}: a later attempt has taken over; this one stops without a change")


def held_buckets(connection: Connection, extraction_id: int) -> Buckets | None:
    """The buckets of which an extraction staged every row."""
    query = "select bucket_count, buckets from _elt.extraction where extraction_id = %s"
    row = connection.execute(query, (extraction_id,)).fetchone()
    return Buckets(row[0], tuple(row[1])) if row and row[0] else None


def discard_leftovers(connection: Connection, spec: TableSpec, is_over: Callable[[str], bool]) -> None:
    """Drop what dead attempts at this table staged.

    Args:
        connection: A warehouse session.
        spec: The table.
        is_over: Whether a run id can no longer load what it staged.
    """
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        rows = cursor.execute(
            "select extraction_id, run_id from _elt.extraction where source = %s and table_name = %s",
            (spec.source, spec.table),
        ).fetchall()
    for row in rows:
        if is_over(row.run_id):
            discard(connection, row.extraction_id)
            log.info(
                "leftover staging dropped",
                table=spec.name,
                run_id=row.run_id,
                extraction_id=row.extraction_id,
            )


def discard(connection: Connection, extraction_id: int) -> None:
    """Forget an extraction and drop what it staged."""
    with connection.transaction():
        # First the row: an attempt that is about to commit holds it, and its table is then there to be dropped.
        connection.execute("delete from _elt.extraction where extraction_id = %s", (extraction_id,))
        connection.execute(sql.SQL("drop table if exists {}").format(staging_table(extraction_id)))


def mark_published(connection: Connection, spec: TableSpec) -> None:
    """Note that the Variable now shows the ledger's mark: a lower value seen later is a person's edit."""
    connection.execute(
        "update _elt.load_ledger set watermark_published_at = clock_timestamp() "
        "where source = %s and table_name = %s and mark is not null and watermark_published_at is null",
        (spec.source, spec.table),
    )
