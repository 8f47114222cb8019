"""dlt's `sql_table` in dlt's own environment, timed after its imports: `fastest`, or with its `defaults`."""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import datetime, timedelta
from time import perf_counter

import adbc_driver_postgresql  # noqa: F401
import connectorx  # noqa: F401
import dlt
from dlt.destinations import postgres
from dlt.sources.sql_database import sql_table

from benchmarks.measure import TIMED


def main() -> None:
    """Append everything to a new table, or upsert what changed since an instant."""
    fastest = sys.argv[1:] == ["fastest"]
    source, since = os.environ["BENCH_SOURCE"], os.environ["BENCH_SINCE"]
    start = perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # The instant is given, as it is to all: nothing to restore from the target.
        os.environ |= {"DLT_DATA_DIR": folder, "RESTORE_FROM_DESTINATION": "false"}
        pipeline = dlt.pipeline(
            "bench",
            pipelines_dir=folder,
            destination=postgres(os.environ["BENCH_WAREHOUSE"]),
            dataset_name=os.environ["BENCH_SCHEMA"],
        )
        orders = sql_table(
            source.replace("postgresql:", "postgresql+psycopg2:"),
            "orders",
            incremental=None if since == "-infinity" else _newer_than(since),
            reflection_level="full_with_precision",
            **(
                {"backend": "connectorx", "backend_kwargs": {"conn": source, "return_type": "arrow_stream"}}
                if fastest
                else {}
            ),
        )
        orders.apply_hints(primary_key="id", columns={"id": {"data_type": "bigint", "nullable": False, "unique": True}})
        pipeline.run(
            orders,
            write_disposition="append" if since == "-infinity" else {"disposition": "merge", "strategy": "upsert"},
            loader_file_format="parquet" if fastest else None,
        ).raise_on_failed_jobs()
    print(f"{TIMED}{perf_counter() - start}")


def _newer_than(since: str) -> dlt.sources.incremental:
    """An open range, which spares dlt a comparison of rows with equal cursors."""
    before = datetime.fromisoformat(since) - timedelta(microseconds=1)
    return dlt.sources.incremental("updated_at", initial_value=before, range_start="open")


if __name__ == "__main__":
    main()
