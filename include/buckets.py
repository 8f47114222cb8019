"""Buckets: a table in parts by a hash of its keys, so that two servers can compare it, and read again what differs.

Both sides count the rows of each bucket and add up hashes of their contents; only these sums travel. A load that holds
all rows of a bucket knows which rows of raw are gone from the source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from psycopg import sql
from psycopg.rows import namedtuple_row

from include.sessions import Connection, identifiers

ROWS_PER_BUCKET = 256
MOST_BUCKETS = 65_536
"""Their sums fit in a few megabytes. A table of 100 million rows then has some 1,500 rows in a bucket."""

Sums = dict[int, tuple[int, Decimal]]
"""Rows and added hashes by bucket; a bucket without rows is missing."""


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
        return sql.SQL("{} = any ({}::int[])").format(_bucket_of(key, self.count), sql.Literal(list(self.numbers)))


WHOLE = Buckets(1, (0,))
"""The whole table as one bucket."""


def count_for(rows: int) -> int:
    """A power of two that gives buckets of about `ROWS_PER_BUCKET` rows."""
    return min(MOST_BUCKETS, 1 << (rows // ROWS_PER_BUCKET).bit_length())


def sums(connection: Connection, rows: sql.Composable, key: Sequence[str], content: Sequence[str], count: int) -> Sums:
    """Count and hash a relation by bucket.

    Args:
        connection: A pinned session: the text form of values is the same on both sides.
        rows: A query for the rows.
        key: Columns that decide a row's bucket.
        content: Columns whose change is to show.
        count: Number of buckets.
    """
    query = sql.SQL(
        "select {bucket} as bucket, count(*) as rows, sum({hash}) as hash from ({rows}) as counted group by 1"
    ).format(bucket=_bucket_of(identifiers(key), count), hash=hash_of(identifiers(content)), rows=rows)
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        return {row.bucket: (row.rows, row.hash) for row in cursor.execute(query)}


def differing(one: Sums, other: Sums, count: int) -> Buckets:
    """The buckets that are not the same on both sides."""
    return Buckets(count, tuple(sorted(n for n in one.keys() | other.keys() if one.get(n) != other.get(n))))


def hash_of(columns: sql.Composable) -> sql.Composed:
    """64 bits (bigint) of the md5 of a row's text."""
    return sql.SQL("('x' || left({}, 16))::bit(64)::bigint").format(digest_of(columns))


def digest_of(columns: sql.Composable) -> sql.Composed:
    """The md5 of a row's text in UTF-8: servers of any version, encoding and collation agree on it."""
    return sql.SQL("md5(convert_to(row({})::text, 'UTF8'))").format(columns)


def _bucket_of(key: sql.Composable, count: int) -> sql.Composed:
    bits = sql.SQL("(('x' || left({}, 8))::bit(32)::int & {})")
    return bits.format(digest_of(key), sql.Literal(count - 1))
