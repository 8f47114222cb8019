"""The pipeline on the stack: a run through the REST API, a killed scheduler, one cleared model, a backfill."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from tests.containers.conftest import DAG_ID, FirstRun, Stack, until

GRAPH = ("GET", f"/dags/{DAG_ID}/tasks")
LAST_RUN = f"/dags/{DAG_ID}/dagRuns?limit=1&order_by=-id"


def test_the_marts_equal_the_source(stack: Stack, first_run: FirstRun) -> None:
    assert len(first_run.source) > 4000 and first_run.marts == first_run.source


def test_the_health_page_shows_the_run_to_who_is_logged_in(stack: Stack, first_run: FirstRun) -> None:
    """Through the API server's own role, which sees ledger and open transactions alone."""
    page = stack.page("/pipeline-health/tables/shop.orders")
    assert (
        quote(first_run.run_id, safe="") in page
        and "never loaded" not in page
        and "banner" not in page.split("<body>")[1]
    )
    overview = stack.page("/pipeline-health/")
    assert overview.count("/pipeline-health/tables/") == 4 and "nobody</span>" in overview


def test_a_scheduler_killed_in_mid_load_loses_nothing(stack: Stack, first_run: FirstRun) -> None:
    """The tasks it runs die with it. The run is the daily one, which the first run has woken."""
    until(lambda: stack.airflow.call("GET", LAST_RUN)["dag_runs"][0]["run_type"] == "scheduled", "the daily run")
    run_id = stack.airflow.call("GET", LAST_RUN)["dag_runs"][0]["dag_run_id"]
    with stack.locked("raw_shop.orders"):
        stack.wait_for_blocked_load("raw_shop.orders")
        stack.compose("exec", "-T", "scheduler", "bash", "-c", "kill -9 -1", check=False)
        until(lambda: stack.containers("scheduler")[0]["RestartCount"] == 1, "the scheduler to be started again")
    tasks = stack.finish(run_id)
    assert tasks["shop.orders.load"]["try_number"] == 2
    loads = f"select table_name from _elt.load_ledger where run_id = '{run_id}' order by 1"
    assert stack.psql("warehouse_admin", loads).split() == ["customers", "order_items", "orders", "products"]
    assert stack.facts("shop_app") != first_run.source
    stack.assert_marts_equal_source()


def test_clearing_a_model_runs_it_and_its_descendants_alone(stack: Stack, first_run: FirstRun) -> None:
    before = stack.finish(first_run.run_id)
    below = {task["task_id"]: task["downstream_task_ids"] for task in stack.airflow.call(*GRAPH)["tasks"]}
    expected, found = {"marts.dim_products.run"}, list(below["marts.dim_products.run"])
    while found:
        task_id = found.pop()
        found += [] if task_id in expected else below[task_id]
        expected.add(task_id)
    assert set(stack.airflow.clear(DAG_ID, first_run.run_id, "marts.dim_products.run")) == expected
    until(lambda: stack.airflow.state(DAG_ID, first_run.run_id) != "success", "the cleared run to begin")
    after = stack.finish(first_run.run_id)
    assert {name for name in after if after[name]["start_date"] != before[name]["start_date"]} == expected
    assert 3 < len(expected) < 20
    stack.assert_marts_equal_source()


def test_a_backfill_reads_its_day_and_leaves_the_watermark_alone(stack: Stack, first_run: FirstRun) -> None:
    variable = "/variables/watermark__shop__orders"
    before = stack.airflow.call("GET", variable)["value"]
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
    body = {"dag_id": DAG_ID, "from_date": day.isoformat(), "to_date": day.isoformat()}
    stack.airflow.call("POST", "/backfills", body | {"reprocess_behavior": "completed"})
    runs = stack.airflow.call("GET", f"/dags/{DAG_ID}/dagRuns?run_type=backfill")["dag_runs"]
    assert len(runs) == 1
    stack.finish(runs[0]["dag_run_id"])
    window = (
        "select window_start, window_end, mark is null, rows_extracted from _elt.load_ledger "
        f"where run_id = '{runs[0]['dag_run_id']}' and table_name = 'orders'"
    )
    start, end, has_no_mark, rows = stack.psql("warehouse_admin", f"set timezone to utc; {window}").split("|")
    assert start.startswith(f"{day:%Y-%m-%d} 00:00:00") and end.startswith(f"{day + timedelta(days=1):%Y-%m-%d} 00:00")
    in_source = f"select count(*) from public.orders where updated_at >= '{start}' and updated_at < '{end}'"
    assert (has_no_mark, rows) == ("t", stack.psql("shop_app", in_source)) and int(rows) > 0
    assert stack.airflow.call("GET", variable)["value"] == before
    stack.assert_marts_equal_source()


def test_a_missing_grant_fails_at_once_and_names_the_grant(stack: Stack, first_run: FirstRun) -> None:
    administer = ["exec", "-T", "source-db", "psql", "--username", "postgres", "--dbname", "shop", "--command"]
    stack.compose(*administer, "revoke select on public.products from shop_reader")
    try:
        run_id = stack.airflow.trigger(DAG_ID, {"tables": ["shop.products"]})
        until(lambda: stack.airflow.state(DAG_ID, run_id) == "failed", f"{run_id} to fail")
    finally:
        stack.compose(*administer, "grant select on public.products to shop_reader")
    extract = next(task for task in stack.airflow.tasks(DAG_ID, run_id) if task["task_id"] == "shop.products.extract")
    assert (extract["state"], extract["try_number"]) == ("failed", 1)
    assert 'run on the source: grant select on "public"."products" to "shop_reader"' in stack.airflow.error(
        DAG_ID, run_id, extract
    )
