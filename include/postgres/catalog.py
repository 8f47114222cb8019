"""What the catalogs say of a table and its types."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from psycopg import sql
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import class_row

from include.errors import ConfigError, DriftError, TerminalError
from include.postgres.sessions import Connection, relation_text
from include.sources import LOADED_COLUMNS, TableSpec
from include.sql import statement

MAX_COLUMNS = 1600
"""PostgreSQL's limit; columns that were dropped count too."""

SAME_EVERYWHERE = frozenset(
    f"{name}{array}"
    for array in ("", "[]")
    for name in (
        "boolean,smallint,integer,bigint,real,double precision,numeric,text,character varying,bpchar,bytea,uuid,json,"
        "jsonb,date,time without time zone,time with time zone,timestamp without time zone,timestamp with time zone,"
        "interval,inet,cidr,macaddr,macaddr8"
    ).split(",")
)
"""Types that every server has, whose binary form is the same in every version and holds no number of one database."""

NAMES_OF_OBJECTS = re.compile(r"reg[a-z]+(\[\])?$")
"""Types such as regclass: their text names an object of their own database, which the warehouse does not have."""


@dataclass(frozen=True)
class Column:
    """A column as the catalog has it.

    Attributes:
        number: Its number in the relation: stays when it is renamed, changes when it is dropped and added again.
        type: SQL spelling without length, precision or scale, schema-qualified outside pg_catalog. What raw has:
            raw holds values, not limits.
        declared_type: The spelling with length, precision and scale; what `columns:` does with it before that.
        primary_key: Name of the primary key that the column is part of.
    """

    number: int
    name: str
    type: str
    declared_type: str
    is_not_null: bool
    primary_key: str | None = None


@dataclass(frozen=True)
class UserType:
    """A type: its enum labels, and the statement that creates it where one has to."""

    name: str
    schema: str
    labels: list[str] | None
    is_row: bool
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
    """Columns of the source table as they are extracted, checked against what its entry declares.

    Raises:
        ConfigError: the table, its key or its cursor does not exist or has the wrong type, or a name is taken.
        TerminalError: the role may not read it.
    """
    columns = columns_of(connection, spec.schema_name, spec.identifier)
    relation = relation_text(spec.schema_name, spec.identifier)
    if not columns:
        problem = "has no column" if relation_of(connection, spec) else "does not exist"
        raise ConfigError(
            f"{spec.name}: {relation} {problem} in database {connection.info.dbname!r} on "
            f"{connection.info.host}:{connection.info.port}; create it, or correct `schema` or `identifier`"
        )
    _refuse_unreadable(connection, spec, [each.name for each in columns if spec.columns.get(each.name) != "omit"])
    types = {column.name: column.type for column in columns}
    for name in (*spec.key, *([spec.cursor] if spec.cursor else []), *spec.columns):
        if name not in types:
            raise ConfigError(
                f"{spec.name}: column {name!r} does not exist; it has {', '.join(types)}: correct its entry"
            )
    if spec.salted:
        _require_salt(connection, spec)
    if spec.cursor:
        _check_cursor(spec, next(column.declared_type for column in columns if column.name == spec.cursor))
    return _fitting(spec, tuple(_extracted(spec, columns)))


def _refuse_unreadable(connection: Connection, spec: TableSpec, names: list[str]) -> None:
    """Refuse a table of which the role may not read a column that is extracted: those that are omitted stay closed."""
    relation = relation_text(spec.schema_name, spec.identifier)
    query = """
        select bool_and(has_column_privilege(attrelid, attnum, 'select')) from pg_attribute
        where attrelid = to_regclass(%s) and attname = any(%s) and attnum > 0"""
    row = connection.execute(query, (relation, names)).fetchone()
    if row is None or row[0] is False:
        only = (
            f"({sql.SQL(', ').join(map(sql.Identifier, names)).as_string()}) "
            if "omit" in spec.columns.values()
            else ""
        )
        raise TerminalError(
            f"{spec.name}: role {connection.info.user!r} may not read it; "
            f'run on the source: grant select {only}on {relation} to "{connection.info.user}"'
        )


def _extracted(spec: TableSpec, columns: tuple[Column, ...]) -> Iterator[Column]:
    """The columns as `columns:` wants them."""
    for column in columns:
        treatment = spec.columns.get(column.name)
        if treatment is None:
            yield column
        elif treatment != "omit":
            yield replace(column, type="text", declared_type=f"{treatment} of {column.declared_type}")


