"""Reconcile: does raw hold what the source holds, in every column of every row? And read again what does not agree.

Counts and hashes are compared by bucket. The source lives on, so the rows of buckets that differ are then compared one
by one: what changed since the last load is not a difference yet, the next run reads it.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Literal, NamedTuple

from psycopg import errors, sql
from psycopg.rows import args_row

from include.errors import EmptyError, TerminalError
from include.extract.horizon import read_horizon
from include.extract.table import Request, extract_table, take_snapshot
from include.load.publish import load_batch
from include.postgres.buckets import Buckets, Side, bucket_of, compare, digest_of
from include.postgres.catalog import Column, raw_columns, source_columns
from include.postgres.sessions import Connection, identifiers, lock_table, snapshot
from include.schema.rows import in_window, rows_of
from include.sources import TableSpec
from include.sql import statement
from include.state import extractions
from include.state.messages import LoadResult, Window

Names = tuple[str, ...] | list[str]

EXAMPLES = 5
RUN = "reconcile__"
"""How the run id of a repair begins."""

Kind = Literal["missing", "differing", "duplicated", "lingering", "extra", "unsettled"]

MEANING: dict[Kind, str] = {
    "missing": "in the source, not in raw",
    "differing": "not the same in raw",
    "duplicated": "more than once in raw",
    "lingering": "in raw, gone from the source: the next run or a repair marks them as deleted",
    "extra": "in raw, gone from the source: kept, as deletes of this table are not followed",
    "unsettled": "changed since the last load: no difference yet, the next run reads them",
}
REAL: tuple[Kind, ...] = ("missing", "differing", "duplicated", "lingering")
"""What should not be. Nothing tells a row deleted since the last load from one that a load has missed."""


class _Row(NamedTuple):
    """A row as it is compared: digests of its key and its contents."""

    key_digest: str
    is_raw: bool
    bucket: int
    key: str
    digest: str
    is_settled: bool


@dataclass
class Report:
    """What a comparison found.

    Attributes:
        table: `source.table`.
        rows: Rows of the source, and living rows of raw.
        differing: Buckets that are not the same.
        counts: Rows by kind.
        examples: The first keys by kind.
        to_repair: Numbers of the buckets that hold a real difference, or a row to be marked as deleted.
    """

    table: str
    rows: tuple[int, int]
    differing: Buckets
    counts: Counter[Kind] = field(default_factory=Counter)
    examples: dict[Kind, list[str]] = field(default_factory=dict)
    to_repair: set[int] = field(default_factory=set)

    @property
    def is_clean(self) -> bool:
        return not any(self.counts[kind] for kind in REAL)

    def add(self, kind: Kind, row: _Row, repair: bool) -> None:
        self.counts[kind] += 1
        examples = self.examples.setdefault(kind, [])
        if len(examples) < EXAMPLES:
            examples.append(f"{row.key} in bucket {row.bucket}")
        if repair:
            self.to_repair.add(row.bucket)

    def __str__(self) -> str:
        lines = [
            f"{self.table}: {self.rows[0]:,} rows in the source, {self.rows[1]:,} in raw; "
            f"{len(self.differing.numbers):,} of {self.differing.count:,} buckets differ"
        ]
        for kind, meaning in MEANING.items():
            if self.counts[kind]:
                lines.append(f"  {self.counts[kind]:>9,} {kind:<11} {meaning}: {', '.join(self.examples[kind])}")
        return "\n".join(lines)


def reconcile(source: Connection, warehouse: Connection, spec: TableSpec) -> Report:
    """Compare a source table with raw, each in one snapshot. Writes nothing.

    Raises:
        EmptyError: the table was never loaded.
    """
    with snapshot(warehouse), snapshot(source):
        # Raw before the source: what a load brings in between is newer than the ledger seen here, so not settled.
        settled = _settled_window(warehouse, spec)
        raw = {column.name for column in raw_columns(warehouse, spec)}
        take_snapshot(source, spec)
        columns = tuple(column for column in source_columns(source, spec) if column.name in raw)
        ours, theirs = Side(source, rows_of(spec, columns)), Side(warehouse, _living(spec, columns))
        names = [column.name for column in columns]
        key = spec.key or names
        compared = compare(ours, theirs, key, names)
        report = Report(spec.name, compared.rows, compared.differing)
        if report.differing.numbers:
            since = sql.SQL("({}) is not true").format(in_window(spec, settled))
            rows = heapq.merge(
                _rows(ours, report.differing, key, names, since),
                _rows(theirs, report.differing, key, names, None),
            )
            for _, same_key in groupby(rows, itemgetter(0)):
                _classify(report, spec, list(same_key))
    return report


def repair(source: Connection, warehouse: Connection, spec: TableSpec, report: Report, run_id: str) -> LoadResult:
    """Read the buckets with real differences again and load them like any batch; the watermark stays.

    A table without a key is read whole: its rows can't be told apart.

    Raises:
        TerminalError: rows stand in raw twice, so its primary key is gone; says how to put it back.
    """
    if report.counts["duplicated"]:
        raise TerminalError(f"{spec.name}: put raw's key back first, then repair: {_restore_key(spec)}")
    extractions.discard_leftovers(warehouse, spec, lambda other: other.startswith(RUN))
    buckets = Buckets(report.differing.count, tuple(sorted(report.to_repair)))
    window = Window("repair", None, None, None, buckets) if spec.key else Window("full", None, None, None)
    request = Request(spec, RUN + run_id, window, read_horizon(source, spec.source))
    return load_batch(warehouse, spec, extract_table(source, warehouse, request))


def _settled_window(warehouse: Connection, spec: TableSpec) -> Window:
    """What the next run reads again: what lies before it has to be in raw already.

    A full table without a cursor is read whole by the next run; nothing in it is settled.
    """
    values = {"source": spec.source, "table": spec.table}
    row = None
    with suppress(errors.UndefinedTable, errors.InvalidSchemaName):
        lock_table(warehouse, spec.raw_schema, spec.table)
        row = warehouse.execute(statement("settled"), values).fetchone()
    if row is None:
        raise EmptyError(f"{spec.name}: it was not loaded yet, there is nothing to compare; run elt_pipeline first")
    return Window("incremental", row[0] - spec.overlap, None, None)


def _living(spec: TableSpec, columns: tuple[Column, ...]) -> sql.Composed:
    return sql.SQL("select {} from {} where _deleted_at is null").format(
        identifiers([column.name for column in columns]), sql.Identifier(spec.raw_schema, spec.table)
    )


def _rows(
    side: Side, buckets: Buckets, key: Names, content: Names, is_settled: sql.Composable | None
) -> Iterator[_Row]:
    """Rows of some buckets in the order of their keys' digests, a block at a time; `is_settled` is None for raw."""
    query = sql.SQL(
        "select {key_digest}, {is_raw}, {bucket}, row({key})::text, {digest}, {is_settled} "
        'from ({rows}) as compared where {wanted} order by {key_digest} collate "C"'
    ).format(
        key_digest=digest_of(identifiers(key)),
        is_raw=sql.Literal(is_settled is None),
        bucket=bucket_of(identifiers(key), buckets.count),
        key=identifiers(key),
        digest=digest_of(identifiers(content)),
        is_settled=is_settled or sql.SQL("true"),
        rows=side.rows,
        wanted=buckets.condition(identifiers(key)),
    )
    with side.connection.cursor(name="rows_to_compare", row_factory=args_row(_Row)) as cursor:
        cursor.itersize = 5_000
        yield from cursor.execute(query)


