"""Who loads `orders`, and how: a command for a first load and one for a delta, which all get the same variables."""

from __future__ import annotations

import sys
from dataclasses import dataclass

KEYED = (
    "create table {schema}.orders (id bigint primary key, customer_id bigint, amount numeric(12, 2), status text, "
    "created_at timestamptz, updated_at timestamptz)",
)
"""The logged table with a key that those expect who make none themselves."""

COPY = """
"$BENCH_PSQL" -X "$BENCH_SOURCE" -c "copy orders to stdout (format binary)" |
"$BENCH_PSQL" -X "$BENCH_WAREHOUSE" -v ON_ERROR_STOP=1 -c "copy $BENCH_SCHEMA.orders from stdin (format binary)"
"""

UPSERT = """
"$BENCH_PSQL" -X "$BENCH_SOURCE" \
    -c "copy (select * from orders where updated_at >= '$BENCH_SINCE') to stdout (format binary)" |
"$BENCH_PSQL" -X "$BENCH_WAREHOUSE" -1 -v ON_ERROR_STOP=1 \
    -c "create temporary table staged (like $BENCH_SCHEMA.orders)" \
    -c "copy staged from stdin (format binary)" \
    -c "insert into $BENCH_SCHEMA.orders select * from staged on conflict (id) do update set
        (customer_id, amount, status, created_at, updated_at) =
        (excluded.customer_id, excluded.amount, excluded.status, excluded.created_at, excluded.updated_at)"
"""


@dataclass(frozen=True)
class Contender:
    """A way to load.

    Attributes:
        schema: Where in the warehouse its `orders` are.
        first: Loads everything into an empty schema, or into the table that `table` makes in it.
        delta: Loads what changed since `$BENCH_SINCE`; None: it has no way to update rows by key.
        replay: Loads the same again, where that is something of its own to time.
    """

    name: str
    schema: str
    first: list[str]
    delta: list[str] | None = None
    replay: list[str] | None = None
    table: tuple[str, ...] = ()


OURS = [sys.executable, "-m", "benchmarks.ours"]

CONTENDERS = (
    Contender("elt_pipeline", "raw_shop", OURS, OURS, [*OURS, "replay"]),
    Contender("psql | psql, binary COPY", "bench_copy", ["sh", "-c", COPY], table=KEYED),
    Contender("COPY + on conflict", "bench_upsert", ["sh", "-c", UPSERT], ["sh", "-c", UPSERT], table=KEYED),
    Contender("pandas to_sql", "bench_pandas", [sys.executable, "-m", "benchmarks.pandas_to_sql"], table=KEYED),
)
"""The first is the one whose time the others' are divided by."""
