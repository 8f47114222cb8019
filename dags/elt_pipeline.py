"""
### ELT pipeline

**Something is red?** Open its log: the last line says what failed, where, and what to do. *Health*, in the navigation,
lists all that is wrong, the worst first. An `extract` or `load` retries by itself, 3 times, 5 minutes apart; a failed
test does not: correct the data or the model, then clear that one task with *Downstream*. It and what depends on it run
again; loading twice is harmless.

Copies the tables of every dbt source from Postgres into the warehouse, then builds and tests the dbt project on them.

| | |
|---|---|
| **What** | one task per source table's extract and load, per dbt model and per dbt test: the graph is dbt's lineage |
| **Large tables** | with `rows_per_range`, where every row is read: `cut` makes an `extract` for each range |
| **From** | the connection named like the dbt source (`erp`) |
| **To** | the connection `warehouse`: `raw_<source>` → `staging` → `intermediate` → `marts` |
| **When** | daily, from the watermark on (Variable `watermark__<source>__<table>`); a backfill reads just its own day |
| **Read by** | DAGs that wait for the asset `marts`, dashboards |
"""

from datetime import datetime, timedelta

from airflow.sdk import DAG, CronDataIntervalTimetable, Param

from include.dbt import variables as dbt_vars
from include.orchestrate.alerts import due_within, tell_failed, tell_warned
from include.orchestrate.rendering import render_pipeline
from include.orchestrate.tasks import check_parameters, marts_ready
from include.sources import load_tables

INSTANT = {"default": None, "type": ["null", "string"], "format": "date-time"}
TABLES = load_tables().names

with DAG(
    dag_id="elt_pipeline",
    description="Copies every source table into the warehouse, then builds and tests the dbt project on them.",
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    on_failure_callback=tell_failed,
    on_success_callback=tell_warned,
    deadline=due_within(timedelta(hours=2)),
    tags=["elt", "postgres", "dbt"],
    # The time between tries is Airflow's own option, [core] default_task_retry_delay: 5 minutes.
    default_args={"owner": "data-engineering", "retries": 3, "execution_timeout": timedelta(hours=8)},
    params={
        "tables": Param(TABLES, type="array", examples=TABLES, title="Tables", description="To extract and load."),
        "window_start": Param(
            **INSTANT,
            title="Window: start",
            description="First to read, in UTC unless it names a zone; both or neither.",
        ),
        "window_end": Param(
            **INSTANT, title="Window: end", description="First not to read, in UTC unless it names a zone."
        ),
        "full_refresh": Param(
            False,
            type="boolean",
            title="Full refresh",
            description="Read every row and rebuild incremental models.",
        ),
        "dbt_select": Param(
            None,
            type=["null", "string"],
            title="dbt selection",
            description_md="Build and test these alone, such as `+fct_orders path:models/staging`.",
        ),
        "dbt_vars": Param(
            {}, **dbt_vars.schema(), title="dbt variables", description="The project is then parsed in each task."
        ),
    },
) as dag:
    marts = render_pipeline(dag)
    check_parameters() >> [task for task in dag.tasks if not task.upstream_list and task.task_id != "check_parameters"]
    [task for task in dag.tasks if not task.downstream_list] >> marts_ready(marts)
