"""Extract one table: stream the rows of its window into a staging table of the warehouse."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

import structlog
from psycopg import sql
from psycopg.errors import WrongObjectType
from psycopg.rows import class_row

from include.batch import Batch, Horizon, Window
from include.buckets import WHOLE, Buckets
from include.catalog import Column, source_columns
from include.drift import Drift, examine, shape_of
from include.errors import TerminalError, TransientError
from include.extract.deletes import differing_buckets
from include.extract.rows import in_window, instant, rows_of
from include.extract.stream import Copied, copy_format, stream
from include.load import ledger
from include.sessions import Connection, identifiers, snapshot
from include.sources import TableSpec
from include.sql import statement

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Snapshot:
    """A read snapshot's place among the source's snapshots, and the source's clock when it was taken."""

    snapshot_xmax: int
    snapshot_running: int
    taken_at: datetime


def extract_table(
    source: Connection,
    warehouse: Connection,
    spec: TableSpec,
    run_id: str,
    window: Window,
    horizon: Horizon,
    watermark_before: str | None = None,
) -> Batch:
    """Stage the rows of one window, counted on both sides.

    Leaves raw, ledger and Variable as they are. May be repeated at any time: every attempt stages a table of its own.

    Args:
        source: A pinned read-only session on the source.
        warehouse: A pinned session of the loader role.
        spec: The table.
        run_id: Airflow run; stamped on the rows.
        window: What to read.
        horizon: Read before this call, never after: it has to be older than the snapshot taken here.
        watermark_before: The Variable's value that led to `window`.

    Raises:
        TerminalError: table, privilege, type or cursor is not as declared, or changed in a way that needs a person;
            nothing was written.
        TransientError, psycopg.OperationalError: a server or the network failed; trying again helps.
    """
    found = examine(source, warehouse, spec, reads_all=window.mode in ("first", "full"))
    columns, window = found.columns, _follow(warehouse, spec, found.drift, window)
    # A part of the table: what this saw of the table's shape, the next run from the watermark has to see for itself.
    shape = None if window.mode in ("window", "repair") else found.shape
    # Drawn before the snapshot: a load with a larger number may have seen newer rows, one with a smaller cannot.
    ticket = ledger.begin(warehouse, spec, run_id, shape)
    with snapshot(source):
        seen = take_snapshot(source, spec)
        if shape_of(source, spec, source_columns(source, spec)) != found.shape:
            raise TransientError(f"{spec.name}: its columns changed while it was about to be read; try again")
        _refuse_null_cursors(source, spec, columns)
        with warehouse.transaction():
            warehouse.execute(_create_staging(ticket, columns))
            copied, held = _stage(source, warehouse, spec, columns, window, ticket)
            if window.mode == "incremental":
                _warn_of_future_cursors(warehouse, spec, ticket, seen)
            ledger.hold(warehouse, spec, ticket, held)
    log.info("extracted", table=spec.name, mode=window.mode, rows=copied.rows, bytes=copied.bytes)
    return Batch(
        source=spec.source,
        table=spec.table,
        run_id=run_id,
        extraction_id=ticket.extraction_id,
        after_load_id=ticket.after_load_id,
        mode=window.mode,
        window_start=window.lower,
        window_end=window.upper,
        horizon=horizon.at,
        mark=window.mark if spec.cursor else None,
        watermark_before=watermark_before,
        snapshot_xmax=seen.snapshot_xmax,
        snapshot_running=seen.snapshot_running,
        rows_extracted=copied.rows,
        bytes_extracted=copied.bytes,
        copy_format=copied.form,
        started_at=ticket.started_at,
    )


