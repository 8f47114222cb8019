"""Buckets: a table in parts by a hash of its keys, so that two servers can compare it, and read again what differs.

Both sides count the rows of each bucket and add up hashes of their contents; only these sums travel. A load that holds
all rows of a bucket knows which rows of raw are gone from the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal

import structlog
from psycopg import sql
from psycopg.rows import namedtuple_row

from include.postgres.catalog import estimated_rows
from include.postgres.sessions import Connection, identifiers

log = structlog.get_logger(__name__)

ROWS_PER_BUCKET = 256
MOST_BUCKETS = 65_536
"""Their sums fit in a few megabytes. A table of 100 million rows then has some 1,500 rows in a bucket."""


@dataclass(frozen=True)
class Side:
    """One of two relations to compare: a pinned session, and a query for the rows."""

    connection: Connection
    rows: sql.Composable


@dataclass(frozen=True)
class Buckets:
    """Some buckets of a table.

    Attributes:
        count: In how many the table is divided, a power of two.
        numbers: Which of them, from 0 on.
    """

    count: int
    numbers: tuple[int, ...]

    def condition(self, key: sql.Composable) -> sql.Composable:
        """Whether the row with this key (its columns, comma separated) is in one of them."""
        if len(self.numbers) == self.count:
            return sql.SQL("true")
        return sql.SQL("{} = any ({}::int[])").format(bucket_of(key, self.count), sql.Literal(list(self.numbers)))


WHOLE = Buckets(1, (0,))
"""The whole table as one bucket."""


def count_for(rows: int) -> int:
    """A power of two that gives buckets of about `ROWS_PER_BUCKET` rows."""
    return min(MOST_BUCKETS, 1 << (rows // ROWS_PER_BUCKET).bit_length())


@dataclass(frozen=True)
class Comparison:
    """Rows of either side, and the buckets in which they are not the same."""

    rows: tuple[int, int]
    differing: Buckets


def compare(one: Side, other: Side, key: Sequence[str], content: Sequence[str]) -> Comparison:
    """Compare two relations by bucket; both servers work at the same time.

    Args:
        one: Its planner's estimate decides how many buckets there are.
        other: The other side.
        key: Columns that decide a row's bucket.
        content: Columns whose difference is to show.
    """
    count = count_for(estimated_rows(one.connection, one.rows))
    with ThreadPoolExecutor(1) as beside:
        theirs = beside.submit(_sums, other, key, content, count)
        sums = (_sums(one, key, content, count), theirs.result())
    found = {bucket for bucket, _ in sums[0].items() ^ sums[1].items()}
    log.info("buckets compared", buckets=count, differing=len(found))
    ours, others = (sum(rows for rows, _ in side.values()) for side in sums)
    return Comparison((ours, others), Buckets(count, tuple(sorted(found))))


def _sums(side: Side, key: Sequence[str], content: Sequence[str], count: int) -> dict[int, tuple[int, Decimal]]:
    """Rows and added hashes by bucket; a bucket without rows is missing."""
    query = sql.SQL(
        "select {bucket} as bucket, count(*) as rows, sum({hash}) as hash from ({rows}) as counted group by 1"
    ).format(bucket=bucket_of(identifiers(key), count), hash=hash_of(identifiers(content)), rows=side.rows)
    with side.connection.cursor(row_factory=namedtuple_row) as cursor:
        return {row.bucket: (row.rows, row.hash) for row in cursor.execute(query)}


def hash_of(columns: sql.Composable) -> sql.Composed:
    """64 bits (bigint) of the md5 of a row's text."""
    return sql.SQL("('x' || left({}, 16))::bit(64)::bigint").format(digest_of(columns))


def digest_of(columns: sql.Composable) -> sql.Composed:
    """The md5 of a row's text in UTF-8: servers of any version, encoding and collation agree on it."""
    return sql.SQL("md5(convert_to(row({})::text, 'UTF8'))").format(columns)


def bucket_of(key: sql.Composable, count: int) -> sql.Composed:
    """The bucket of the row with this key."""
    bits = sql.SQL("(('x' || left({}, 8))::bit(32)::int & {})")
    return bits.format(digest_of(key), sql.Literal(count - 1))
