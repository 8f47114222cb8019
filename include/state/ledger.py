"""The ledger in the warehouse: what was loaded, and how far."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import md5
from typing import Any

import structlog
from psycopg import sql
from psycopg.rows import class_row

from include.catalog import columns_of
from include.errors import TerminalError
from include.sessions import Connection
from include.sources import TableSpec
from include.sql import statement
from include.watermark import LastMark

log = structlog.get_logger(__name__)

SCHEMA = "_elt"

OLDEST_VERSION = 150_000


@dataclass(frozen=True)
class Gap:
    """Cursor values, `lower <= cursor < upper`, that no load in the ledger has read; None: from the beginning."""

    lower: datetime | None
    upper: datetime


def lock(connection: Connection, name: str) -> None:
    """Take the warehouse-wide lock `name` until the transaction ends; waits `lock_timeout` at most.

    From here on nothing is waited for but the warehouse: a holder that is frozen loses its session after five minutes.
    """
    query = """
        select pg_advisory_xact_lock(hashtextextended(%s, 0)),
            set_config('idle_in_transaction_session_timeout', '5min', true)"""
    connection.execute(query, (f"elt:{name}",))


def ensure(connection: Connection, raw_schema: str) -> None:
    """Create the ledger and a raw schema where they are missing; bring a ledger of an earlier version up to date.

    Raises:
        TerminalError: the warehouse is older than PostgreSQL 15, the first with MERGE.
    """
    if connection.info.server_version < OLDEST_VERSION:
        version = connection.info.parameter_status("server_version")
        raise TerminalError(f"the warehouse is PostgreSQL {version}; 15 or later is needed")
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


def of_the_source(connection: Connection, spec: TableSpec, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some columns of raw that a load has brought; the others a person added, and they stay as they are."""
    if not columns:
        return ()
    query = """
        select column_name from unnest(%s::text[]) as column_name
        where exists (
            select from _elt.load_ledger
            where source = %s and table_name = %s and source_shape -> 'columns' ? column_name
        )"""
    rows = connection.execute(query, (list(columns), spec.source, spec.table)).fetchall()
    return tuple(name for (name,) in rows)


def mark_published(connection: Connection, spec: TableSpec) -> None:
    """Note that the Variable now shows the ledger's mark: a lower value seen later is a person's edit."""
    connection.execute(
        "update _elt.load_ledger set watermark_published_at = clock_timestamp() "
        "where source = %s and table_name = %s and mark is not null and watermark_published_at is null",
        (spec.source, spec.table),
    )
