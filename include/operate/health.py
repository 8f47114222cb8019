"""What the page Pipeline health shows: tables, who holds their watermark back, rows that failed a test. Reads only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from psycopg import sql
from psycopg.rows import namedtuple_row

from include.errors import ConfigError, TerminalError
from include.extract.horizon import read_horizon
from include.postgres.catalog import columns_of
from include.postgres.sessions import Connection
from include.sources import TableSpec
from include.sql import statement
from include.state import ledger, watermark
from include.state.messages import to_text

FAILURES_SCHEMA = "dbt_test_failures"
"""Where dbt keeps the rows that fail a test: `data_tests` in dbt_project.yml."""

MAX_BARS = 91
"""Loads that a picture shows one by one: of 90 days, begun and ended in the middle of one."""

MAX_ROWS = 20
MAX_CHARACTERS = 200


@dataclass(frozen=True)
class Table:
    """One source table, as the ledger knows it.

    Attributes:
        mark: The watermark in the ledger; None where no load set one.
        variable: Its Airflow Variable.
        difference: What the next run makes of a Variable that is not the mark; None where they agree.
        settled: Raw holds everything below this cursor; None before the first load.
        lag: How long ago that was, by the warehouse's clock.
        age: How long ago the newest load was.
        gaps: What no load has read below the mark.
        extractions: Rows of open_extractions.sql.
        loads: Rows of recent_loads.sql, the newest first.
    """

    spec: TableSpec
    mark: datetime | None = None
    variable: str | None = None
    difference: str | None = None
    settled: datetime | None = None
    lag: timedelta | None = None
    age: timedelta | None = None
    gaps: Sequence[ledger.Gap] = ()
    extractions: Sequence[Any] = ()
    loads: Sequence[Any] = ()


@dataclass(frozen=True)
class Limits:
    """How old the newest load of a table may be, as its dbt source says under `freshness`; None: nothing is said."""

    warn_after: timedelta | None = None
    error_after: timedelta | None = None

    @staticmethod
    def from_dbt(freshness: Mapping[str, Any] | None) -> Limits:
        """From the `freshness` of a source in dbt's manifest."""
        spans = {}
        for name in ("warn_after", "error_after"):
            limit = (freshness or {}).get(name) or {}
            if limit.get("count") is not None and limit.get("period"):
                spans[name] = timedelta(**{f"{limit['period']}s": limit["count"]})
        return Limits(**spans)

    def kind(self, age: timedelta) -> str | None:
        """`stale`, `due` or nothing, of include/operate/verdict.py."""
        if self.error_after is not None and age > self.error_after:
            return "stale"
        return "due" if self.warn_after is not None and age > self.warn_after else None

    def of(self, kind: str) -> timedelta:
        """The limit that was passed."""
        limit = self.error_after if kind == "stale" else self.warn_after
        assert limit is not None
        return limit


@dataclass(frozen=True)
class Source:
    """A source database, or why it cannot be looked at.

    Attributes:
        horizon: How far the watermark could move now.
        lag: How far that is behind the source's clock.
        holders: Rows of open_transactions.sql: who holds it there.
        problem: Why nothing is known.
        not_known: What the role may not ask of it, and what nothing tells then.
    """

    name: str
    horizon: datetime | None = None
    lag: timedelta | None = None
    holders: Sequence[Any] = ()
    problem: str | None = None
    not_known: Sequence[str] = ()


@dataclass(frozen=True)
class FailingRows:
    """The first rows of a table in which dbt keeps what failed a test; values as text, cut after 200 characters.

    No columns: the table is gone.
    """

    table: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str | None]] = ()
    is_all: bool = True


def read_tables(
    warehouse: Connection, specs: Sequence[TableSpec], variables: Mapping[str, str | None], loads: int = 1
) -> list[Table]:
    """What the ledger says of tables; nothing where there is no ledger yet. A few statements, however many they are.

    Args:
        warehouse: A pinned session of a role that reads schema `_elt`.
        specs: The tables.
        variables: The Airflow Variables by name.
        loads: How many of each to read, the newest.
    """
    if not _has_ledger(warehouse):
        return [Table(spec, variable=variables.get(spec.watermark_key)) for spec in specs]
    now = warehouse.execute("select clock_timestamp()").fetchone()[0]
    names = ("last_mark", "settled", "gaps", "open_extractions", "recent_loads")
    found = {name: _of_each(warehouse, name, specs, count=loads) for name in names}

    def of_table(spec: TableSpec) -> Table:
        marks, settled, gaps, extractions, recent = (found[name].get((spec.source, spec.table), []) for name in names)
        last = watermark.LastMark(*marks[0][2:]) if marks else None
        variable = variables.get(spec.watermark_key)
        until = settled[0].settled if settled else None
        return Table(
            spec,
            mark=last.mark if last else None,
            variable=variable,
            difference=_difference(spec, variable, last, now),
            settled=until,
            lag=now - until if until else None,
            age=now - recent[0].loaded_at if recent else None,
            gaps=[ledger.Gap(*gap[2:]) for gap in gaps],
            extractions=extractions,
            loads=recent,
        )

    return [of_table(spec) for spec in specs]


