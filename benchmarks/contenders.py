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

INGESTR = """
exec "$BENCH_TOOL" ingest --yes --progress log --no-load-timestamp --primary-key id \
    --source-uri "$BENCH_SOURCE?sslmode=disable" --source-table public.orders \
    --dest-uri "$BENCH_WAREHOUSE?sslmode=disable" --dest-table "$BENCH_SCHEMA.orders" \
"""

SLING = """
SLING_HOME_DIR="$BENCH_FOLDER" exec "$BENCH_TOOL" run --primary-key id --tgt-options '{table_keys: {primary: [id]}}' \
    --src-conn "$BENCH_SOURCE?sslmode=disable" --src-stream public.orders \
    --tgt-conn "$BENCH_WAREHOUSE?sslmode=disable" --tgt-object "$BENCH_SCHEMA.orders" \
"""


@dataclass(frozen=True)
class Contender:
    """A way to load.

    Attributes:
        schema: Where in the warehouse its `orders` are.
        first: Loads everything into an empty schema, or into the table that `table` makes in it.
        delta: Loads what changed since `$BENCH_SINCE`; None: it has no way to update rows by key.
        replay: Loads the same again, where that is something of its own to time.
        tool: The tool of `make bench-tools` that it is, if any; its program is `$BENCH_TOOL`.
        most_rows: Above this it is not measured, and at most once at each size: it would take most of the time.
    """

    name: str
    schema: str
    first: list[str]
    delta: list[str] | None = None
    replay: list[str] | None = None
    table: tuple[str, ...] = ()
    tool: str | None = None
    most_rows: int | None = None


def _shell(command: str) -> list[str]:
    return ["sh", "-c", command]


OURS = [sys.executable, "-m", "benchmarks.ours"]
PANDAS = [sys.executable, "-m", "benchmarks.pandas_to_sql"]
DLT_FASTEST, DLT = (_shell(f'exec "$BENCH_TOOL" -m benchmarks.dlt_sql_table {how}') for how in ("fastest", "defaults"))
INGESTR_DELTA = _shell(
    INGESTR + '--incremental-strategy merge --incremental-key updated_at --interval-start "$BENCH_SINCE"'
)
SLING_DELTA = _shell(SLING + "--mode incremental --update-key updated_at")

CONTENDERS = (
    Contender("elt_pipeline", "raw_shop", OURS, OURS, [*OURS, "replay"]),
    Contender("psql, COPY", "bench_copy", _shell(COPY), _shell(UPSERT), _shell(UPSERT), KEYED),
    Contender("ingestr", "bench_ingestr", _shell(INGESTR), INGESTR_DELTA, INGESTR_DELTA, tool="ingestr"),
    Contender("dlt, fastest backend", "bench_dlt", DLT_FASTEST, DLT_FASTEST, DLT_FASTEST, tool="dlt"),
    Contender("Sling", "bench_sling", _shell(SLING + "--mode full-refresh"), SLING_DELTA, tool="sling"),
    Contender("dlt, defaults", "bench_dlt_defaults", DLT, DLT, tool="dlt", most_rows=500_000),
    Contender("pandas to_sql", "bench_pandas", PANDAS, table=KEYED, most_rows=500_000),
)
"""The first is the one that the others are compared with."""
