"""Publish a staged batch: raw and ledger change in one transaction, or not at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

import structlog
from psycopg import Error, IntegrityError, errors, sql
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from include.errors import DriftError, TerminalError
from include.load import personal
from include.load.merge import SMALL_SHARE, Counts, Load, refuse_known_keys, replace_all, soft_delete, upsert
from include.postgres.catalog import Column, columns_of, estimated_rows, not_unique, owned, raw_columns
from include.postgres.sessions import Connection, identifiers, relation_text
from include.retries import is_final
from include.schema.drift import Drift, add_column, change_type, compare, refuse_other_key, views_on
from include.sources import TableSpec
from include.sql import statement
from include.state import extractions, ledger, lineage
from include.state.messages import Batch, LoadResult, digest
from include.state.precedence import OtherLoad, newer_loads, overlapping_loads

log = structlog.get_logger(__name__)

ANALYZE_FROM_ROWS = 10_000
"""Changed rows from which the planner's statistics are refreshed at once: dbt reads the table next."""


def load_batch(connection: Connection, spec: TableSpec, *parts: Batch) -> LoadResult:
    """Publish a staged batch in raw and record it in the ledger, in one transaction.

    Repeating it is harmless: a batch that the ledger already holds is not applied again. Readers see raw before or
    after the load, never between. A row that a newer snapshot already brought is left as it is.

    Args:
        connection: A pinned session of the loader role.
        spec: The table.
        parts: From `extract_part`, one for each range; where the table was cut again, the newest extraction counts.

    Raises:
        TerminalError: the key is not unique or NULL, an append table's is used again, the batch is not staged in all
            its parts, or a later attempt of the same run already loaded the table.
        psycopg.OperationalError: server, network or lock time-out; trying again helps.
    """
    extraction = max(part.extraction_id for part in parts)
    parts = tuple(sorted((part for part in parts if part.extraction_id == extraction), key=lambda part: part.place))
    rows, size = (sum(getattr(part, name) for part in parts) for name in ("rows_extracted", "bytes_extracted"))
    staged_at = max(part.staged_at for part in parts)
    server, is_of_one_server = lineage.server_of_parts([part.server for part in parts])
    lost_since = min((part.lost_since for part in parts if part.lost_since), default=None)
    batch = replace(
        parts[0],
        rows_extracted=rows,
        bytes_extracted=size,
        staged_at=staged_at,
        server=server,
        lost=next((part.lost for part in parts if part.lost), None),
        lost_since=lost_since,
    )
    with _readable_key_errors(spec), connection.transaction():
        ledger.lock(connection, spec.name)
        earlier = _find_load(connection, batch)
        if earlier:
            log.info("this batch was loaded before: nothing to do", table=spec.name)
            return earlier
        _refuse_another_entry(spec, batch)
        others = overlapping_loads(connection, spec, batch)
        newer = newer_loads(spec, batch, others)
        is_of_one_server = is_of_one_server and lineage.stays_one(connection, spec, batch, others)
        if newer:
            extractions.forget_shape(connection, batch)
        columns = _staged_columns(connection, spec, parts)
        load = Load(spec, batch, parts[-1], columns, _next_loaded_at(connection, spec))
        raw = _hold_raw(connection, spec)
        if raw and any(other.covers(batch) for other in newer):
            log.info("a newer load has read all that this one did: nothing to add", table=spec.name)
            connection.execute(sql.SQL("drop table {}").format(load.staging))
            counts = Counts()
        elif raw:
            if batch.mode != "repair":  # which reads all that it has not found
                _refuse_a_part_as_the_whole(connection, load, [])
            counts = _merge(connection, load, raw, [other.loaded_at for other in newer])
        else:
            _refuse_a_part_as_the_whole(connection, load, newer)
            counts = _adopt(connection, load)
        _record(connection, load, counts, is_of_one_server)
    if batch.lost:
        log.warning(
            "raw is what the source has, after it may have lost rows", table=spec.name, why=batch.lost, **vars(counts)
        )
    if counts.inserted + counts.updated >= ANALYZE_FROM_ROWS:
        _analyze(connection, load, counts.inserted + counts.updated)
    result = _find_load(connection, batch)
    assert result is not None
    log.info("loaded", **result.to_json())
    return result


def _refuse_another_entry(spec: TableSpec, batch: Batch) -> None:
    if batch.entry != digest(spec.reading):
        raise TerminalError(
            f"{spec.name}: its source entry changed after this was read; clear the table's {spec.first_task} task, "
            "which reads it again"
        )


def _find_load(connection: Connection, batch: Batch) -> LoadResult | None:
    with connection.cursor(row_factory=class_row(LoadResult)) as cursor:
        return cursor.execute(statement("find_load"), vars(batch)).fetchone()


