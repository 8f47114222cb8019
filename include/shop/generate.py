"""Makes and changes the shop's data: seeded, set-based, one transaction each.

Money is integer cents in numpy and numeric in Postgres. Dividing cents by 100.0 gives the double nearest to the
decimal, and its shortest text is that decimal again, so CSV carries the amount to the cent.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import psycopg
from psycopg import sql

TABLES = ("customers", "products", "orders", "order_items")
HISTORY = timedelta(days=730)
RECENT = timedelta(days=5)
RECENT_SHARE = 0.08
ITEMS_PER_ORDER = (0.27, 0.28, 0.22, 0.14, 0.09)  # of 1 to 5 items: 2.5 on average
DISCOUNTS_PERCENT = (100, 100, 100, 95, 90, 80)
CHUNK_ROWS = 50_000
SCHEMA = Path(__file__).with_name("schema.sql")

FIRST_NAMES = np.array(
    "Ada Amélie Björn Chloé Daniel Elif Émile Fatima Grace Hans İnci João Kenji Léa Łukasz María Nia Olga Priya Quang "
    "Rosa Søren Tomás Uma Văn Wei Ximena Yara Zoë 美咲".split()
)
LAST_NAMES = np.array(
    "Adeyemi|Brontë|Çelik|D'Angelo|Eriksson|Fernández|García|Hughes|Ito|Jansen|Kowalski|Lefèvre|Müller|Nguyen|O'Brien|"
    "Petrov|Quispe|Rossi|Silva|Tanaka|Ünal|van der Berg|Wang|Xu|Yılmaz|Żak".split("|")
)
# One in 500 customers has a name that a careless pipe breaks on.
AWKWARD_NAMES = np.array(
    [
        'Ann "Annie" Lee',
        "Line\nBreak",
        "Tab\tStop",
        r"Back\slash",
        r"\N",
        "Comma, Inc.",
        "Zoë 😀",
        "%s {} $1",
        "CR\r\nLF",
    ]
)
CATEGORIES = np.array(["Books", "Café & tea", "Electronics", "Garden", "Home", 'Kids\' "play"', "Sport", "Toys"])
ADJECTIVES = np.array("Blue Compact Classic Deluxe Eco Foldable Große Handmade Little Modern Solid Vintage".split())
NOUNS = np.array('Backpack|Bottle|Chair|Desk|Kettle|Lamp|Mug|Novel|5" Phone|Puzzle|Racket|Tent'.split("|"))
STATUSES = np.array(["pending", "paid", "shipped", "cancelled", "returned"])


@dataclass(frozen=True)
class Products:
    """Products that can be sold: ids and today's price in cents, position by position."""

    ids: np.ndarray
    cents: np.ndarray


@dataclass(frozen=True)
class Baskets:
    """Items of a batch of orders: `order` is the position of the order in the batch; one element per item."""

    order: np.ndarray
    product_id: np.ndarray
    quantity: np.ndarray
    unit_cents: np.ndarray
    amount_cents: np.ndarray  # one element per order: the sum of its items


def shop_exists(conn: psycopg.Connection) -> bool:
    """Tells whether all four tables exist and orders has rows. Leaves no transaction open."""
    with conn.transaction():
        tables = [f"public.{table}" for table in TABLES]
        query = "select count(to_regclass(name)) = %s from unnest(%s::text[]) as name"
        if not conn.execute(query, (len(TABLES), tables)).fetchone()[0]:
            return False
        return conn.execute("select exists (select from public.orders)").fetchone()[0]


def create_shop(conn: psycopg.Connection, orders: int, seed: int, now: datetime) -> dict[str, int]:
    """Creates the four tables and fills them with two years of history that ends at `now`.

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
    rng = np.random.default_rng(seed)
    end = _micros(now.astimezone(UTC))
    start = end - _micros_of(HISTORY)
    day = _micros_of(timedelta(days=1))

    customer_ids = np.arange(1, max(1, orders // 10) + 1)
    product_ids = np.arange(1, max(50, orders // 200) + 1)
    customer_created = start + day + rng.integers(0, _micros_of(HISTORY) - 2 * day, len(customer_ids))
    product_created = start + rng.integers(0, day, len(product_ids))
    buyers = rng.integers(0, len(customer_ids), orders)
    ordered = _order_times(rng, customer_created[buyers], end)
    buyers, ordered = buyers[np.argsort(ordered)], np.sort(ordered)  # ids ascend with time
    products = Products(product_ids, _draw_cents(rng, len(product_ids)))
    baskets = _draw_baskets(rng, orders, products)

    frames = {
        "customers": _customers(rng, customer_ids).assign(**_times(rng, customer_created, end, 0.3, HISTORY)),
        "products": _products(rng, products).assign(**_times(rng, product_created, end, 0.5, HISTORY)),
        "orders": _orders(np.arange(1, orders + 1), customer_ids[buyers], _statuses(rng, ordered, end), baskets).assign(
            **_times(rng, ordered, end, 0.8, timedelta(days=10))
        ),
        "order_items": _items(np.arange(1, len(baskets.order) + 1), np.arange(1, orders + 1), baskets).assign(
            **_times(rng, ordered[baskets.order], end, 0.05, timedelta(days=3))
        ),
    }
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
    """Inserts and updates a slice of every table, as a day of business would; stamped with the database's now().

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
    _copy(conn, "customers", _customers(rng, new["customers"]))
    _copy(conn, "products", _products(rng, Products(new["products"], _draw_cents(rng, len(new["products"])))))

    sold = conn.execute(
        "select id, (price * 100)::bigint from public.products where id = any(%s) order by id",
        (_pick_ids(conn, rng, "products", 0.2) + new["products"].tolist(),),
    ).fetchall()
    products = Products(np.array([row[0] for row in sold]), np.array([row[1] for row in sold]))
    buyers = rng.choice(_pick_ids(conn, rng, "customers", 0.02) + new["customers"].tolist(), len(new["orders"]))
    baskets = _draw_baskets(rng, len(new["orders"]), products)
    _copy(conn, "orders", _orders(new["orders"], buyers, rng.choice(["pending", "paid"], len(buyers)), baskets))
    item_ids = _new_ids(conn, "order_items", len(baskets.order))
    _copy(conn, "order_items", _items(item_ids, new["orders"], baskets))
    return {table: len(ids) for table, ids in new.items()} | {"order_items": len(item_ids)}


