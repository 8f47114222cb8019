"""
### Sales report

**Something is red?** The report reads only: clear it. Its last line names the table or grant that is missing.

Revenue by month and category, printed in the task's log and shown as the task's XCom.

| | |
|---|---|
| **When** | each time `elt_pipeline` has built and tested the marts (asset `marts`) |
| **From** | `marts.fct_sales` and `marts.dim_products`, through the connection dbt uses |
"""

from datetime import datetime, timedelta

import structlog
from airflow.sdk import DAG, Asset, task

from include.orchestrate.dbt_tasks import marts
from include.orchestrate.tasks import no_retry_for_terminal_errors
from include.shop.report import monthly_sales, read_sales


@task
def report() -> str:
    """Read the marts and lay the report out as text."""
    with no_retry_for_terminal_errors(), marts() as warehouse:
        table = monthly_sales(read_sales(warehouse)).to_string()
    structlog.get_logger(__name__).info("sales report\n" + table)
    return table


with DAG(
    dag_id="sales_report",
    description="Revenue by month and category, each time the marts are built and tested.",
    doc_md=__doc__,
    schedule=[Asset("marts")],
    start_date=datetime(2024, 1, 1),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    tags=["report"],
    default_args={"owner": "sales-analytics", "retries": 3, "execution_timeout": timedelta(hours=8)},
):
    report()