def _staged_columns(connection: Connection, spec: TableSpec, parts: Sequence[Batch]) -> tuple[Column, ...]:
    """Columns of the staging table, if every part is in it. What is noted of a part is as durable as its rows."""
    columns = columns_of(connection, ledger.SCHEMA, f"staging_{parts[0].extraction_id}")
    staged = extractions.staged_rows(connection, parts[0])
    if not columns or staged != {part.number: part.rows_extracted for part in parts}:
        total, wanted = sum(filter(None, staged.values())), sum(part.rows_extracted for part in parts)
        found = f"{total} of {wanted} rows" if columns and staged else "nothing"
        raise TerminalError(
            f"{spec.name}: {found} staged for run {parts[0].run_id}; "
            f"clear the table's {spec.first_task} task, which reads it again"
        )
    return columns


def _hold_raw(connection: Connection, spec: TableSpec) -> tuple[Column, ...]:
    """The raw table's columns, in a table to which nobody attaches code until the load is over."""
    if raw_columns(connection, spec):
        hold = sql.SQL("lock table {} in row exclusive mode").format(sql.Identifier(spec.raw_schema, spec.table))
        with owned(connection, spec):
            connection.execute(hold)
    return raw_columns(connection, spec)


def _next_loaded_at(connection: Connection, spec: TableSpec) -> datetime:
    row = connection.execute(statement("next_loaded_at"), {"source": spec.source, "table": spec.table}).fetchone()
    assert row is not None
    return row[0]


def _refuse_a_part_as_the_whole(connection: Connection, load: Load, newer: list[OtherLoad]) -> None:
    """Raw's rows are gone, but the ledger says they were loaded: fewer must not take their place under that mark."""
    if (load.batch.window.reads_all and not newer) or ledger.holds_rows(connection, load.spec):
        return
    if load.batch.mode == "repair" or ledger.last_mark(connection, load.spec):
        raise TerminalError(
            f"{load.spec.name}: {load.spec.raw_schema}.{load.spec.table} was dropped or emptied after this was read; "
            f"clear the table's {load.spec.first_task} task: without rows in raw it reads everything"
        )


def _adopt(connection: Connection, load: Load) -> Counts:
    """First load: the staging table itself becomes raw.

    The key is built after the rows, and the three columns are added with constant defaults, which the catalog keeps:
    no row is written a second time.
    """
    stamp = sql.SQL(
        "alter table {staging} add column _loaded_at timestamptz not null default {loaded_at}, "
        "add column _run_id text not null default {run_id}, add column _deleted_at timestamptz"
    )
    values = {"loaded_at": sql.Literal(load.loaded_at), "run_id": sql.Literal(load.batch.run_id)}
    connection.execute(stamp.format(staging=load.staging, **values))
    defaults = sql.SQL("alter table {} alter _loaded_at drop default, alter _run_id drop default")
    connection.execute(defaults.format(load.staging))
    schema, name = sql.Identifier(load.spec.raw_schema), sql.Identifier(load.spec.table)
    connection.execute(sql.SQL("alter table {} set schema {}").format(load.staging, schema))
    moved = sql.Identifier(load.spec.raw_schema, f"staging_{load.batch.extraction_id}")
    connection.execute(sql.SQL("alter table {} rename to {}").format(moved, name))
    relation = relation_text(load.spec.raw_schema, load.spec.table)
    for (granted,) in connection.execute(statement("default_grants"), {"relation": relation}).fetchall():
        connection.execute(granted)
    if load.spec.key:
        connection.execute(statement("memory_for_key"))
        key = sql.SQL("alter table {} add primary key ({})")
        connection.execute(key.format(load.raw, identifiers(load.spec.key)))
    return Counts(inserted=load.batch.rows_extracted)


def _merge(connection: Connection, load: Load, raw: tuple[Column, ...], newer: list[datetime]) -> Counts:
    """Bring raw to what the batch shows, changing only rows that differ."""
    refuse_other_key(load.spec, raw)
    names = [column.name for column in raw]
    personal.note_clear_values(connection, load, names)
    _evolve(connection, load.spec, _drift_since_the_look(connection, load, raw))
    if load.spec.mode == "append" and load.batch.mode in ("incremental", "window") and not load.batch.lost:
        refuse_known_keys(connection, load, newer, ledger.later_columns(connection, load.spec, load.names))
    if load.spec.key:
        counts = upsert(connection, load, newer)
        held = extractions.held_buckets(connection, load.batch.extraction_id)
        if held and (load.spec.deletes == "soft" or load.batch.lost_since):
            counts = replace(counts, deleted=soft_delete(connection, load, held, newer))
    else:
        counts = replace_all(connection, load)
    connection.execute(sql.SQL("drop table {}").format(load.staging))
    if cleared := personal.clear(connection, load, names, newer):
        log.warning("columns that the entry closes were emptied in older rows", table=load.spec.name, rows=cleared)
    return counts


