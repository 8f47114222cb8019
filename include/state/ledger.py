"""The ledger in the warehouse: what was loaded, and how far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import md5
from typing import Any

import structlog
from psycopg import sql
from psycopg.errors import InsufficientPrivilege, InvalidSchemaName, UndefinedTable
from psycopg.rows import class_row

from include.errors import TerminalError
from include.postgres.catalog import owned, raw_columns, refuse_foreign
from include.postgres.sessions import Connection
from include.sources import TableSpec
from include.sql import statement
from include.state.watermark import LastMark

log = structlog.get_logger(__name__)

SCHEMA = "_elt"
TABLES = ("load_ledger", "extraction", "extraction_range", "cleared")

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
    """Create the ledger, or a table of it, and a raw schema where they are missing; bring an earlier one up to date.

    Sequences that lie behind the ledger's rows are set: no number is drawn twice, and a later one is larger.

    Raises:
        TerminalError: the warehouse is older than PostgreSQL 15, the first with MERGE; a schema or a table of the
            ledger belongs to a stranger; or a schema is missing, and this role may make none.
    """
    if connection.info.server_version < OLDEST_VERSION:
        version = connection.info.parameter_status("server_version")
        raise TerminalError(f"the warehouse is PostgreSQL {version}; 15 or later is needed")
    refuse_foreign(connection, [SCHEMA, raw_schema], *((SCHEMA, table) for table in TABLES))
    script = statement("create_ledger")
    made_by = f"Made by create_ledger.sql {md5(script.as_bytes(), usedforsecurity=False).hexdigest()}"
    if _is_current(connection, raw_schema, made_by):
        return
    with connection.transaction():
        lock(connection, "schema")
        for schema in (SCHEMA, raw_schema):
            row = connection.execute("select to_regnamespace(%s)", (sql.Identifier(schema).as_string(),)).fetchone()
            if row is None or row[0] is None:
                _create_schema(connection, schema)
        connection.execute(script)
        connection.execute(sql.SQL("comment on table _elt.extraction is {}").format(sql.Literal(made_by)))
        catch_up = sql.SQL("select setval(sequence_name, taken) from ({}) as behind")
        connection.execute(catch_up.format(statement("sequences_behind")))


def _create_schema(connection: Connection, schema: str) -> None:
    """Make a schema, where this role may: with roles of this project's own, who sets them up makes it."""
    try:
        connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
    except InsufficientPrivilege as error:
        wanted = schema_creation(schema, connection.info.user)
        raise TerminalError(
            f"the warehouse has no schema {schema}, and {connection.info.user} may make none; "
            f"run there, as its administrator: {wanted}; then clear this task"
        ) from error


def schema_creation(schema: str, role: str) -> str:
    """The statement that makes a schema of the loader's."""
    return sql.SQL("create schema {} authorization {}").format(sql.Identifier(schema), sql.Identifier(role)).as_string()


def _is_current(connection: Connection, raw_schema: str, made_by: str) -> bool:
    query = sql.SQL(
        "select obj_description('_elt.extraction'::regclass, 'pg_class') = %s and to_regnamespace(%s) is not null "
        "and not exists ({}) and not exists (select from pg_namespace, aclexplode(nspacl) where nspname = '_elt' and "
        "privilege_type = 'USAGE' and grantee <> 0 and not has_table_privilege(grantee, '_elt.extraction', 'select'))"
    )
    values = (made_by, sql.Identifier(raw_schema).as_string())
    try:
        row = connection.execute(query.format(statement("sequences_behind")), values).fetchone()
    except (UndefinedTable, InvalidSchemaName):
        return False
    return bool(row and row[0])


def last_mark(connection: Connection, spec: TableSpec) -> LastMark | None:
    """The newest load of the table that moved its watermark."""
    with connection.cursor(row_factory=class_row(LastMark)) as cursor:
        return cursor.execute(statement("last_mark"), {"source": spec.source, "table": spec.table}).fetchone()


def standing_mark(connection: Connection, spec: TableSpec) -> LastMark | None:
    """The newest mark, if what it speaks of is there: not where the ledger, the raw table or all its rows are gone."""
    row = connection.execute("select to_regclass('_elt.load_ledger') is not null").fetchone()
    last = last_mark(connection, spec) if row and row[0] else None
    # Emptied by a person, or by a crash if it is unlogged. What was empty all along costs nothing to read again.
    if last and not holds_rows(connection, spec):
        log.info("the raw table is gone or empty: everything is read", table=spec.name)
        return None
    return last


def holds_rows(connection: Connection, spec: TableSpec) -> bool:
    """Whether there is a raw table with a row in it."""
    if not raw_columns(connection, spec):
        return False
    query = sql.SQL("select exists (select from {})").format(sql.Identifier(spec.raw_schema, spec.table))
    with owned(connection, spec):
        row = connection.execute(query).fetchone()
    return bool(row and row[0])


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


def later_columns(connection: Connection, spec: TableSpec, columns: Sequence[str]) -> tuple[str, ...]:
    """Those of some columns that a load did not know: rows of before hold NULL in them."""
    query = """
        select column_name from unnest(%s::text[]) as column_name
        where not coalesce((
            select bool_and(source_shape -> 'columns' ? column_name) from _elt.load_ledger
            where source = %s and table_name = %s and jsonb_typeof(source_shape) = 'object'
        ), false)"""
    rows = connection.execute(query, (list(columns), spec.source, spec.table)).fetchall()
    return tuple(name for (name,) in rows)


def mark_published(connection: Connection, spec: TableSpec) -> None:
    """Note that the Variable now shows the ledger's mark: a lower value seen later is a person's edit."""
    connection.execute(
        "update _elt.load_ledger set watermark_published_at = clock_timestamp() "
        "where source = %s and table_name = %s and mark is not null and watermark_published_at is null",
        (spec.source, spec.table),
    )


def is_published(connection: Connection, spec: TableSpec, loaded_at: datetime) -> bool:
    """Whether the load of that instant has shown its mark, a later one has, or a rewind has taken its place."""
    query = """
        select watermark_published_at is not null from _elt.load_ledger
        where source = %s and table_name = %s and loaded_at = %s
    """
    row = connection.execute(query, (spec.source, spec.table, loaded_at)).fetchone()
    return bool(row and row[0])


def note_rewind(connection: Connection, spec: TableSpec) -> None:
    """Note that a person is about to lower the Variable: what was loaded, or begun, until now leaves it alone.

    The Variable's text does not tell: it may be what a run under way began with.
    """
    query = "update _elt.extraction set rewound_at = clock_timestamp() where source = %s and table_name = %s"
    with connection.transaction():
        # First, since it waits for a load that is being recorded: the ledger then has its row.
        connection.execute(query, (spec.source, spec.table))
        mark_published(connection, spec)


@contextmanager
def variable_lock(connection: Connection, spec: TableSpec) -> Iterator[None]:
    """Hold off others who would set the Variable: it cannot be compared and set in one step."""
    with connection.transaction():
        lock(connection, spec.watermark_key)
        yield
