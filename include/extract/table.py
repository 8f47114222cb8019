"""Extract one table, whole or in ranges: stream the rows of its window into a staging table of the warehouse."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, InvalidSchemaName, UndefinedFunction, UndefinedTable
from psycopg.rows import dict_row

from include.errors import DriftError, TerminalError, TransientError
from include.extract.deletes import differing_buckets
from include.extract.ranges import find_bounds, in_range
from include.extract.stream import Copied, copy_format, stream
from include.postgres.buckets import WHOLE, Buckets
from include.postgres.catalog import Column, check_types, not_unique, raw_columns, same_key, source_columns
from include.postgres.server import Server, expect, is_durable, server_of
from include.postgres.sessions import Connection, identifiers, lock_table, relation_text, snapshot
from include.schema.drift import Drift, examine
from include.schema.proof import unproven
from include.schema.rows import in_window, instant, rows_of
from include.schema.shape import fixed, shape_of
from include.sources import TableSpec
from include.sql import statement
from include.state import extractions
from include.state.lineage import Loss, find_loss
from include.state.messages import Batch, Horizon, Part, Staged, Window, digest, to_text

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Snapshot:
    """A read snapshot's place among the source's snapshots, the source's clock when it was taken, and the source."""

    snapshot_xmax: int
    snapshot_running: int
    taken_at: datetime
    server: Server


@dataclass(frozen=True)
class Request:
    """What a run asks of a table.

    Attributes:
        run_id: Airflow run; stamped on the rows.
        window: What to read.
        horizon: Read before the extraction begins, never after: it has to be older than the snapshots that rows are
            read in.
        watermark_before: The Variable's value that led to `window`.
    """

    spec: TableSpec
    run_id: str
    window: Window
    horizon: Horizon
    watermark_before: str | None = None


def extract_table(source: Connection, warehouse: Connection, request: Request) -> Batch:
    """Stage the rows of one window, counted on both sides, of a table that is not cut into ranges.

    Leaves raw, ledger and Variable as they are. May be repeated at any time: every attempt stages a table of its own.
    Arguments as for `begin_extraction`, errors as of it and of `extract_part`.
    """
    [part] = begin_extraction(source, warehouse, request)
    return extract_part(source, warehouse, request.spec, part, request.window.buckets)


def begin_extraction(source: Connection, warehouse: Connection, request: Request) -> list[Part]:
    """Look at the table, and decide what is read: all of the window, or ranges of a large table that is read whole.

    Args:
        source: A pinned read-only session on the source.
        warehouse: A pinned session of the loader role.
        request: What is asked; more is read where the cursor does not show what changed.

    Raises:
        TerminalError: table, privilege, type or cursor is not as declared, or changed in a way that needs a person;
            nothing was written.
        TransientError: the session is on a standby, or on another server than the horizon's.
        psycopg.OperationalError: a server or the network failed; trying again helps.
    """
    spec = request.spec
    with source.transaction():
        # Where there is no such table, or no right to it, `examine` says so better.
        with suppress(UndefinedTable, InvalidSchemaName, InsufficientPrivilege):
            lock_table(source, spec.schema_name, spec.identifier)
        server = expect(server_of(source), request.horizon.server, spec.source)
        loss = find_loss(warehouse, spec, server)
        found = examine(source, warehouse, spec, request.window, loss)
        _follow(warehouse, spec, found.drift)
        # Every row is compared, in all columns.
        window = request.window if loss else found.drift.follow(request.window)
        bounds = find_bounds(source, spec, found.columns) if window.reads_all else []
    # A part of the table: what this saw of the table's shape, the next run from the watermark has to see for itself.
    shape = None if window.mode in ("window", "repair") else found.shape
    with warehouse.transaction():
        # Drawn before the snapshots: a load with a larger number may have seen newer rows, one with a smaller cannot.
        ticket = extractions.begin(warehouse, spec, request.run_id, shape, bounds)
        if bounds:
            warehouse.execute(_create_staging(ticket.extraction_id, spec, found.columns))
    first = Part(
        source=spec.source,
        table=spec.table,
        run_id=request.run_id,
        extraction_id=ticket.extraction_id,
        after_load_id=ticket.after_load_id,
        mode=window.mode,
        window_start=window.lower,
        window_end=window.upper,
        horizon=request.horizon.at,
        mark=_mark(spec, request, window, ticket.started_at) if spec.cursor else None,
        watermark_before=request.watermark_before,
        started_at=ticket.started_at,
        shape=fixed(found.shape),
        entry=digest(spec.reading),
        added=tuple(column.name for column in found.drift.added) if found.has_raw else None,
        defaults=dict(found.drift.defaults),
        number=0,
        ranges=len(bounds) + 1,
        begun_on=request.horizon.server,
    )
    return [replace(first, number=number) for number in range(first.ranges)]


