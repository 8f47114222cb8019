"""What the catalogs say of a table, and what has to change in raw before its rows fit."""

from __future__ import annotations

import re
from dataclasses import dataclass

import structlog
from psycopg import sql
from psycopg.rows import class_row

from include.errors import ConfigError, DriftError, TerminalError
from include.sessions import Connection, relation_text
from include.sources import LOADED_COLUMNS, TableSpec
from include.sql import statement

log = structlog.get_logger(__name__)


MAX_COLUMNS = 1600
"""PostgreSQL's limit; columns that were dropped count too."""

NAMES_OF_OBJECTS = re.compile(r"reg[a-z]+(\[\])?$")
"""Types such as regclass: their text names an object of their own database, which the warehouse does not have."""


@dataclass(frozen=True)
class Column:
    """A column as the catalog has it.

    Attributes:
        number: Its number in the relation: stays when it is renamed, changes when it is dropped and added again.
        type: SQL spelling without length, precision or scale, schema-qualified outside pg_catalog. What raw has:
            raw holds values, not limits.
        declared_type: The spelling with length, precision and scale.
    """

    number: int
    name: str
    type: str
    declared_type: str
    is_not_null: bool


@dataclass(frozen=True)
class UserType:
    """A type: its enum labels, and the statement that creates it where one has to."""

    name: str
    labels: list[str] | None
    creation: str | None


def columns_of(connection: Connection, schema: str, table: str) -> tuple[Column, ...]:
    """Columns in their order, empty where the relation does not exist. Needs no privilege on it."""
    with connection.cursor(row_factory=class_row(Column)) as cursor:
        return tuple(cursor.execute(statement("columns"), {"relation": relation_text(schema, table)}))


def types_of(connection: Connection, names: list[str]) -> dict[str, UserType]:
    """The types among `names` that exist, with all they are made of."""
    with connection.cursor(row_factory=class_row(UserType)) as cursor:
        return {found.name: found for found in cursor.execute(statement("types"), {"types": names})}


def source_columns(connection: Connection, spec: TableSpec) -> tuple[Column, ...]:
    """Columns of the source table, checked against what its entry declares.

    Raises:
        ConfigError: the table, its key or its cursor does not exist or has the wrong type, or a name is taken.
        TerminalError: the role may not read it.
    """
    columns = columns_of(connection, spec.schema_name, spec.identifier)
    relation = relation_text(spec.schema_name, spec.identifier)
    if not columns:
        problem = "does not exist" if relation_kind(connection, relation) is None else "has no column"
        raise ConfigError(
            f"{spec.name}: {relation} {problem} in database {connection.info.dbname!r} on "
            f"{connection.info.host}:{connection.info.port}; create it, or correct `schema` or `identifier`"
        )
    row = connection.execute("select has_table_privilege(%s, 'select')", (relation,)).fetchone()
    if row is None or not row[0]:
        raise TerminalError(
            f"{spec.name}: role {connection.info.user!r} may not read it; "
            f'run on the source: grant select on {relation} to "{connection.info.user}"'
        )
    types = {column.name: column.type for column in columns}
    for name in (*spec.key, *([spec.cursor] if spec.cursor else [])):
        if name not in types:
            raise ConfigError(f"{spec.name}: column {name!r} does not exist; it has {', '.join(types)}")
    for name in LOADED_COLUMNS:
        if name in types:
            raise ConfigError(f"{spec.name}: column {name!r} is a name that loading adds; rename it in the source")
    if len(columns) + len(LOADED_COLUMNS) > MAX_COLUMNS:
        raise ConfigError(
            f"{spec.name}: {len(columns)} columns and the {len(LOADED_COLUMNS)} that loading adds are more than "
            f"PostgreSQL's {MAX_COLUMNS}; load a view of it that leaves some out (`identifier:`)"
        )
    if spec.cursor:
        _check_cursor(spec, types[spec.cursor])
    return columns


