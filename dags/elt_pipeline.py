"""
### ELT pipeline

Copies the tables of every dbt source from Postgres into the warehouse, then builds and tests the dbt project on them.

| | |
|---|---|
| **What** | one task per source table's extract and load, per dbt model and per dbt test: the graph is dbt's lineage |
| **Large tables** | with `rows_per_range`, where every row is read: `cut` makes an `extract` for each range |
| **From** | the connection named like the dbt source (`shop`) |
| **To** | the connection `warehouse`: `raw_<source>` → `staging` → `intermediate` → `marts` |
| **When** | daily, from the watermark on (Variable `watermark__<source>__<table>`); a backfill reads just its own day |
| **Read by** | the `sales_report` DAG, dashboards on `marts` |

**Something is red?** An `extract` or `load` retries by itself, 3 times, 5 minutes apart; where that does not help, its
last line says what does. A failed test is not retried: its last line holds the query for the failing rows. Correct the
data or the model, then clear that one task: it and what depends on it run again. Loading twice is harmless.
"""

from datetime import datetime, timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, Param

from include.alerts import due_within, tell_failed
from include.dbt_project import MODELS_DIR
from include.rendering import render_pipeline
from include.sources import load_specs

TABLES = [spec.name for spec in load_specs(MODELS_DIR)]

with DAG(
    dag_id="elt_pipeline",
    description="Copies every source table into the warehouse, then builds and tests the dbt project on them.",
    doc_md=__doc__,
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    on_failure_callback=tell_failed,
    deadline=due_within(timedelta(hours=2)),
    tags=["elt", "postgres", "dbt"],
    # The time between tries is Airflow's own option, [core] default_task_retry_delay: 5 minutes.
    default_args={"owner": "data-engineering", "retries": 3},
    params={
        "tables": Param(TABLES, type="array", examples=TABLES, description="Tables to extract and load."),
        "window_start": Param(
            None,
            type=["null", "string"],
            format="date-time",
            description="First instant to read; UTC unless it names a zone. Give both bounds or neither.",
        ),
        "window_end": Param(
            None,
            type=["null", "string"],
            format="date-time",
            description="First instant not to read; UTC unless it names a zone.",
        ),
        "full_refresh": Param(False, type="boolean", description="Read every row and rebuild incremental models."),
        "dbt_select": Param(
            None, type=["null", "string"], description="dbt selection, such as `+fct_sales path:models/staging`."
        ),
        "dbt_vars": Param({}, type="object", description="dbt variables; the project is then parsed in each task."),
    },
) as dag:
    render_pipeline(dag)
    marts_ready = EmptyOperator(task_id="marts_ready", outlets=[Asset("marts")], trigger_rule="none_failed")
    [task for task in dag.tasks if task is not marts_ready and not task.downstream_list] >> marts_ready