def extract_part(
    source: Connection, warehouse: Connection, spec: TableSpec, part: Part, buckets: Buckets | None = None
) -> Batch:
    """Stage the rows of one part in a snapshot of its own, counted on both sides.

    May be repeated at any time: where an earlier attempt has staged the part, its answer is given again.

    Args:
        source: A pinned read-only session on the source.
        warehouse: A pinned session of the loader role.
        spec: The table.
        part: From `begin_extraction`.
        buckets: What a repair reads instead of a window.

    Raises:
        TerminalError: the extraction is over, or a cut table is no longer what it was; begin it again.
        TransientError, psycopg.OperationalError: a server or the network failed, or another attempt is at this part;
            trying again helps.
    """
    with warehouse.transaction():
        bounds, staged = extractions.claim(warehouse, spec, part)
        if staged is None:
            with snapshot(source):
                window = replace(part.window, buckets=buckets)
                staged, held = _stage_part(source, warehouse, spec, part, window, bounds)
            extractions.record(warehouse, part, staged, held)
    where = f"range {part.number + 1} of {part.ranges}" if part.ranges > 1 else "all"
    log.info("extracted", table=spec.name, mode=part.mode, of=where, rows=staged.rows_extracted)
    return Batch(**vars(part), **vars(staged))


def _stage_part(
    source: Connection,
    warehouse: Connection,
    spec: TableSpec,
    part: Part,
    window: Window,
    bounds: extractions.Bounds,
) -> tuple[Staged, Buckets | None]:
    """Stream the part's rows into staging; what was staged, and the buckets held whole."""
    seen = take_snapshot(source, spec, part.begun_on)
    loss = find_loss(warehouse, spec, seen.server) if window.mode != "repair" else None
    columns = source_columns(source, spec)
    names, form = [column.name for column in columns], copy_format(column.type for column in columns)
    if check_types(source, warehouse, spec, columns, {}) or fixed(shape_of(source, spec, columns)) != part.shape:
        problem = f"{spec.name}: its columns or the labels of their types changed while it was about to be read"
        if spec.rows_per_range:
            raise TerminalError(f"{problem}; clear the table's {spec.first_task} task, which looks at it again")
        raise TransientError(f"{problem}; try again")
    range_ = in_range(spec, columns, *bounds)
    _refuse_null_cursors(source, spec, columns, range_)
    if part.ranges == 1:
        warehouse.execute(_create_staging(part.extraction_id, spec, columns))
    staging = extractions.staging_table(part.extraction_id)

    def copy(where: sql.Composable) -> Copied:
        rows = rows_of(spec, columns, where)
        return stream(source, rows, warehouse, staging, names, form, freeze=part.ranges == 1)

    wanted = sql.SQL("{} and {}").format(in_window(spec, window), range_)
    copied, held = copy(wanted), window.buckets
    if window.reads_all:
        held = WHOLE
    elif window.mode == "incremental" and (loss or spec.deletes == "soft"):
        is_unproven = unproven(source, spec.schema_name, spec.identifier, spec.cursor)
        content = names if loss or is_unproven else [*spec.key, spec.cursor or ""]
        differing = differing_buckets(source, warehouse, spec, columns, content, staging)
        if differing.numbers:
            held = differing
            copied += copy(sql.SQL("{} and ({}) is not true").format(held.condition(identifiers(spec.key)), wanted))
    if spec.key:
        is_compared = held is not None or (window.mode == "incremental" and spec.deletes == "soft")
        _refuse_key_twice(source, warehouse, spec, staging, None if is_compared else rows_of(spec, columns))
    if window.mode == "incremental":
        _warn_of_future_cursors(warehouse, spec, staging, seen)
    staged = Staged(
        seen.snapshot_xmax,
        seen.snapshot_running,
        copied.rows,
        copied.bytes,
        form,
        _now(warehouse),
        server=replace(seen.server, is_durable=is_durable(source, seen.server)),
    )
    if not loss or window.mode == "window":
        return staged, held
    _say_loss(spec, loss, copied.rows)
    return replace(staged, lost=loss.what, lost_since=loss.since), held


def _say_loss(spec: TableSpec, loss: Loss, rows: int) -> None:
    log.warning(
        "the source may have lost what was loaded: every row is compared",
        table=spec.name,
        why=loss.what,
        rows_read=rows,
    )


def _follow(warehouse: Connection, spec: TableSpec, drift: Drift) -> None:
    """Say what changed; add new enum labels, which the transaction that adds them may not use."""
    for each in drift.labels:
        try:
            warehouse.execute(each)
        except InsufficientPrivilege as error:
            labels = "; ".join(drift.labels)
            raise DriftError(
                f"{spec.name}: an enum has labels that the loader may not add ({error.diag.message_primary}); "
                f"run in the warehouse: {labels}, then clear this task"
            ) from error
        log.warning("enum label added", table=spec.name, statement=each)
    if drift.gone:
        log.warning("columns are gone from the source: raw keeps their last values", table=spec.name, gone=drift.gone)
    if drift.unseen:
        log.warning(
            "the cursor does not show what changed: a run from the watermark reads all",
            table=spec.name,
            changed=drift.unseen,
        )


