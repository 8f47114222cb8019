"""
### Reconcile

**Something is red?** Its last lines list what differs: rows missing in raw, not the same, or there twice, with the
first keys of each. Rows that changed since the last load are counted, but are no difference: the next run reads them.
Trigger this DAG again with `repair`; where `rebuild` finds `elt_pipeline` paused, switch that on and clear `rebuild`.
What differs again and again was written behind the watermark (by a clock that is behind by more than `overlap`) or
changed without its cursor: widen `overlap`, or set `deletes: soft`.

Compares every source table with its copy in raw: counts and hashes of all columns, bucket by bucket, then row by row
where a bucket differs.

| | |
|---|---|
| **When** | weekly; by hand for some tables, or with `repair` |
| **From** | the connection named like the dbt source, and `warehouse`, each in one snapshot |
| **Repair** | reads the buckets that differ again and loads them like any batch, then triggers `elt_pipeline` |
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, CronDataIntervalTimetable, Param

from include.orchestrate.alerts import due_within, tell_failed
from include.orchestrate.maintenance import anything_repaired, reconcile_table
from include.orchestrate.tasks import check_parameters
from include.sources import load_tables

TABLES = load_tables().names

with DAG(
    dag_id="reconcile",
    description="Compares every row of source and raw, and reads again what differs where that is asked for.",
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable("@weekly", timezone="UTC"),
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    on_failure_callback=tell_failed,
    deadline=due_within(timedelta(hours=6)),
    tags=["elt", "postgres", "maintenance"],
    default_args={"owner": "data-engineering", "retries": 3, "execution_timeout": timedelta(hours=8)},
    params={
        "tables": Param(TABLES, type="array", examples=TABLES, title="Tables", description="To compare."),
        "repair": Param(
            False, type="boolean", title="Repair", description="Read again what differs, then run elt_pipeline."
        ),
    },
):
    checked = check_parameters()
    repaired = reconcile_table.override(map_index_template="{{ task.op_kwargs['table'] }}").expand(table=TABLES)
    rebuild = TriggerDagRunOperator(task_id="rebuild", trigger_dag_id="elt_pipeline", fail_when_dag_is_paused=True)
    checked >> repaired
    anything_repaired.override(trigger_rule="none_failed")(repaired) >> rebuild
