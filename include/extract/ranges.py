"""Cut a table into ranges of its key, so that tasks beside each other read it, and one that fails is read again alone.

Ranges of the key, not of the table's pages: whatever is updated between two snapshots, a row that keeps its key is in
one range, while a row that moves to another page could be read twice, or by nobody.
"""

from __future__ import annotations

from math import ceil

import structlog
from psycopg import sql

from include.errors import ConfigError
from include.postgres.catalog import Column, estimated_rows, relation_of
from include.postgres.sessions import Connection, identifiers
from include.schema.rows import rows_of
from include.sources import TableSpec

log = structlog.get_logger(__name__)

MOST_RANGES = 64
"""Tasks that one table may become."""

SAMPLED_ROWS = 3_000
"""Keys looked at for each range: some thirty pages, enough for ranges of about the same size."""

ORDERED = frozenset(
    "smallint,integer,bigint,real,double precision,numeric,text,character varying,bpchar,bytea,uuid,date,"
    "time without time zone,timestamp without time zone,timestamp with time zone,interval,inet,cidr,macaddr".split(",")
)
"""Types whose `<` is the order of their indexes: of a type outside pg_catalog, such as citext, it need not be."""


def count_for(spec: TableSpec, rows: int) -> int:
    """How many ranges a whole read of about `rows` rows is cut into."""
    return min(MOST_RANGES, ceil(rows / spec.rows_per_range)) if spec.rows_per_range and rows else 1


def find_bounds(source: Connection, spec: TableSpec, columns: tuple[Column, ...]) -> list[list[str]]:
    """The keys, as text, that the ranges after the first begin with; empty where the table is read in one piece.

    They come from a sample, so ranges differ in size and may be fewer; together they always are the whole table.

    Raises:
        ConfigError: the table cannot be cut: a view, or a key that has no order or may be NULL.
    """
    estimate = estimated_rows(source, rows_of(spec, columns)) if spec.rows_per_range else 0
    ranges = count_for(spec, estimate)
    if ranges == 1:
        return []
    _refuse_what_cannot_be_cut(source, spec, columns)
    query = sql.SQL(
        """
        select {texts} from (
            select distinct on (tile) {key}, tile from (
                select {key}, ntile({ranges}) over (order by {key}) as tile
                from {relation} tablesample system ({percent})
            ) as sampled
            order by tile, {key}
        ) as firsts
        where tile > 1 order by tile
    """
    ).format(
        texts=sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in spec.key),
        key=identifiers(spec.key),
        ranges=sql.Literal(ranges),
        relation=sql.Identifier(spec.schema_name, spec.identifier),
        percent=sql.Literal(min(100.0, 100.0 * ranges * SAMPLED_ROWS / estimate)),
    )
    bounds = [list(row) for row in source.execute(query)]
    log.info("cut into ranges", table=spec.name, ranges=len(bounds) + 1, estimated_rows=estimate)
    return bounds


def in_range(
    spec: TableSpec, columns: tuple[Column, ...], lower: list[str] | None, upper: list[str] | None
) -> sql.Composable:
    """`lower <= key < upper`, compared by the source alone, in the order of its index on the key."""
    # The type's spelling comes from format_type() of the source's catalog, already quoted.
    types = {column.name: sql.SQL(column.type) for column in columns}
    conditions = [
        sql.SQL("({}) {} ({})").format(
            identifiers(spec.key),
            sql.SQL(operator),
            sql.SQL(", ").join(
                sql.SQL("{}::{}").format(sql.Literal(value), types[name])
                for name, value in zip(spec.key, bound, strict=True)
            ),
        )
        for operator, bound in ((">=", lower), ("<", upper))
        if bound
    ]
    return sql.SQL(" and ").join(conditions) if conditions else sql.SQL("true")


def _refuse_what_cannot_be_cut(source: Connection, spec: TableSpec, columns: tuple[Column, ...]) -> None:
    relation = relation_of(source, spec)
    problem = None
    for column in columns:
        if column.name in spec.key and column.type not in ORDERED:
            problem = f"key column {column.name!r} is {column.type}, whose order is not known"
        elif column.name in spec.key and not column.is_not_null:
            problem = f"key column {column.name!r} lacks a NOT NULL in the source"
    if relation is None or relation[1] not in "rp":
        problem = "it is no table"
    if problem:
        raise ConfigError(f"{spec.name}: it cannot be cut into ranges, {problem}; remove `rows_per_range:`")
