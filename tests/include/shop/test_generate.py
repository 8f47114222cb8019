"""The sample shop on a real PostgreSQL: exact money, plausible history, all or nothing, changes without end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from include.shop import draw, generate
from include.shop.generate import TABLES, change_shop, create_shop, shop_exists
from tests.conftest import Postgres

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ORDERS = 2_000
WRONG_AMOUNTS = """
    select count(*) from orders as o
    where o.amount is distinct from (select sum(quantity * unit_price) from order_items where order_id = o.id)
"""


@pytest.fixture
def conn(postgres: Postgres) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.database(), autocommit=True) as connection:
        yield connection


@pytest.fixture
def shop(conn: psycopg.Connection) -> psycopg.Connection:
    create_shop(conn, ORDERS, seed=7, now=NOW)
    return conn


def value(conn: psycopg.Connection, query: str) -> Any:
    return conn.execute(query).fetchone()[0]


def contents(conn: psycopg.Connection) -> list[list[tuple[Any, ...]]]:
    return [conn.execute(f"select * from {table} order by id").fetchall() for table in TABLES]


def test_sizes_follow_the_number_of_orders(conn: psycopg.Connection) -> None:
    counts = create_shop(conn, ORDERS, seed=7, now=NOW)

    assert counts == {table: value(conn, f"select count(*) from {table}") for table in TABLES}
    assert (counts["customers"], counts["products"], counts["orders"]) == (200, 50, ORDERS)
    assert 2.3 < counts["order_items"] / ORDERS < 2.7
    assert value(conn, "select max(n) from (select count(*) as n from order_items group by order_id) as x") <= 5


def test_amounts_are_exact(shop: psycopg.Connection) -> None:
    assert value(shop, WRONG_AMOUNTS) == 0


def test_same_seed_same_rows(shop: psycopg.Connection, postgres: Postgres) -> None:
    with psycopg.connect(postgres.database(), autocommit=True) as other:
        create_shop(other, ORDERS, seed=7, now=NOW)
        assert contents(other) == contents(shop)


@pytest.mark.parametrize("table", TABLES)
def test_times_are_ordered_and_within_the_history(shop: psycopg.Connection, table: str) -> None:
    wrong = f"select count(*) from {table} where created_at > updated_at or updated_at > '{NOW}'"
    assert value(shop, wrong) == 0
    assert value(shop, f"select min(created_at) from {table}") >= NOW - draw.HISTORY


def test_each_of_the_last_five_days_has_changes(shop: psycopg.Connection) -> None:
    for days in range(5):
        window = (NOW - timedelta(days=days + 1), NOW - timedelta(days=days))
        query = "select count(*) from orders where updated_at >= %s and updated_at < %s"
        assert shop.execute(query, window).fetchone()[0] >= 10


def test_names_try_the_pipe(conn: psycopg.Connection) -> None:
    create_shop(conn, 50_000, seed=7, now=NOW)
    names = {name for (name,) in conn.execute("select name from customers where id % 500 = 7")}
    assert names == set(draw.AWKWARD_NAMES)


def test_killed_in_the_middle_leaves_nothing(conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "_advance_ids", die)
    with pytest.raises(KeyboardInterrupt):
        create_shop(conn, 100, seed=7, now=NOW)

    assert not shop_exists(conn)
    assert value(conn, "select to_regclass('public.customers') is null")


def test_shop_exists_only_with_orders(conn: psycopg.Connection) -> None:
    assert not shop_exists(conn)
    conn.execute(generate.SCHEMA.read_text(encoding="utf-8"))
    assert not shop_exists(conn)
    create_shop(conn, 100, seed=7, now=NOW)
    assert shop_exists(conn)


def test_schema_may_be_applied_again(shop: psycopg.Connection) -> None:
    before = contents(shop)
    shop.execute(generate.SCHEMA.read_text(encoding="utf-8"))
    assert contents(shop) == before


@pytest.mark.parametrize(
    ("orders", "now", "message"), [(0, NOW, "at least 1"), (10, NOW.replace(tzinfo=None), "needs a time zone")]
)
def test_bad_arguments_are_named(conn: psycopg.Connection, orders: int, now: datetime, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_shop(conn, orders, seed=7, now=now)


def test_a_shop_is_not_created_twice(shop: psycopg.Connection) -> None:
    with pytest.raises(ValueError, match="orders already"):
        create_shop(shop, 10, seed=7, now=NOW)
    assert value(shop, "select count(*) from orders") == ORDERS


def test_changes_go_on_for_ever_and_keep_amounts_exact(shop: psycopg.Connection) -> None:
    for seed in range(5):
        start = value(shop, "select clock_timestamp()")
        before = {table: value(shop, f"select count(*) from {table}") for table in TABLES}
        counts = change_shop(shop, seed, share=0.05)

        for table in TABLES:
            changed = shop.execute(f"select count(*) from {table} where updated_at >= %s", (start,)).fetchone()[0]
            assert changed == counts[table]
            inserted = value(shop, f"select count(*) from {table}") - before[table]
            assert 0 < inserted < changed
        assert value(shop, WRONG_AMOUNTS) == 0


def test_the_smallest_shop_changes_too(conn: psycopg.Connection) -> None:
    create_shop(conn, 1, seed=7, now=NOW)
    assert all(rows > 1 for rows in change_shop(conn, seed=1).values())
    conn.execute("insert into customers (name, email) values ('Next', 'next@example.com')")


def test_update_is_stamped_unless_it_sets_the_time_itself(shop: psycopg.Connection) -> None:
    shop.execute("update orders set status = 'paid' where id = 1")
    assert value(shop, "select updated_at > now() - interval '1 minute' from orders where id = 1")
    shop.execute("update orders set updated_at = '2020-01-01Z' where id = 1")
    assert value(shop, "select updated_at = '2020-01-01Z' from orders where id = 1")


def test_works_on_a_connection_without_autocommit(postgres: Postgres) -> None:
    uri = postgres.database()
    with psycopg.connect(uri) as first:
        assert not shop_exists(first)
        create_shop(first, 100, seed=7, now=NOW)
        with psycopg.connect(uri) as second:
            assert shop_exists(second)
