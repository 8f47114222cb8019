"""Drift: how a source table changed since its last load, and what raw needs for it; decided before any write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from psycopg import ProgrammingError, sql
from psycopg.errors import InsufficientPrivilege

from include.errors import ConfigError, DriftError
from include.postgres.catalog import (
    Column,
    check_types,
    raw_columns,
    source_columns,
)
from include.postgres.sessions import Connection, relation_text
from include.schema.proof import refuse_borrowed_names, refuse_unproven
from include.schema.rows import rows_of
from include.schema.shape import attached, dropped_from_raw, lost, other_entry, renamed_labels, rewritten, shape_of
from include.sources import LOADED_COLUMNS, TableSpec
from include.sql import statement
from include.state import ledger
from include.state.lineage import Loss
from include.state.messages import Window

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


@dataclass(frozen=True)
class Drift:
    """What has to happen in the warehouse before the source's rows fit.

    Attributes:
        added: Columns that raw lacks.
        widened: Columns, of their new type, whose type in raw is too narrow.
        gone: Columns of raw that the source no longer has: kept, with the last values of their rows.
        labels: Statements that add new enum labels.
        unseen: What changed without the rows' cursors, as sentences: the table is read whole.
        defaults: What rows of before hold in added columns, as text; in the others they hold NULL.
    """

    added: tuple[Column, ...] = ()
    widened: tuple[Column, ...] = ()
    gone: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)

    def statements(self, spec: TableSpec) -> list[str]:
        """The DDL that a run executes in the warehouse."""
        columns = [add_column(spec, column, self.defaults.get(column.name)) for column in self.added]
        columns += [change_type(spec, column) for column in self.widened]
        return [*self.labels, *(each.as_string() for each in columns)]

    def older_rows_hold(self, column: Column) -> str:
        """What a person is told of an added column."""
        return repr(self.defaults[column.name]) if column.name in self.defaults else "NULL"

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


def examine(
    source: Connection, warehouse: Connection, spec: TableSpec, window: Window, loss: Loss | None = None
) -> Examined:
    """Look at the source table, its raw table and what the ledger remembers; changes nothing.

    Args:
        source: A pinned session on the source.
        warehouse: A pinned session of the loader role, on a warehouse that has the ledger.
        spec: The table.
        window: What is about to be read; a table that was created again is none to stop at where that is every row.
        loss: What the source may have lost; where it is another one, earlier numbers of tables and columns say nothing.

    Raises:
        ConfigError, TerminalError: the table is not as declared, or the warehouse lacks a type.
        DriftError: it changed in a way that needs a person; carries the statement or command to run.
    """
    columns = source_columns(source, spec)
    refuse_unproven(source, spec)
    _refuse_no_condition(source, spec, columns)
    shape = shape_of(source, spec, columns)
    if shape["views"]:
        refuse_borrowed_names(source, spec, shape["functions"])
    raw = raw_columns(warehouse, spec)
    last = ledger.last_shape(warehouse, spec) if raw and not (loss and loss.is_elsewhere) else None
    renamed = renamed_labels(last or {}, shape) if last or loss else None  # what a source has lost was not renamed
    labels = check_types(source, warehouse, spec, columns, renamed)
    drift = Drift(labels=tuple(each for statements in labels.values() for each in statements))
    if raw:
        if last:
            _refuse_new_identity(spec, last, shape, raw, window.reads_all)
        refuse_other_key(spec, raw)
        found = compare(warehouse, spec, columns, raw)
        drift = replace(found, labels=drift.labels, gone=ledger.of_the_source(warehouse, spec, found.gone))
        held = _held_before(source, spec, found.added)
        drift = replace(drift, defaults={name: values[0] for name, values in held.items() if len(values) == 1})
        if last and window.mode in ("window", "repair"):
            _refuse_a_part_of_a_column(spec, dropped_from_raw(last, shape, raw))
        if last and window.mode == "incremental":
            unseen = (
                *rewritten(last, shape, raw),
                *other_entry(last, shape),
                *attached(source, spec, last, shape, window),
                *(
                    f"column {name!r} is new, and older rows hold a value in it"
                    for name in sorted(held.keys() - drift.defaults)
                ),
            )
            drift = replace(drift, unseen=unseen)
        _refuse_blocked(warehouse, spec, drift)
        if spec.drift == "freeze":
            _refuse_any(spec, last, shape, drift)
    return Examined(columns, shape, drift, bool(raw))


def compare(warehouse: Connection, spec: TableSpec, columns: tuple[Column, ...], raw: tuple[Column, ...]) -> Drift:
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
                f"{_by_hand(spec, column, views_on(warehouse, spec, column)[0])}"
            )
        widened.append(column)
    gone = have.keys() - {column.name for column in columns} - set(LOADED_COLUMNS)
    added = tuple(column for column in columns if column.name not in have)
    return Drift(added, tuple(widened), tuple(sorted(gone)))


def _held_before(source: Connection, spec: TableSpec, added: tuple[Column, ...]) -> dict[str, list[str]]:
    """What rows that were there before hold in columns that are new; several where parts of the table differ.

    None of what is hashed: it is no constant of the source's.
    """
    names = [column.name for column in added]
    if not names:
        return {}
    values = {"relation": relation_text(spec.schema_name, spec.identifier), "names": names}
    held = dict(source.execute(statement("missing_values"), values).fetchall())
    return {name: [] if "hash" in spec.columns.get(name, "") else texts for name, texts in held.items()}


def add_column(spec: TableSpec, column: Column, held: str | None = None) -> sql.Composed:
    """`alter table … add column …` for raw, in which older rows hold the same as in the source; writes none of them."""
    table, name, type_ = _column(spec, column)
    if held is None:
        return sql.SQL("alter table {} add column {} {}").format(table, name, type_)
    return sql.SQL("alter table {} add column {} {} default {}; alter table {} alter column {} drop default").format(
        table, name, type_, sql.Literal(held), table, name
    )


def change_type(spec: TableSpec, column: Column) -> sql.Composed:
    """`alter table … alter column … type …` for raw."""
    table, name, type_ = _column(spec, column)
    return sql.SQL("alter table {} alter column {} type {} using {}::{}").format(table, name, type_, name, type_)


def _by_hand(spec: TableSpec, column: Column, views: list[str]) -> str:
    """What a person does about a column of raw that a load may not change."""
    statements = "; ".join([*views, change_type(spec, column).as_string()])
    return f"run in the warehouse: {statements}, then clear this task" + (
        ": dbt makes its views again; keep the text of others first (pg_get_viewdef)" if views else ""
    )


def views_on(warehouse: Connection, spec: TableSpec, column: Column) -> tuple[list[str], bool]:
    """The statements that drop the views on a column of raw, and whether a load can lift them and all above them."""
    values = {"relation": relation_text(spec.raw_schema, spec.table), "column_name": column.name}
    row = warehouse.execute(statement("views_on"), values).fetchone()
    assert row is not None
    return row[0], row[1]


def _column(spec: TableSpec, column: Column) -> tuple[sql.Composable, sql.Composable, sql.Composable]:
    # The type's spelling comes from format_type() of a catalog, already quoted.
    spelling = sql.SQL(column.type)
    return sql.Identifier(spec.raw_schema, spec.table), sql.Identifier(column.name), spelling


def _refuse_no_condition(source: Connection, spec: TableSpec, columns: tuple[Column, ...]) -> None:
    if spec.where:
        try:
            with source.transaction():
                source.execute(sql.SQL("explain {}").format(rows_of(spec, columns)))
        except ProgrammingError as error:
            remedy = "correct it in its source entry"
            if isinstance(error, InsufficientPrivilege):
                remedy = f"grant it to {source.info.user} in the source"
            said = error.diag.message_primary
            raise ConfigError(f"{spec.name}: `where: {spec.where}` cannot be asked: {said}; {remedy}") from error


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


def refuse_other_key(spec: TableSpec, raw: tuple[Column, ...]) -> None:
    """Refuse a raw table whose primary key is not the declared one.

    Raises:
        DriftError: carries the DDL to run.
    """
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


def _refuse_a_part_of_a_column(spec: TableSpec, dropped: list[str]) -> None:
    if dropped:
        conf = f'{{"tables": ["{spec.name}"]}}'
        raise DriftError(
            f"{spec.name}: column {dropped[0]!r} was dropped from raw, and rows that are not read now would get it "
            f"back empty; read them all first: airflow dags trigger elt_pipeline --conf '{conf}'"
        )


def _refuse_blocked(warehouse: Connection, spec: TableSpec, drift: Drift) -> None:
    """PostgreSQL changes no column that a view uses."""
    for column in drift.widened:
        views, can_lift = views_on(warehouse, spec, column)
        if views and not can_lift:
            raise DriftError(
                f"{spec.name}: column {column.name!r} became {column.type}, and views use it; "
                f"{_by_hand(spec, column, views)}"
            )


def _refuse_any(spec: TableSpec, last: dict[str, Any] | None, shape: dict[str, Any], drift: Drift) -> None:
    before, now = (last or shape)["columns"], shape["columns"]
    changes = [f"{name} {now[name][1]} is new" for name in now if name not in before]
    changes += [f"{name} is gone" for name in before if name not in now]
    changes += [
        f"{name} was changed"
        for name in now
        if name in before and (now[name] != before[name] or lost(last or shape, shape, name))
    ]
    changes = changes or drift.statements(spec)
    if changes:
        raise DriftError(
            f"{spec.name}: `drift: freeze`, and the table changed in the source: {', '.join(changes)}; "
            "accept it by a run with `drift: evolve`"
        )
