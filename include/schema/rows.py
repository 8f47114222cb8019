"""Which rows of a source table an extraction reads, as SQL."""

from __future__ import annotations

from datetime import datetime

from psycopg import sql

from include.postgres.catalog import Column
from include.postgres.sessions import identifiers
from include.sources import TableSpec
from include.state.messages import Window

HASH = sql.SQL("encode(sha256(convert_to({}::text, 'UTF8')), 'hex')")
"""A one-way hash; NULL stays NULL."""

SALTED = sql.SQL("current_setting('elt.salt') || {}::text")
"""The salt is a setting of the connection, so that no statement ever shows it."""


def rows_of(spec: TableSpec, columns: tuple[Column, ...], where: sql.Composable = sql.SQL("true")) -> sql.Composed:
    """`select … where`: the rows of a source table as they are extracted, which is also what the condition sees."""
    return sql.SQL("select {} from (select {} from {} where {}) as extracted where {}").format(
        identifiers([column.name for column in columns]),
        sql.SQL(", ").join(_extracted(spec, column.name) for column in columns),
        sql.Identifier(spec.schema_name, spec.identifier),
        _condition(spec),
        where,
    )


def _condition(spec: TableSpec) -> sql.Composable:
    """Which rows of the source table count. A comment at its end ends with its line."""
    return sql.SQL("({}\n)").format(sql.SQL(spec.where)) if spec.where else sql.SQL("true")


def _extracted(spec: TableSpec, name: str) -> sql.Composable:
    value = sql.Identifier(name)
    match spec.columns.get(name):
        case "hash":
            return sql.SQL("{} as {}").format(HASH.format(sql.SQL("({})").format(SALTED.format(value))), value)
        case "unsalted_hash":
            return sql.SQL("{} as {}").format(HASH.format(value), value)
        case "text":
            return sql.SQL("{}::text as {}").format(value, value)
        case _:
            return value


def in_window(spec: TableSpec, window: Window) -> sql.Composable:
    """`lower <= cursor < upper`, as far as the window is bounded; instants as literals, COPY binds none.

    A repair's window is its buckets.
    """
    if window.buckets:
        return window.buckets.condition(identifiers(spec.key))
    bounds: list[sql.Composable] = []
    if spec.cursor:
        for bound, comparison in ((window.lower, ">="), (window.upper, "<")):
            if bound:
                column, operator = sql.Identifier(spec.cursor), sql.SQL(comparison)
                bounds.append(sql.SQL(" ").join((column, operator, instant(spec, bound))))
    if not bounds:
        return sql.SQL("true")
    where = sql.SQL(" and ").join(bounds)
    if spec.cursor and spec.reads_null_cursors:
        return sql.SQL("(({}) or {} is null)").format(where, sql.Identifier(spec.cursor))
    return where


def instant(spec: TableSpec, value: datetime) -> sql.Composable:
    """An instant as a literal of the cursor's type."""
    literal = sql.Literal(value)
    if spec.cursor_zone is None:
        return literal
    return sql.SQL("({} at time zone {})").format(literal, sql.Literal(spec.cursor_zone))
