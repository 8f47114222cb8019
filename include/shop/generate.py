"""Make and change the shop's data: seeded, set-based, one transaction each."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

from include.shop.draw import (
    Products,
    draw_baskets,
    draw_cents,
    draw_customers,
    draw_items,
    draw_orders,
    draw_products,
    history,
)

TABLES = ("customers", "products", "orders", "order_items")
CHUNK_ROWS = 50_000
SCHEMA = Path(__file__).with_name("schema.sql")


def shop_exists(conn: psycopg.Connection) -> bool:
    """Tell whether all four tables exist and orders has rows. Leaves no transaction open."""
    with conn.transaction():
        tables = [f"public.{table}" for table in TABLES]
        query = "select count(to_regclass(name)) = %s from unnest(%s::text[]) as name"
        if not conn.execute(query, (len(TABLES), tables)).fetchone()[0]:
            return False
        return conn.execute("select exists (select from public.orders)").fetchone()[0]


def create_shop(conn: psycopg.Connection, orders: int, seed: int, now: datetime) -> dict[str, int]:
    """Create the four tables and fill them with two years of history that ends at `now`.

    One transaction: killed in the middle it leaves nothing. The same arguments give the same rows.

    Args:
        conn: Connection that may create tables in schema public.
        orders: Number of orders, at least 1; customers are a tenth, items about 2.5 times as many.
        seed: Seed of every random choice.
        now: Latest instant in the data, with a time zone.

    Returns:
        Rows per table.

    Raises:
        ValueError: The shop has orders already, `orders` is below 1, or `now` is naive. Retrying does not help.
    """
    if orders < 1:
        raise ValueError(f"orders must be at least 1, not {orders}")
    if now.tzinfo is None:
        raise ValueError(f"now needs a time zone: {now.isoformat()}")
    frames = history(orders, seed, now)
    with conn.transaction():
        if shop_exists(conn):
            raise ValueError("the shop has orders already: change it with change_shop, or drop its tables first")
        tables, keys = SCHEMA.read_text(encoding="utf-8").split("-- After the rows:")
        conn.execute(tables)
        for table, frame in frames.items():
            _copy(conn, table, frame)
            _advance_ids(conn, table, len(frame))
        conn.execute(f"-- {keys}")
        conn.execute("analyze public.customers, public.products, public.orders, public.order_items")
    return {table: len(frame) for table, frame in frames.items()}


def change_shop(conn: psycopg.Connection, seed: int, share: float = 0.01) -> dict[str, int]:
    """Insert and update a slice of every table, as a day of business would; stamped with the database's now().

    One transaction; may be called any number of times. Every order's amount stays the sum of its items.

    Args:
        conn: Connection that may write the shop's tables.
        seed: Seed of every random choice; another seed touches other rows.
        share: Fraction of each table's rows to insert, and again to update; at least one row each. Open at 0.

    Returns:
        Rows inserted or updated, per table.
    """
    rng = np.random.default_rng(seed)
    with conn.transaction():
        changed = _update_slice(conn, rng, share)
        inserted = _insert_slice(conn, rng, share)
    return {table: changed[table] + inserted[table] for table in TABLES}


def _update_slice(conn: psycopg.Connection, rng: np.random.Generator, share: float) -> dict[str, int]:
    picked = {table: _pick_ids(conn, rng, table, share) for table in TABLES}
    customers = conn.execute(
        "update public.customers set email = format('c%%s.%%s@example.net', id, extract(epoch from clock_timestamp()))"
        " where id = any(%s)",
        (picked["customers"],),
    ).rowcount
    products = conn.execute(
        "update public.products set price = greatest(0.5, least(99999, round(price * %s::numeric, 2))) + 0.01"
        " where id = any(%s)",
        (float(rng.choice([0.95, 0.98, 1.03, 1.05])), picked["products"]),
    ).rowcount
    items = conn.execute(
        "update public.order_items set quantity = 1 + quantity %% 5 where id = any(%s) returning order_id",
        (picked["order_items"],),
    ).fetchall()
    orders = conn.execute(
        """
        update public.orders as o
        set status = case
                when o.id <> all(%(picked)s) then o.status
                when o.status = 'pending' and o.id %% 7 = 0 then 'cancelled'
                when o.status in ('pending', 'returned') then 'paid'
                when o.status = 'paid' then 'shipped'
                when o.status = 'shipped' then 'returned'
                else 'pending'
            end,
            amount = (
                select coalesce(sum(i.quantity * i.unit_price), 0) from public.order_items as i where i.order_id = o.id
            )
        where o.id = any(%(touched)s)
        """,
        {"picked": picked["orders"], "touched": picked["orders"] + [order_id for (order_id,) in items]},
    ).rowcount
    return {"customers": customers, "products": products, "orders": orders, "order_items": len(items)}


def _insert_slice(conn: psycopg.Connection, rng: np.random.Generator, share: float) -> dict[str, int]:
    new = {
        table: _new_ids(conn, table, _slice_size(_last_id(conn, table), share))
        for table in ("customers", "products", "orders")
    }
    _copy(conn, "customers", draw_customers(rng, new["customers"]))
    _copy(conn, "products", draw_products(rng, Products(new["products"], draw_cents(rng, len(new["products"])))))

    sold = conn.execute(
        "select id, (price * 100)::bigint from public.products where id = any(%s) order by id",
        (_pick_ids(conn, rng, "products", 0.2) + new["products"].tolist(),),
    ).fetchall()
    products = Products(np.array([row[0] for row in sold]), np.array([row[1] for row in sold]))
    buyers = rng.choice(_pick_ids(conn, rng, "customers", 0.02) + new["customers"].tolist(), len(new["orders"]))
    baskets = draw_baskets(rng, len(new["orders"]), products)
    _copy(conn, "orders", draw_orders(new["orders"], buyers, rng.choice(["pending", "paid"], len(buyers)), baskets))
    item_ids = _new_ids(conn, "order_items", len(baskets.order))
    _copy(conn, "order_items", draw_items(item_ids, new["orders"], baskets))
    return {table: len(ids) for table, ids in new.items()} | {"order_items": len(item_ids)}


def _copy(conn: psycopg.Connection, table: str, frame: pd.DataFrame) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, frame.columns))
    statement = sql.SQL("copy {} ({}) from stdin (format csv)").format(sql.Identifier("public", table), columns)
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for first in range(0, len(frame), CHUNK_ROWS):
            copy.write(frame.iloc[first : first + CHUNK_ROWS].to_csv(index=False, header=False, lineterminator="\n"))


def _advance_ids(conn: psycopg.Connection, table: str, last_id: int) -> None:
    conn.execute("select setval(pg_get_serial_sequence(%s, 'id'), %s)", (f"public.{table}", last_id))


def _new_ids(conn: psycopg.Connection, table: str, count: int) -> np.ndarray:
    query = "select nextval(pg_get_serial_sequence(%s, 'id')) from generate_series(1, %s)"
    return np.array([id_ for (id_,) in conn.execute(query, (f"public.{table}", count))])


def _last_id(conn: psycopg.Connection, table: str) -> int:
    return conn.execute(sql.SQL("select max(id) from {}").format(sql.Identifier("public", table))).fetchone()[0]


def _slice_size(last_id: int, share: float) -> int:
    return max(1, round(last_id * share))


def _pick_ids(conn: psycopg.Connection, rng: np.random.Generator, table: str, share: float) -> list[int]:
    """About `share` of the table's ids: the next existing id at or above random numbers, so that gaps do no harm."""
    last_id = _last_id(conn, table)
    guesses = rng.integers(1, last_id + 1, _slice_size(last_id, share)).tolist()
    query = sql.SQL(
        "select distinct (select id from {table} where id >= guess order by id limit 1)"
        " from unnest(%s::bigint[]) as guess"
    ).format(table=sql.Identifier("public", table))
    return sorted(id_ for (id_,) in conn.execute(query, (guesses,)))
