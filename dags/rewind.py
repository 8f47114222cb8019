"""
### Rewind

**Something is red?** Nothing was changed; its last line says what was not understood.

Sets the watermark of one table back, so that the next run of `elt_pipeline` reads again from there. Nothing is
deleted, and rows that did not change are not written again.

| | |
|---|---|
| **When** | by hand |
| **To** | an instant (`2026-01-31T00:00:00+00:00`), the id of a past run (what it and later ones read) or `beginning` |
| **Changes** | the Variable `watermark__<source>__<table>`; no row of raw |

`beginning` resets a table, also one that was created anew in the source.
"""

from datetime import datetime, timedelta

from airflow.sdk import DAG, Param

from include.orchestrate.maintenance import rewind_table
from include.sources import load_tables

TABLES = load_tables().names

with DAG(
    dag_id="rewind",
    description="Has the next run read a table again, from an instant or a past run on.",
    doc_md=__doc__,
    schedule=None,
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    tags=["elt", "postgres", "maintenance"],
    default_args={"owner": "data-engineering", "retries": 3, "execution_timeout": timedelta(hours=8)},
    params={
        # No defaults: nobody reads a table again by a click too many.
        "table": Param(type="string", enum=TABLES, title="Table", description="To read again."),
        "to": Param(
            type="string",
            minLength=1,
            title="From",
            description_md="An instant with its zone, a run id, or `beginning`.",
        ),
    },
):
    rewind_table()
