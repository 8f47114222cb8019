"""A source and a warehouse on an embedded server, `orders` of any size in the one, and what has to be in the other."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from benchmarks.measure import BenchError
from include.local.servers import EmbeddedPostgres

SOURCE, WAREHOUSE, ROLE = "bench_source", "bench_warehouse", "bench"

ROWS_OF = """
    select
        number as id,
        1 + number * 7919 % 100000 as customer_id,
        (number * 104729 % 1000000 / 100.0)::numeric(12, 2) as amount,
        (array['pending', 'paid', 'shipped', 'cancelled', 'returned'])[1 + number % 5] as status,
        timestamptz '2024-01-01' + number % 63072000 * interval '1 second' as created_at,
        {} as updated_at
    from generate_series({}::bigint, {}::bigint) as number
"""

# Of values, not of bytes: a tool may choose other types and has to keep what they mean.
CONTENTS = """
    select count(*), coalesce(sum(hashtextextended(concat_ws('|',
        id::bigint, customer_id::bigint, amount::numeric(12, 2), status,
        extract(epoch from created_at::timestamptz), extract(epoch from updated_at::timestamptz)
    ), 0)::numeric), 0)
    from {}
"""


@dataclass
class Shop:
    """Both databases, reached over TCP by one role, as every contender does.

    Attributes:
        folder: For what a contender keeps between its loads.
        contents: Rows and hash of the source's `orders`, once they were needed.
        changes: How often `orders` was changed.
    """

    source: str
    warehouse: str
    psql: Path
    admin: str
    folder: Path
    contents: tuple[int, int] | None = None
    changes: int = 0

    def fill(self, rows: int) -> None:
        """Make `orders` anew with this many rows, all last changed in the past."""
        self.contents = None
        past = sql.SQL("timestamptz '2024-01-01' + number % 63072000 * interval '1 second'")
        with psycopg.connect(self.source, autocommit=True) as connection:
            connection.execute("drop table if exists orders")
            connection.execute(
                "create table orders (id bigint, customer_id bigint not null, amount numeric(12, 2) not null, "
                "status text not null, created_at timestamptz not null, updated_at timestamptz not null)"
            )
            connection.execute(sql.SQL("insert into orders " + ROWS_OF).format(past, 1, rows))
            connection.execute("alter table orders add primary key (id)")
            connection.execute("create index on orders (updated_at)")
            connection.execute("vacuum (analyze) orders")

    def change(self, rows: int) -> str:
        """Change `orders` by this many rows, half by updates spread over the table and half by inserts.

        Returns:
            The instant they all carry.
        """
        self.contents = None
        half = rows // 2
        with psycopg.connect(self.source) as connection:
            count, now = connection.execute("select count(*), now() from orders").fetchone()
            step = count // half
            # Each time other rows, one by one in no order of the keys, as an application does: their new versions lie
            # and arrive in that order, and no later change finds them side by side.
            self.changes += 1
            connection.execute("set local enable_hashjoin = off; set local enable_mergejoin = off")
            connection.execute(
                """
                update orders set status = 'returned', updated_at = now()
                from (
                    select id * %(step)s - %(changes)s %% %(step)s as id
                    from generate_series(1, %(half)s) as id order by hashint8(id)
                ) as picked
                where orders.id = picked.id""",
                {"step": step, "half": half, "changes": self.changes},
            )
            insert = sql.SQL("insert into orders " + ROWS_OF)
            connection.execute(insert.format(sql.SQL("now()"), count + 1, count + half))
        with psycopg.connect(self.source, autocommit=True) as connection:
            connection.execute("vacuum (analyze) orders")
        return now.isoformat()

    def settle(self) -> None:
        """Write out what earlier contenders left dirty, so that none pays for another."""
        with psycopg.connect(self.admin, autocommit=True) as connection:
            connection.execute("checkpoint")

    def empty(self, schema: str, statements: tuple[str, ...] = ()) -> None:
        """Give a contender its schema anew, and what it expects in it."""
        with psycopg.connect(self.warehouse) as connection:
            for name in (schema, *(("_elt",) if schema == "raw_shop" else ())):
                connection.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(name)))
            connection.execute(sql.SQL("create schema {}").format(sql.Identifier(schema)))
            for statement in statements:
                connection.execute(statement.format(schema=schema))

    def is_in(self, schema: str) -> bool:
        """Whether the contender's table holds the rows of the source and no others."""
        self.contents = self.contents or _contents(self.source, "public")
        return _contents(self.warehouse, schema) == self.contents

    def check(self, schema: str) -> None:
        """Compare the contender's table with the source.

        Raises:
            BenchError: rows are missing, too many or different.
        """
        if not self.is_in(schema):
            found = _contents(self.warehouse, schema)
            raise BenchError(
                f"{schema}.orders has rows and hash {found}, the source has {self.contents}: it does not count"
            )


def _contents(dsn: str, schema: str) -> tuple[int, int] | None:
    """Rows and hash of the `orders` of a schema; None where there is none."""
    orders = sql.Identifier(schema, "orders")
    with psycopg.connect(dsn) as connection:
        connection.execute("set time zone 'UTC'")
        if connection.execute("select to_regclass(%s)", (orders.as_string(),)).fetchone() == (None,):
            return None
        return connection.execute(sql.SQL(CONTENTS).format(orders)).fetchone()


@contextmanager
def open_shop(folder: Path) -> Iterator[Shop]:
    """A server of its own with fsync on, and the share of memory that PostgreSQL advises; removed at the end."""
    password = secrets.token_urlsafe(12)
    buffers = f"{psutil.virtual_memory().total // 4 // 1024**2}MB"
    server = EmbeddedPostgres(folder / "postgres", settings={"max_wal_size": "8GB", "shared_buffers": buffers})
    try:
        server.start()
        with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as connection:
            create = sql.SQL("create role {} login password {} in role pg_read_all_stats")
            connection.execute(create.format(sql.Identifier(ROLE), sql.Literal(password)))
            for name in (SOURCE, WAREHOUSE):
                create = sql.SQL("create database {} owner {}")
                connection.execute(create.format(sql.Identifier(name), sql.Identifier(ROLE)))
        for name in (SOURCE, WAREHOUSE):
            with psycopg.connect(server.superuser_dsn(name)) as connection:
                connection.execute(sql.SQL("alter schema public owner to {}").format(sql.Identifier(ROLE)))
        source, warehouse = (server.dsn(ROLE, password, name) for name in (SOURCE, WAREHOUSE))
        yield Shop(source, warehouse, server.psql, server.superuser_dsn("postgres"), folder)
    finally:
        server.remove()
