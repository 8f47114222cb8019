"""pandas `read_sql` and `to_sql` in chunks, which is what its documentation shows."""

from __future__ import annotations

import os
from time import perf_counter

import pandas as pd
from sqlalchemy import create_engine

from benchmarks.measure import TIMED


def main() -> None:
    start = perf_counter()
    source, warehouse = (
        create_engine(os.environ[name].replace("postgresql://", "postgresql+psycopg://"))
        for name in ("BENCH_SOURCE", "BENCH_WAREHOUSE")
    )
    with source.connect().execution_options(stream_results=True) as connection, warehouse.begin() as target:
        for chunk in pd.read_sql("select * from orders", connection, chunksize=10_000):
            chunk.to_sql("orders", target, schema=os.environ["BENCH_SCHEMA"], if_exists="append", index=False)
    print(f"{TIMED}{perf_counter() - start}")


if __name__ == "__main__":
    main()
