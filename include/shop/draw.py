"""What the shop's rows look like: drawn with numpy, as frames that are ready to be copied.

Money is integer cents in numpy and numeric in Postgres. Dividing cents by 100.0 gives the double nearest to the
decimal, and its shortest text is that decimal again, so CSV carries the amount to the cent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

HISTORY = timedelta(days=730)
RECENT = timedelta(days=5)
RECENT_SHARE = 0.08
ITEMS_PER_ORDER = (0.27, 0.28, 0.22, 0.14, 0.09)  # of 1 to 5 items: 2.5 on average
DISCOUNTS_PERCENT = (100, 100, 100, 95, 90, 80)

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


def history(orders: int, seed: int, now: datetime) -> dict[str, pd.DataFrame]:
    """Two years of a shop that end at `now`, a frame for each table; the same arguments give the same rows."""
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
    products = Products(product_ids, draw_cents(rng, len(product_ids)))
    baskets = draw_baskets(rng, orders, products)

    return {
        "customers": draw_customers(rng, customer_ids).assign(**_times(rng, customer_created, end, 0.3, HISTORY)),
        "products": draw_products(rng, products).assign(**_times(rng, product_created, end, 0.5, HISTORY)),
        "orders": draw_orders(
            np.arange(1, orders + 1), customer_ids[buyers], _statuses(rng, ordered, end), baskets
        ).assign(**_times(rng, ordered, end, 0.8, timedelta(days=10))),
        "order_items": draw_items(np.arange(1, len(baskets.order) + 1), np.arange(1, orders + 1), baskets).assign(
            **_times(rng, ordered[baskets.order], end, 0.05, timedelta(days=3))
        ),
    }


def draw_cents(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.round(np.exp(rng.normal(7.8, 0.9, count))).astype(np.int64).clip(99, 500_000)


def draw_baskets(rng: np.random.Generator, orders: int, products: Products) -> Baskets:
    order = np.repeat(np.arange(orders), rng.choice(np.arange(1, 6), orders, p=ITEMS_PER_ORDER))
    product = rng.integers(0, len(products.ids), len(order))
    quantity = rng.integers(1, 4, len(order))
    unit_cents = products.cents[product] * rng.choice(DISCOUNTS_PERCENT, len(order)) // 100
    amount_cents = np.zeros(orders, dtype=np.int64)
    np.add.at(amount_cents, order, quantity * unit_cents)
    return Baskets(order, products.ids[product], quantity, unit_cents, amount_cents)


def draw_customers(rng: np.random.Generator, ids: np.ndarray) -> pd.DataFrame:
    first, last = rng.choice(FIRST_NAMES, len(ids)), rng.choice(LAST_NAMES, len(ids))
    names = np.char.add(np.char.add(first, " "), last).astype(object)
    awkward = ids % 500 == 7
    names[awkward] = AWKWARD_NAMES[ids[awkward] // 500 % len(AWKWARD_NAMES)]
    domains = rng.choice(["example.com", "example.org", "mail.example"], len(ids))
    emails = [f"customer{id_}@{domain}" for id_, domain in zip(ids, domains)]
    return pd.DataFrame({"id": ids, "name": names, "email": emails})


def draw_products(rng: np.random.Generator, products: Products) -> pd.DataFrame:
    count = len(products.ids)
    names = [f"{a} {n} {i}" for a, n, i in zip(rng.choice(ADJECTIVES, count), rng.choice(NOUNS, count), products.ids)]
    category = rng.choice(CATEGORIES, count)
    return pd.DataFrame({"id": products.ids, "name": names, "price": products.cents / 100.0, "category": category})


def draw_orders(ids: np.ndarray, customer_ids: np.ndarray, status: np.ndarray, baskets: Baskets) -> pd.DataFrame:
    amount = baskets.amount_cents / 100.0
    return pd.DataFrame({"id": ids, "customer_id": customer_ids, "amount": amount, "status": status})


def draw_items(ids: np.ndarray, order_ids: np.ndarray, baskets: Baskets) -> pd.DataFrame:
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