def _mark(spec: TableSpec, request: Request, window: Window, now: datetime) -> datetime | None:
    """The window's mark, but no later than the warehouse's clock `now`: the source's may be ahead, and corrected."""
    if request.horizon.read_at - now > spec.overlap:
        log.warning(
            "the source's clock is ahead of the warehouse's, which the watermark does not pass",
            table=spec.name,
            source=to_text(request.horizon.read_at),
            warehouse=to_text(now),
        )
    return window.mark and min(window.mark, now)


def take_snapshot(source: Connection, spec: TableSpec, begun_on: Server | None = None) -> _Snapshot:
    """Lock the table, then take the snapshot; has to come first in its transaction.

    Raises:
        TransientError: the session is on a standby, or on another server than the run began on.
    """
    lock_table(source, spec.schema_name, spec.identifier)
    with source.cursor(row_factory=dict_row) as cursor:
        seen = cursor.execute(statement("snapshot")).fetchone()
    assert seen is not None
    return _Snapshot(**seen, server=expect(server_of(source), begun_on, spec.source))


def _refuse_null_cursors(
    source: Connection, spec: TableSpec, columns: tuple[Column, ...], where: sql.Composable
) -> None:
    nullable = {column.name for column in columns if not column.is_not_null}
    if spec.cursor not in nullable or spec.reads_null_cursors:
        return
    query = sql.SQL("select exists ({})")
    is_null = sql.SQL("{} is null and {}").format(sql.Identifier(spec.cursor), where)
    row = source.execute(query.format(rows_of(spec, columns, is_null))).fetchone()
    if row and row[0]:
        raise TerminalError(
            f"{spec.name}: rows with NULL in cursor {spec.cursor!r} would never be read; "
            "fill them, or set `null_cursor: always` to read them in every run"
        )


def _refuse_key_twice(
    source: Connection, warehouse: Connection, spec: TableSpec, staging: sql.Identifier, rows: sql.Composable | None
) -> None:
    """One of two rows with one key would be lost. Where the source's own index excludes it, nothing is looked at.

    Args:
        rows: The source's rows, if some that are not staged may have the key of one that is: asked where a staged row
            is to replace one of raw's, which it need not be a later version of.
    """
    values = {"relation": relation_text(spec.schema_name, spec.identifier), "key": list(spec.key)}
    row = source.execute(statement("is_unique"), values).fetchone()
    if row and row[0]:
        return
    query = sql.SQL("select row({key})::text from {rows} as one group by {key} having count(*) > 1 limit 1")
    twice = None
    with suppress(UndefinedFunction), warehouse.transaction():  # no such key can be indexed, as the load will say
        twice = warehouse.execute(query.format(key=identifiers(spec.key), rows=staging)).fetchone()
        if not twice and rows is not None and _replaces(warehouse, spec, staging):
            counted = sql.SQL("({})").format(rows)
            twice = source.execute(query.format(key=identifiers(spec.key), rows=counted)).fetchone()
    if twice:
        raise not_unique(spec, f"several rows have {twice[0]}")


def _replaces(warehouse: Connection, spec: TableSpec, staging: sql.Identifier) -> bool:
    """Whether a staged row has the key of a row of raw, and another cursor."""
    if not raw_columns(warehouse, spec):
        return False
    query = sql.SQL(
        "select exists (select from {} as new inner join {} as old on {} "
        "where old.{cursor} is distinct from new.{cursor})"
    )
    raw, cursor = sql.Identifier(spec.raw_schema, spec.table), sql.Identifier(spec.cursor or "")
    row = warehouse.execute(query.format(staging, raw, same_key(warehouse, spec), cursor=cursor)).fetchone()
    return bool(row and row[0])


def _create_staging(extraction_id: int, spec: TableSpec, columns: tuple[Column, ...]) -> sql.Composed:
    # The type's spelling comes from format_type() of the source's catalog, already quoted.
    definitions = [sql.Identifier(c.name) + sql.SQL(" " + c.type) for c in columns]
    for number, column in enumerate(columns):
        if column.name in spec.key and column.is_not_null:
            # Or the key of a first load would read the whole table once more, to see that there is no NULL.
            definitions[number] += sql.SQL(" not null")
    # A first load's staging table becomes raw: a page with room for a row's next version spares the key a new entry.
    query = sql.SQL("create table {} ({}) with (fillfactor = 95)")
    return query.format(extractions.staging_table(extraction_id), sql.SQL(", ").join(definitions))


def _warn_of_future_cursors(warehouse: Connection, spec: TableSpec, staging: sql.Identifier, seen: _Snapshot) -> None:
    assert spec.cursor is not None
    query = sql.SQL("select count(*) from {} where {} > {}")
    row = warehouse.execute(query.format(staging, sql.Identifier(spec.cursor), instant(spec, seen.taken_at))).fetchone()
    if row and row[0]:
        log.warning("rows carry a cursor in the future: read again until it passes", table=spec.name, rows=row[0])


def _now(connection: Connection) -> datetime:
    row = connection.execute("select clock_timestamp()").fetchone()
    assert row is not None
    return row[0]