def _classify(report: Report, spec: TableSpec, rows: list[_Row]) -> None:
    """Note what is wrong with the rows that have one key, if anything is."""
    ours, theirs = ([row for row in rows if row.is_raw is is_raw] for is_raw in (False, True))
    is_settled = all(row.is_settled for row in ours)
    if not ours:
        is_followed = spec.deletes == "soft"
        report.add("lingering" if is_followed else "extra", theirs[0], repair=is_followed)
    elif len(theirs) > len(ours):
        report.add("duplicated" if spec.key else "unsettled", theirs[0], repair=False)
    elif len(theirs) < len(ours):
        report.add("missing" if is_settled else "unsettled", ours[0], repair=is_settled)
    elif {row.digest for row in ours} != {row.digest for row in theirs}:
        report.add("differing" if is_settled else "unsettled", ours[0], repair=is_settled)


def _restore_key(spec: TableSpec) -> str:
    """The statements that leave one of each duplicate and put the primary key back."""
    statements = sql.SQL(
        "delete from {raw} a using {raw} b where ({a}) = ({b}) and a.ctid > b.ctid; "
        "alter table {raw} add primary key ({key})"
    )
    return statements.format(
        raw=sql.Identifier(spec.raw_schema, spec.table),
        a=identifiers(spec.key, sql.SQL("a.")),
        b=identifiers(spec.key, sql.SQL("b.")),
        key=identifiers(spec.key),
    ).as_string()
