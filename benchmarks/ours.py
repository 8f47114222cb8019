"""The project's own core between two databases, timed after its imports: what the tasks do, without Airflow."""

from __future__ import annotations

import os
import sys
from time import perf_counter

import psycopg

from benchmarks.measure import TIMED
from include.extract.horizon import read_horizon
from include.extract.table import Request, extract_table
from include.load.publish import load_batch
from include.postgres.sessions import pin
from include.sources import TableSpec
from include.state import ledger, watermark

# The shortest overlap: rounds follow each other faster than runs do, and would read the last delta again.
SPEC = TableSpec(
    source="shop", table="orders", identifier="orders", key=("id",), cursor="updated_at", overlap="1 second"
)


def main() -> None:
    """Read from the watermark on, or (`replay`) again from an instant, and load it."""
    replay = sys.argv[1:] == ["replay"]
    start = perf_counter()
    with (
        psycopg.connect(os.environ["BENCH_SOURCE"]) as source,
        psycopg.connect(os.environ["BENCH_WAREHOUSE"]) as warehouse,
    ):
        pin(source, read_only=True)
        pin(warehouse, read_only=False)
        horizon = read_horizon(source, SPEC.source)
        ledger.ensure(warehouse, SPEC.raw_schema)
        last = ledger.standing_mark(warehouse, SPEC)
        variable = os.environ["BENCH_SINCE"] if replay else None
        window = watermark.next_window(SPEC, variable, last, horizon)
        request = Request(SPEC, f"bench_{horizon.read_at}", window, horizon, variable)
        result = load_batch(warehouse, SPEC, extract_table(source, warehouse, request))
        ledger.mark_published(warehouse, SPEC)
    print(f"{TIMED}{perf_counter() - start}")
    if replay and (result.rows_inserted or result.rows_updated or not result.rows_extracted):
        sys.exit(f"a replay of {result.rows_extracted} rows wrote some: {result}")


if __name__ == "__main__":
    main()