def _fitting(spec: TableSpec, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    for column in columns:
        if column.name in LOADED_COLUMNS:
            raise ConfigError(
                f"{spec.name}: column {column.name!r} is a name that loading adds; rename it in the source, or leave "
                f"it out with `columns: {{{column.name}: omit}}`"
            )
    if len(columns) + len(LOADED_COLUMNS) > MAX_COLUMNS:
        raise ConfigError(
            f"{spec.name}: {len(columns)} columns and the {len(LOADED_COLUMNS)} that loading adds are more than "
            f"PostgreSQL's {MAX_COLUMNS}; leave some out with `columns: {{name: omit}}`"
        )
    return columns


def relation_of(connection: Connection, spec: TableSpec) -> tuple[int, str] | None:
    """Number and kind (`pg_class.oid`, `relkind`) of the source table; None where it does not exist."""
    query = "select oid, relkind from pg_class where oid = to_regclass(%s)"
    return connection.execute(query, (relation_text(spec.schema_name, spec.identifier),)).fetchone()


def _require_salt(connection: Connection, spec: TableSpec) -> None:
    row = connection.execute("select coalesce(current_setting('elt.salt', true), '') <> ''").fetchone()
    if row is None or not row[0]:
        raise ConfigError(
            f"{spec.name}: column {spec.salted[0]!r} is hashed, and the connection {spec.source} has no salt: who "
            "guesses a value could check it; add options=-c elt.salt=… to the connection, or write `unsalted_hash`"
        )


def _check_cursor(spec: TableSpec, cursor_type: str) -> None:
    plain = cursor_type.split("(")[0]
    if "(" in cursor_type and spec.overlap < timedelta(seconds=1):
        raise ConfigError(
            f"{spec.name}: cursor {spec.cursor!r} is {cursor_type}, which rounds: a row may be stamped before its "
            "transaction began; set `overlap: 1 second` or more"
        )
    if "with time zone" in cursor_type and plain.startswith("timestamp"):
        if spec.cursor_zone:
            raise ConfigError(f"{spec.name}: cursor {spec.cursor!r} has a time zone of its own; remove `cursor_zone:`")
        return
    if "without time zone" in cursor_type and plain.startswith("timestamp"):
        if spec.cursor_zone:
            return
        raise ConfigError(
            f"{spec.name}: cursor {spec.cursor!r} has no time zone; declare the writers' one with `cursor_zone:`"
        )
    raise ConfigError(f"{spec.name}: cursor {spec.cursor!r} is {cursor_type}; only timestamps work, or `mode: full`")


def check_types(
    source: Connection,
    warehouse: Connection,
    spec: TableSpec,
    columns: tuple[Column, ...],
    renamed: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Refuse a table whose types the warehouse does not have.

    Args:
        renamed: The enum labels that have another name than when the table was last read, and the one they had; None:
            nobody knows, so a label that the source lacks may have become one that the warehouse lacks.

    Returns:
        Enum labels that the warehouse's types lack, as the statements that add them, by type.

    Raises:
        TerminalError: names the types and the statements that create them.
        DriftError: a label was renamed; carries the statement to run.
    """
    for column in columns:
        if NAMES_OF_OBJECTS.match(column.type):
            raise TerminalError(
                f"{spec.name}: column {column.name!r} names objects of the source's own database; "
                f"write `columns: {{{column.name}: text}}`"
            )
    names = [column.type for column in columns if column.type not in SAME_EVERYWHERE]
    if not names:
        return {}
    wanted = types_of(source, names)
    _refuse_closed_schemas(warehouse, spec, {kind.schema for kind in wanted.values()})
    have = types_of(warehouse, names)
    missing = [kind for name, kind in wanted.items() if name not in have]
    if missing:
        statements = "; ".join(kind.creation for kind in missing if kind.creation)
        raise TerminalError(
            f"{spec.name}: the warehouse has no type {', '.join(kind.name for kind in missing)}; "
            f"run there: {statements or 'an upgrade of PostgreSQL'}, or write `columns: {{name of the column: text}}`"
        )
    for name, kind in wanted.items():
        if kind.is_row and kind.creation != have[name].creation:
            raise DriftError(
                f"{spec.name}: type {name} has other attributes in the warehouse ({have[name].creation}) than in the "
                f"source ({kind.creation}); change it there by `alter type`, or write `columns: {{its column: text}}`"
            )
    additions = {
        kind.name: _missing_labels(spec, kind, have[kind.name], renamed) for kind in wanted.values() if kind.labels
    }
    return {name: statements for name, statements in additions.items() if statements}


def _refuse_closed_schemas(warehouse: Connection, spec: TableSpec, schemas: set[str]) -> None:
    """Types of the source's own live in schemas that a careful warehouse does not open to everybody."""
    own = sorted(schemas - {"pg_catalog"})
    if not own:
        return
    query = """
        select string_agg(quote_ident(nspname), ', ') from pg_namespace
        where nspname = any(%s) and not has_schema_privilege(oid, 'usage')"""
    [closed] = warehouse.execute(query, (own,)).fetchone() or [None]
    if closed:
        role = sql.Identifier(warehouse.info.user).as_string()
        raise TerminalError(
            f"{spec.name}: role {role} may not use schema {closed} of the warehouse, to which types of its columns "
            f"belong; run there: grant usage on schema {closed} to {role}"
        )


def _missing_labels(spec: TableSpec, wanted: UserType, have: UserType, renamed: Mapping[str, str] | None) -> list[str]:
    """`alter type … add value` for each label that is new in the source, at its place in the order."""
    labels, present = wanted.labels or [], have.labels or []
    new = [label for label in labels if label not in present]
    old = [label for label in present if label not in labels]
    became = list(zip(new, old)) if renamed is None else [(now, renamed[now]) for now in new if renamed.get(now) in old]
    if became:
        rename = f"alter type {wanted.name} rename value {_quoted(became[0][1])} to {_quoted(became[0][0])}"
        raise DriftError(
            f"{spec.name}: type {wanted.name} has {new} in the source and {old} in the warehouse; "
            f"if it was renamed, run there: {rename}"
        )
    add = f"alter type {wanted.name} add value if not exists"
    first = next((label for label in labels if label in present), None)
    statements = []
    for before, label in zip([None, *labels], labels):
        if label in new:
            place = f" after {_quoted(before)}" if before is not None else f" before {_quoted(first)}" if first else ""
            statements.append(f"{add} {_quoted(label)}{place}")
    return statements


def _quoted(text: str) -> str:
    return sql.Literal(text).as_string()


def refuse_foreign(warehouse: Connection, schemas: Sequence[str], *relations: tuple[str, str]) -> None:
    """Refuse to use what belongs to another role than the loader trusts: its code would run with the loader's rights.

    Args:
        warehouse: A session of the loader role.
        schemas: Names of schemas.
        relations: Tables, as schema and name. What does not exist is nobody's.

    Raises:
        TerminalError: names what belongs to whom, and what to do.
    """
    values = {
        "schemas": list(schemas),
        "in_schemas": [schema for schema, _ in relations],
        "tables": [table for _, table in relations],
        "relations": [relation_text(*relation) for relation in relations],
    }
    if warehouse.execute(statement("maybe_foreign"), values).fetchone() == (False,):
        return
    found = warehouse.execute(statement("foreign"), values).fetchone()
    if found:
        raise TerminalError(
            f"{found[0]}, whose code would run with the rights of {warehouse.info.user}; run in the warehouse: "
            f"{found[1]}; then clear this task. Does its role change with each login? Have them all act as "
            f"one that owns it: alter role {warehouse.info.user} set role …"
        )


def raw_columns(warehouse: Connection, spec: TableSpec) -> tuple[Column, ...]:
    """Columns of the raw table; empty where there is none yet.

    Raises:
        ConfigError: something else has its name.
        TerminalError: it, its schema or code of it belongs to a stranger.
    """
    refuse_foreign(warehouse, [spec.raw_schema], (spec.raw_schema, spec.table))
    columns = columns_of(warehouse, spec.raw_schema, spec.table)
    if columns and not set(LOADED_COLUMNS) <= {column.name for column in columns}:
        raise ConfigError(
            f"{spec.name}: {relation_text(spec.raw_schema, spec.table)} in the warehouse was not made by loading "
            f"(it lacks {LOADED_COLUMNS[0]}); rename it, or the table's entry, with `identifier: {spec.identifier}`"
        )
    return columns


@contextmanager
def owned(warehouse: Connection, spec: TableSpec) -> Iterator[None]:
    """Say what to do where raw is refused: an administrator made the table, or restored it, and it is theirs.

    Raises:
        TerminalError: it is so; carries the statement to run.
    """
    try:
        yield
    except InsufficientPrivilege as error:
        relation = relation_text(spec.raw_schema, spec.table)
        raise TerminalError(
            f"{spec.name}: {error.diag.message_primary} in the warehouse; run there: "
            f"alter table {relation} owner to {sql.Identifier(warehouse.info.user).as_string()}; then clear this task"
        ) from error


def not_unique(spec: TableSpec, found: str) -> TerminalError:
    """What to raise where several rows have one key."""
    return TerminalError(
        f"{spec.name}: key {list(spec.key)} is not unique ({found}); "
        "declare the columns that are, or leave one of those rows in the source"
    )


def same_key(warehouse: Connection, spec: TableSpec) -> sql.Composable:
    """Whether row `old` of raw and row `new` of staging have the same key, by the operators of raw's own key.

    Where only pg_catalog is searched, `=` of two citext is that of text, and two ltree have none.
    """
    relation = relation_text(spec.raw_schema, spec.table)
    parts = warehouse.execute(statement("key_operators"), {"relation": relation}).fetchall()
    return sql.SQL(" and ").join(
        sql.SQL("old.{0} " + equals + " new.{0}").format(sql.Identifier(column)) for column, equals in parts
    )


def estimated_rows(connection: Connection, query: sql.Composable) -> int:
    """The planner's estimate of a query's rows; nothing is read."""
    row = connection.execute(sql.SQL("explain (format json) {}").format(query)).fetchone()
    assert row is not None
    return row[0][0]["Plan"]["Plan Rows"]