def _of_each(
    warehouse: Connection, name: str, specs: Sequence[TableSpec], **values: Any
) -> dict[tuple[str, str], list[Any]]:
    """Rows of a statement about one table, of many tables at once: (source, table) are its first two columns."""
    of_one = statement(name).as_string().replace("%(source)s", "asked.source").replace("%(table)s", "asked.name")
    query = f"""
        select asked.source, asked.name, found.*
        from unnest(%(sources)s::text[], %(names)s::text[]) as asked (source, name)
        cross join lateral ({of_one}) as found"""
    asked = {"sources": [spec.source for spec in specs], "names": [spec.table for spec in specs]}
    found: dict[tuple[str, str], list[Any]] = {}
    with warehouse.cursor(row_factory=namedtuple_row) as cursor:
        for row in cursor.execute(sql.SQL(query), {**asked, **values}):
            found.setdefault(row[:2], []).append(row)
    return found


def read_history(warehouse: Connection, spec: TableSpec) -> list[Any]:
    """Rows of history.sql: what was loaded in 90 days, at most as many bars as a picture holds."""
    if not _has_ledger(warehouse):
        return []
    values = {"source": spec.source, "table": spec.table, "most": MAX_BARS}
    with warehouse.cursor(row_factory=namedtuple_row) as cursor:
        return cursor.execute(statement("history"), values).fetchall()


def _has_ledger(warehouse: Connection) -> bool:
    row = warehouse.execute("select to_regclass('_elt.extraction_range') is not null").fetchone()
    return bool(row and row[0])


def _difference(spec: TableSpec, variable: str | None, last: watermark.LastMark | None, now: datetime) -> str | None:
    """What the next run makes of the Variable, by the rule it will use."""
    if spec.mode == "full" or variable == (last and to_text(last.mark)):
        return None
    try:
        read_from = watermark.resolve(spec, variable, last, now)
    except ConfigError as error:
        return str(error)
    if last is None:
        return "never loaded: everything is read"
    if read_from == last.mark:
        return None if variable and watermark.read_instant(variable) == last.mark else "the ledger decides"
    return f"set back: the next run reads again from {to_text(read_from) if read_from else 'the beginning'}"


def read_source(connection: Connection, name: str) -> Source:
    """How far the source lets the watermark move, and who holds it there.

    Args:
        connection: A pinned session on the source, in autocommit mode.
        name: Of the dbt source.
    """
    try:
        horizon = read_horizon(connection, name)
    except TerminalError as error:
        return Source(name, problem=str(error))
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        holders = cursor.execute(statement("open_transactions")).fetchall()
    not_known = horizon.server.unknown if horizon.server else ()
    return Source(name, horizon.at, horizon.read_at - horizon.at, holders, not_known=not_known)


def committed_before(warehouse: Connection, run_ids: Sequence[str]) -> dict[str, dict[str, datetime]]:
    """By run, and by source in it, the instant before which every commit was loaded by that run's end."""
    found: dict[str, dict[str, datetime]] = {}
    if not _has_ledger(warehouse):
        return found
    for run_id, source, instant in warehouse.execute(statement("committed_before"), {"run_ids": list(run_ids)}):
        found.setdefault(run_id, {})[source] = instant
    return found


def read_failing_rows(warehouse: Connection, table: str, schema: str = FAILURES_SCHEMA) -> FailingRows:
    """The first rows that dbt keeps of a test, as its latest run left them.

    Args:
        warehouse: A pinned session of a role that reads dbt's schema of failures.
        table: Name of the table there; whatever else it is, it is no other schema's.
        schema: Where dbt keeps them, as the project says.
    """
    columns = [column.name for column in columns_of(warehouse, schema, table)]
    if not columns:
        return FailingRows(table)
    shown = [sql.SQL("left({}::text, {})").format(sql.Identifier(name), MAX_CHARACTERS) for name in columns]
    query = sql.SQL("select {} from {} limit {}").format(
        sql.SQL(", ").join(shown), sql.Identifier(schema, table), MAX_ROWS + 1
    )
    rows = warehouse.execute(query).fetchall()
    return FailingRows(table, columns, rows[:MAX_ROWS], is_all=len(rows) <= MAX_ROWS)