def relation_kind(connection: Connection, relation: str) -> str | None:
    """`pg_class.relkind` of a quoted, qualified name; None where it does not exist."""
    row = connection.execute("select relkind from pg_class where oid = to_regclass(%s)", (relation,)).fetchone()
    return row and row[0]


def _check_cursor(spec: TableSpec, cursor_type: str) -> None:
    plain = cursor_type.split("(")[0]
    if "with time zone" in cursor_type and plain.startswith("timestamp"):
        return
    if "without time zone" in cursor_type and plain.startswith("timestamp"):
        if spec.cursor_zone:
            return
        raise ConfigError(
            f"{spec.name}: cursor {spec.cursor!r} has no time zone; declare the writers' one with `cursor_zone:`"
        )
    raise ConfigError(f"{spec.name}: cursor {spec.cursor!r} is {cursor_type}; only timestamps work, or `mode: full`")


def check_types(source: Connection, warehouse: Connection, spec: TableSpec, columns: tuple[Column, ...]) -> None:
    """Refuse a table whose types the warehouse does not have.

    Raises:
        TerminalError: names the types and the statements that create them.
    """
    own = [column.name for column in columns if NAMES_OF_OBJECTS.match(column.type)]
    if own:
        raise TerminalError(
            f"{spec.name}: column {own[0]!r} names objects of the source's own database; "
            "load a view of the table that casts it to text (`identifier:`)"
        )
    names = [column.type for column in columns]
    wanted, have = types_of(source, names), types_of(warehouse, names)
    missing = [kind for name, kind in wanted.items() if name not in have]
    if missing:
        statements = "; ".join(kind.creation for kind in missing if kind.creation)
        raise TerminalError(
            f"{spec.name}: the warehouse has no type {', '.join(kind.name for kind in missing)}; "
            f"create it there as the source has it: {statements or 'it needs a newer PostgreSQL'}"
        )


def raw_columns(warehouse: Connection, spec: TableSpec) -> tuple[Column, ...]:
    """Columns of the raw table; empty where there is none yet.

    Raises:
        ConfigError: something else has its name.
    """
    columns = columns_of(warehouse, spec.raw_schema, spec.table)
    if columns and not set(LOADED_COLUMNS) <= {column.name for column in columns}:
        raise ConfigError(
            f"{spec.name}: {relation_text(spec.raw_schema, spec.table)} in the warehouse was not made by loading "
            f"(it lacks {LOADED_COLUMNS[0]}); rename it, or the table's entry, with `identifier: {spec.identifier}`"
        )
    return columns


def added_columns(spec: TableSpec, source: tuple[Column, ...], raw: tuple[Column, ...]) -> list[Column]:
    """Columns that raw lacks. A column gone from the source stays in raw and is NULL from then on.

    Raises:
        DriftError: a column changed its type; carries the DDL to run.
    """
    have = {column.name: column for column in raw}
    for column in source:
        old = have.get(column.name)
        if old and old.type != column.type:
            raise DriftError(
                f"{spec.name}: column {column.name!r} is {column.type} in the source and {old.type} in raw; run in the "
                f"warehouse: alter table {relation_text(spec.raw_schema, spec.table)} "
                f'alter column "{column.name}" type {column.type}, then clear this task'
            )
    gone = have.keys() - {column.name for column in source} - set(LOADED_COLUMNS)
    if gone:
        log.warning(
            "columns are gone from the source: kept in raw, NULL from now on",
            table=spec.name,
            gone=sorted(gone),
        )
    return [column for column in source if column.name not in have]


def estimated_rows(connection: Connection, query: sql.Composable) -> int:
    """The planner's estimate of a query's rows; nothing is read."""
    row = connection.execute(sql.SQL("explain (format json) {}").format(query)).fetchone()
    assert row is not None
    return row[0][0]["Plan"]["Plan Rows"]
