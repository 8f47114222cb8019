"""Drift: how a source table changed since its last load, and what raw needs for it; decided before any write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import structlog
from psycopg import sql

from include.batch import Window
from include.catalog import (
    Column,
    check_types,
    raw_columns,
    refuse_cursor_of_elsewhere,
    relation_of,
    source_columns,
)
from include.errors import DriftError
from include.sessions import Connection, relation_text
from include.sources import LOADED_COLUMNS, TableSpec
from include.sql import statement
from include.state import ledger

log = structlog.get_logger(__name__)

WIDER = {
    "smallint": {"integer", "bigint", "numeric"},
    "integer": {"bigint", "numeric"},
    "bigint": {"numeric"},
    "real": {"double precision"},
    "character varying": {"text"},
    "text": {"character varying"},
    "bpchar": {"character varying", "text"},
    "date": {"timestamp without time zone"},
}
"""Types that hold every value of another, and to which both servers convert it alike."""

ENTRY = ("key", "cursor", "cursor_zone", "mode", "columns")
"""What of a source entry decides which rows an incremental run has read so far, and as what."""


@dataclass(frozen=True)
class Drift:
    """What has to happen in the warehouse before the source's rows fit.

    Attributes:
        added: Columns that raw lacks.
        widened: Columns, of their new type, whose type in raw is too narrow.
        gone: Columns of raw that the source no longer has: kept, NULL from now on.
        labels: Statements that add new enum labels.
        unseen: What changed without the rows' cursors, as sentences: the table is read whole.
    """

    added: tuple[Column, ...] = ()
    widened: tuple[Column, ...] = ()
    gone: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()

    def statements(self, spec: TableSpec) -> list[str]:
        """The DDL that a run executes in the warehouse."""
        columns = [add_column(spec, column) for column in self.added]
        columns += [change_type(spec, column) for column in self.widened]
        return [*self.labels, *(each.as_string() for each in columns)]

    def follow(self, window: Window) -> Window:
        """The window, or all of the table where the cursor does not show what changed."""
        return Window("full", None, None, window.mark) if self.unseen and window.mode == "incremental" else window


@dataclass(frozen=True)
class Examined:
    """A source table that can be extracted: its columns, its shape for the ledger, and its drift if there is raw."""

    columns: tuple[Column, ...]
    shape: dict[str, Any]
    drift: Drift
    has_raw: bool


def examine(source: Connection, warehouse: Connection, spec: TableSpec, *, reads_all: bool) -> Examined:
    """Look at the source table, its raw table and what the ledger remembers; changes nothing.

    Args:
        source: A pinned session on the source.
        warehouse: A pinned session of the loader role, on a warehouse that has the ledger.
        spec: The table.
        reads_all: Whether every row is about to be read; a table that was created again then is none to stop at.

    Raises:
        ConfigError, TerminalError: the table is not as declared, or the warehouse lacks a type.
        DriftError: it changed in a way that needs a person; carries the statement or command to run.
    """
    columns = source_columns(source, spec)
    refuse_cursor_of_elsewhere(source, spec)
    shape = shape_of(source, spec, columns)
    labels = check_types(source, warehouse, spec, columns)
    raw = raw_columns(warehouse, spec)
    drift = Drift(labels=tuple(each for statements in labels.values() for each in statements))
    if raw:
        last = ledger.last_shape(warehouse, spec)
        if last:
            _refuse_new_identity(spec, last, shape, raw, reads_all)
        _refuse_other_key(spec, raw)
        found = compare(spec, columns, raw)
        drift = replace(found, labels=drift.labels, unseen=_unseen(last, shape, raw) if last and not reads_all else ())
        _refuse_blocked(warehouse, spec, drift)
        if spec.drift == "freeze":
            _refuse_any(spec, last, shape, drift)
    return Examined(columns, shape, drift, bool(raw))


def shape_of(source: Connection, spec: TableSpec, columns: tuple[Column, ...]) -> dict[str, Any]:
    """What the ledger keeps of a source table, as JSON."""
    relation = relation_of(source, spec)
    described = {column.name: [column.number, column.declared_type, column.is_not_null] for column in columns}
    entry = spec.model_dump(mode="json", include=set(ENTRY))
    return {"oid": relation and relation[0], "columns": described, "entry": entry}


def compare(spec: TableSpec, columns: tuple[Column, ...], raw: tuple[Column, ...]) -> Drift:
    """What raw needs before these columns fit.

    Raises:
        DriftError: a type became another that does not hold every value of the old one; carries the DDL to run.
    """
    have = {column.name: column for column in raw}
    widened = []
    for column in columns:
        old = have.get(column.name)
        if old is None or old.declared_type == column.type:
            continue
        # The same type with a length or precision: a raw table that was not made by us, or by an early version.
        if old.type != column.type and column.type not in WIDER.get(old.type, ()):
            raise DriftError(
                f"{spec.name}: column {column.name!r} is {column.type} in the source and {old.type} in raw; "
                f"run in the warehouse: {change_type(spec, column).as_string()}, then clear this task"
            )
        widened.append(column)
    gone = have.keys() - {column.name for column in columns} - set(LOADED_COLUMNS)
    added = tuple(column for column in columns if column.name not in have)
    return Drift(added, tuple(widened), tuple(sorted(gone)))


def add_column(spec: TableSpec, column: Column) -> sql.Composed:
    """`alter table … add column …` for raw."""
    return sql.SQL("alter table {} add column {} {}").format(*_column(spec, column))


def change_type(spec: TableSpec, column: Column) -> sql.Composed:
    """`alter table … alter column … type …` for raw."""
    table, name, type_ = _column(spec, column)
    return sql.SQL("alter table {} alter column {} type {} using {}::{}").format(table, name, type_, name, type_)


def views_on(warehouse: Connection, spec: TableSpec, column: Column) -> tuple[list[str], bool]:
    """The views that use a column of raw, and whether the function that changes a column beneath them is at hand."""
    values = {"relation": relation_text(spec.raw_schema, spec.table), "column_name": column.name}
    row = warehouse.execute(statement("views_on"), values).fetchone()
    assert row is not None
    return row[0], row[1]


def _column(spec: TableSpec, column: Column) -> tuple[sql.Composable, sql.Composable, sql.Composable]:
    # The type's spelling comes from format_type() of a catalog, already quoted.
    spelling = sql.SQL(column.type)
    return sql.Identifier(spec.raw_schema, spec.table), sql.Identifier(column.name), spelling


def _refuse_new_identity(
    spec: TableSpec, last: dict[str, Any], shape: dict[str, Any], raw: tuple[Column, ...], reads_all: bool
) -> None:
    if last["oid"] != shape["oid"] and not reads_all:
        conf = f'{{"tables": ["{spec.name}"], "full_refresh": true}}'
        raise DriftError(
            f"{spec.name}: the table was dropped and created again in the source: cursors do not show what it lost; "
            f"read it whole: airflow dags trigger elt_pipeline --conf '{conf}'"
        )
    if last["oid"] != shape["oid"]:
        return
    names, before = {column.name for column in raw}, {each[0]: name for name, each in last["columns"].items()}
    for name, (number, *_) in shape["columns"].items():
        old = before.get(number, name)
        if old != name and old in names and name not in names:
            raise DriftError(
                f"{spec.name}: column {old!r} was renamed to {name!r} in the source; run in the warehouse: "
                + sql.SQL("alter table {} rename column {} to {}")
                .format(sql.Identifier(spec.raw_schema, spec.table), sql.Identifier(old), sql.Identifier(name))
                .as_string()
                + ", then clear this task"
            )


def _refuse_other_key(spec: TableSpec, raw: tuple[Column, ...]) -> None:
    key = {column.name: column.primary_key for column in raw if column.primary_key}
    if key.keys() == set(spec.key):
        return
    changes = [sql.SQL("drop constraint {}").format(sql.Identifier(name)) for name in set(key.values()) if name]
    if spec.key:
        changes.append(sql.SQL("add primary key ({})").format(sql.SQL(", ").join(map(sql.Identifier, spec.key))))
    alter = sql.SQL("alter table {} {}").format(
        sql.Identifier(spec.raw_schema, spec.table), sql.SQL(", ").join(changes)
    )
    raise DriftError(
        f"{spec.name}: its key is {list(spec.key)}, and {sorted(key)} in raw; "
        f"run in the warehouse: {alter.as_string()}, then clear this task"
    )


def _unseen(last: dict[str, Any], shape: dict[str, Any], raw: tuple[Column, ...]) -> tuple[str, ...]:
    held = {column.name for column in raw}
    before, now = last["columns"], shape["columns"]
    # Another column of an old name, or another type: PostgreSQL wrote all of its values anew.
    columns = [
        f"column {name!r} was {'rewritten' if name in before else 'added again'}"
        for name, each in now.items()
        if (each[:2] != before[name][:2] if name in before else name in held)
    ]
    entry = shape["entry"]
    settings = [name for name, value in last.get("entry", entry).items() if value != entry[name]]
    return (*columns, *(f"`{name}` changed in its source entry" for name in settings))


def _refuse_blocked(warehouse: Connection, spec: TableSpec, drift: Drift) -> None:
    """PostgreSQL changes no column that a view uses."""
    for column in drift.widened:
        views, can_change = views_on(warehouse, spec, column)
        if views and not can_change:
            raise DriftError(
                f"{spec.name}: column {column.name!r} became {column.type}, and views use it; run in the warehouse: "
                f"drop view {', '.join(views)} cascade; {change_type(spec, column).as_string()}; "
                "then clear this task: dbt makes the views again"
            )


def _refuse_any(spec: TableSpec, last: dict[str, Any] | None, shape: dict[str, Any], drift: Drift) -> None:
    before, now = (last or shape)["columns"], shape["columns"]
    changes = [f"{name} {now[name][1]} is new" for name in now if name not in before]
    changes += [f"{name} is gone" for name in before if name not in now]
    changes += [f"{name} was changed" for name in now if name in before and now[name] != before[name]]
    changes = changes or drift.statements(spec)
    if changes:
        raise DriftError(
            f"{spec.name}: `drift: freeze`, and the table changed in the source: {', '.join(changes)}; "
            "accept it by a run with `drift: evolve`"
        )
