"""One day in the life of the sample shop: made on the first day, changed a little on each later one.

`python -m include.shop.advance` does it in the database that libpq's variables (PGHOST, PGUSER, …) name.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import psycopg

from include.shop.generate import change_shop, create_shop, shop_exists


def advance(connection: psycopg.Connection, orders: int, seed: int) -> str:
    """First create the shop, later insert and update a slice of it; one transaction either way.

    Args:
        connection: Of the shop's owner.
        orders: Number of orders of a new shop.
        seed: What a new shop is drawn with.

    Returns:
        What was done, as one line.
    """
    now = datetime.now(UTC)
    if shop_exists(connection):
        done, rows = "changed", change_shop(connection, seed=int(now.timestamp()))
    else:
        done, rows = "created", create_shop(connection, orders, seed, now)
    return f"shop {done}: " + ", ".join(f"{count:,} {name}" for name, count in rows.items())


if __name__ == "__main__":
    with psycopg.connect() as shop:
        print(advance(shop, int(os.environ["ROWS"]), int(os.environ["SEED"])))