def _draw_cents(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.round(np.exp(rng.normal(7.8, 0.9, count))).astype(np.int64).clip(99, 500_000)


def _draw_baskets(rng: np.random.Generator, orders: int, products: Products) -> Baskets:
    order = np.repeat(np.arange(orders), rng.choice(np.arange(1, 6), orders, p=ITEMS_PER_ORDER))
    product = rng.integers(0, len(products.ids), len(order))
    quantity = rng.integers(1, 4, len(order))
    unit_cents = products.cents[product] * rng.choice(DISCOUNTS_PERCENT, len(order)) // 100
    amount_cents = np.zeros(orders, dtype=np.int64)
    np.add.at(amount_cents, order, quantity * unit_cents)
    return Baskets(order, products.ids[product], quantity, unit_cents, amount_cents)


def _customers(rng: np.random.Generator, ids: np.ndarray) -> pd.DataFrame:
    first, last = rng.choice(FIRST_NAMES, len(ids)), rng.choice(LAST_NAMES, len(ids))
    names = np.char.add(np.char.add(first, " "), last).astype(object)
    awkward = ids % 500 == 7
    names[awkward] = AWKWARD_NAMES[ids[awkward] // 500 % len(AWKWARD_NAMES)]
    domains = rng.choice(["example.com", "example.org", "mail.example"], len(ids))
    emails = [f"customer{id_}@{domain}" for id_, domain in zip(ids, domains)]
    return pd.DataFrame({"id": ids, "name": names, "email": emails})


def _products(rng: np.random.Generator, products: Products) -> pd.DataFrame:
    count = len(products.ids)
    names = [f"{a} {n} {i}" for a, n, i in zip(rng.choice(ADJECTIVES, count), rng.choice(NOUNS, count), products.ids)]
    category = rng.choice(CATEGORIES, count)
    return pd.DataFrame({"id": products.ids, "name": names, "price": products.cents / 100.0, "category": category})


def _orders(ids: np.ndarray, customer_ids: np.ndarray, status: np.ndarray, baskets: Baskets) -> pd.DataFrame:
    amount = baskets.amount_cents / 100.0
    return pd.DataFrame({"id": ids, "customer_id": customer_ids, "amount": amount, "status": status})


def _items(ids: np.ndarray, order_ids: np.ndarray, baskets: Baskets) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": ids,
            "order_id": order_ids[baskets.order],
            "product_id": baskets.product_id,
            "quantity": baskets.quantity,
            "unit_price": baskets.unit_cents / 100.0,
        }
    )


def _order_times(rng: np.random.Generator, customer_created: np.ndarray, end: int) -> np.ndarray:
    """Instants after the customer came, RECENT_SHARE of them in the last days."""
    spread = customer_created + (rng.random(len(customer_created)) * (end - customer_created)).astype(np.int64)
    recent = end - rng.integers(0, _micros_of(RECENT), len(customer_created))
    is_recent = (rng.random(len(customer_created)) < RECENT_SHARE) & (recent >= customer_created)
    return np.where(is_recent, recent, spread)


def _statuses(rng: np.random.Generator, ordered: np.ndarray, end: int) -> np.ndarray:
    is_recent = ordered > end - _micros_of(RECENT)
    settled = rng.choice(len(STATUSES), len(ordered), p=(0.01, 0.04, 0.83, 0.07, 0.05))
    recent = rng.choice(len(STATUSES), len(ordered), p=(0.35, 0.40, 0.20, 0.05, 0.0))
    return STATUSES[np.where(is_recent, recent, settled)]


def _times(
    rng: np.random.Generator, created: np.ndarray, end: int, changed_share: float, within: timedelta
) -> dict[str, np.ndarray]:
    """Both time columns; `changed_share` of the rows changed up to `within` after creation, never after `end`."""
    delay = (rng.random(len(created)) * np.minimum(end - created, _micros_of(within))).astype(np.int64)
    updated = created + np.where(rng.random(len(created)) < changed_share, delay, 0)
    return {"created_at": _timestamp_text(created), "updated_at": _timestamp_text(updated)}


def _timestamp_text(micros: np.ndarray) -> np.ndarray:
    return np.datetime_as_string(micros.astype("datetime64[us]"), timezone="UTC")


def _micros(instant: datetime) -> int:
    return (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _micros_of(span: timedelta) -> int:
    return span // timedelta(microseconds=1)


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