def _stage(
    source: Connection,
    warehouse: Connection,
    spec: TableSpec,
    columns: tuple[Column, ...],
    window: Window,
    ticket: ledger.Ticket,
) -> tuple[Copied, Buckets | None]:
    """Stream the window's rows into staging, and all rows of buckets in which a row is gone; the buckets held whole."""

    def copy(where: sql.Composable) -> Copied:
        names, form = [column.name for column in columns], copy_format(column.type for column in columns)
        return stream(source, rows_of(spec, columns, where), warehouse, ticket.staging, names, form)

    wanted = in_window(spec, window)
    copied = copy(wanted)
    if window.mode in ("first", "full"):
        return copied, WHOLE
    if window.mode != "incremental" or spec.deletes == "ignore":
        return copied, window.buckets
    held = differing_buckets(source, warehouse, spec, columns, ticket.staging)
    if not held.numbers:
        return copied, None
    key = identifiers(spec.key)
    return copied + copy(sql.SQL("{} and ({}) is not true").format(held.condition(key), wanted)), held


def _follow(warehouse: Connection, spec: TableSpec, drift: Drift, window: Window) -> Window:
    """Add new enum labels, which the transaction that adds them may not use; read all where values were rewritten."""
    for each in drift.labels:
        warehouse.execute(each)  # type: ignore[arg-type]
        log.warning("enum label added", table=spec.name, statement=each)
    if drift.gone:
        log.warning("columns are gone from the source: kept in raw, NULL from now on", table=spec.name, gone=drift.gone)
    if drift.rewritten and window.mode == "incremental":
        log.warning("columns were rewritten: the table is read whole", table=spec.name, columns=drift.rewritten)
        return Window("full", None, None, window.mark)
    return window


def take_snapshot(source: Connection, spec: TableSpec) -> _Snapshot:
    """Lock the table, then take the snapshot: after it, a TRUNCATE or rewrite would make the table look empty to us.

    Has to come first in its transaction: any query before the lock, of the catalog too, would take the snapshot.
    """
    relation = sql.Identifier(spec.schema_name, spec.identifier)
    # What the server does not lock: foreign tables, and materialised views, whose refresh hides no row from us.
    with suppress(WrongObjectType), source.transaction():
        source.execute(sql.SQL("lock table {} in access share mode").format(relation))
    with source.cursor(row_factory=class_row(_Snapshot)) as cursor:
        seen = cursor.execute(statement("snapshot")).fetchone()
    assert seen is not None
    return seen


def _refuse_null_cursors(source: Connection, spec: TableSpec, columns: tuple[Column, ...]) -> None:
    nullable = {column.name for column in columns if not column.is_not_null}
    if spec.cursor not in nullable or spec.null_cursor == "always":
        return
    query = sql.SQL("select exists (select 1 from {} where {} is null)")
    relation = sql.Identifier(spec.schema_name, spec.identifier)
    row = source.execute(query.format(relation, sql.Identifier(spec.cursor))).fetchone()
    if row and row[0]:
        raise TerminalError(
            f"{spec.name}: rows with NULL in cursor {spec.cursor!r} would never be read; "
            "fill them, or set `null_cursor: always` to read them in every run"
        )


def _create_staging(ticket: ledger.Ticket, columns: tuple[Column, ...]) -> sql.Composed:
    # The type's spelling comes from format_type() of the source's catalog, already quoted.
    definitions = [sql.Identifier(c.name) + sql.SQL(" " + c.type) for c in columns]  # type: ignore[arg-type]
    return sql.SQL("create table {} ({})").format(ticket.staging, sql.SQL(", ").join(definitions))


def _warn_of_future_cursors(warehouse: Connection, spec: TableSpec, ticket: ledger.Ticket, seen: _Snapshot) -> None:
    assert spec.cursor is not None
    query = sql.SQL("select count(*) from {} where {} > {}")
    row = warehouse.execute(
        query.format(ticket.staging, sql.Identifier(spec.cursor), instant(spec, seen.taken_at))
    ).fetchone()
    if row and row[0]:
        log.warning("rows carry a cursor in the future: read again until it passes", table=spec.name, rows=row[0])