def _drift_since_the_look(connection: Connection, load: Load, raw: tuple[Column, ...]) -> Drift:
    """What raw needs, if nothing became of raw since the extraction looked at it that the look would have stopped at.

    A column that raw has lost since was renamed: the batch would add its old name, and empty the new one.
    """
    spec, batch = load.spec, load.batch
    try:
        drift = compare(connection, spec, load.columns, raw)
    except DriftError:
        lost = ["a type"]
    else:
        lost = [] if batch.added is None else [each.name for each in drift.added if each.name not in batch.added]
    if lost:
        raise TerminalError(
            f"{spec.name}: raw's columns changed after this was read ({', '.join(lost)}); "
            f"clear the table's {spec.first_task} task, which reads it again"
        )
    return replace(drift, defaults=batch.defaults)


def _evolve(connection: Connection, spec: TableSpec, drift: Drift) -> None:
    """Change raw so that the staged rows fit, in the load's own transaction."""
    for column in drift.added:
        connection.execute(add_column(spec, column, drift.defaults.get(column.name)))
        held = drift.older_rows_hold(column)
        log.warning("column added to raw", table=spec.name, column=column.name, older_rows_hold=held)
    below_views = [column.name for column in drift.widened if views_on(connection, spec, column)[0]]
    if below_views:
        relation = relation_text(spec.raw_schema, spec.table)
        connection.execute("select _elt.lift_views(%s::regclass, %s)", (relation, below_views))
    for column in drift.widened:
        connection.execute(change_type(spec, column))
        log.warning("column widened", table=spec.name, column=column.name, type=column.type)
    if below_views:
        connection.execute("select _elt.put_views_back()")


def _analyze(connection: Connection, load: Load, changed: int) -> None:
    """Refresh the planner's statistics; where little changed, those alone by which dbt tells new rows from old."""
    columns = sql.SQL("")
    with connection.transaction():
        if changed < SMALL_SHARE * estimated_rows(connection, sql.SQL("select from {}").format(load.raw)):
            connection.execute("set local default_statistics_target = 10")  # a sample of 3,000 rows
            told_by = ["_loaded_at", *(name for name in load.names if name == load.spec.cursor)]
            columns = sql.SQL("({})").format(identifiers(told_by))  # type: ignore[assignment]
        connection.execute(sql.SQL("analyze {} {}").format(load.raw, columns))


def _record(connection: Connection, load: Load, counts: Counts, is_of_one_server: bool) -> None:
    last = ledger.last_mark(connection, load.spec) if load.batch.mark else None
    values = {
        **vars(load.batch),
        "oldest_xmax": load.batch.snapshot_xmax,
        "oldest_running": load.batch.snapshot_running,
        "snapshot_xmax": load.newest.snapshot_xmax,
        "snapshot_running": load.newest.snapshot_running,
        "mark": max(load.batch.mark, last.mark) if load.batch.mark and last else load.batch.mark,
        "rows_inserted": counts.inserted,
        "rows_updated": counts.updated,
        "rows_deleted": counts.deleted,
        "loaded_at": load.loaded_at,
        "source_server": load.batch.server and Jsonb(vars(load.batch.server)),
        "is_of_one_server": is_of_one_server,
    }
    connection.execute(statement("record_load"), values)
    connection.execute("delete from _elt.extraction where extraction_id = %s", (load.batch.extraction_id,))


@contextmanager
def _readable_key_errors(spec: TableSpec) -> Iterator[None]:
    try:
        yield
    except errors.UndefinedObject as error:
        raise TerminalError(
            f"{spec.name}: key {list(spec.key)} cannot be indexed ({error.diag.message_primary}); "
            "declare one of other columns, or `mode: full` without a key"
        ) from error
    except (IntegrityError, errors.CardinalityViolation) as error:
        if not is_final(error):
            raise
        raise _of_rows(spec, error) from error


def _of_rows(spec: TableSpec, error: Error) -> TerminalError:
    """What to do about rows that raw cannot hold, for their key or for what a person forbade; shows keys, no rows."""
    name, column = error.diag.constraint_name or "", error.diag.column_name
    is_twice = isinstance(error, errors.UniqueViolation)
    if column in spec.key:
        return TerminalError(f"{spec.name}: key column {column!r} holds NULL; declare a key without NULLs")
    if isinstance(error, errors.CardinalityViolation) or is_twice and re.search(r"_pkey\d*$", name):
        return not_unique(spec, error.diag.message_detail or error.diag.message_primary or "")
    table, index = (sql.Identifier(spec.raw_schema, each).as_string() for each in (spec.table, name))
    quoted = sql.Identifier(column or name).as_string()
    by = f"alter column {quoted} drop not null" if column else f"drop constraint {quoted}"
    return TerminalError(
        f"{spec.name}: raw takes whatever the source has, and somebody forbade it this: {error.diag.message_primary}; "
        f"run in the warehouse: alter table {table} {by}{f' (or: drop index {index})' * is_twice}, then clear this task"
    )
