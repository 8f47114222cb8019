"""`make run` twice: the marts agree with the source, computed independently, to the cent and row by row."""

from __future__ import annotations

import json
import re
import signal
import time
from typing import Any

import psycopg
import pytest

from include.operate.health import read_failing_rows
from tests.conftest import Checkout
from tests.e2e.conftest import SETTLED_ORDERS

SALES_IN_SOURCE = """
    select i.id, i.order_id, i.product_id, (o.created_at at time zone 'utc')::date, o.status, i.quantity, i.unit_price,
        (i.quantity * i.unit_price)::numeric(14, 2), o.created_at
    from order_items i join orders o on o.id = i.order_id
    order by i.id
"""
SALES_IN_MARTS = """
    select order_item_id, order_id, product_key, date_key, order_status, quantity, unit_price, line_amount, ordered_at
    from marts.fct_sales order by order_item_id
"""
CUSTOMER_OF_SALE = """
    select s.order_item_id, c.customer_id from marts.fct_sales s join marts.dim_customers c using (customer_key)
    order by 1
"""


def rows(connection: psycopg.Connection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def assert_marts_equal_source(checkout: Checkout) -> None:
    with checkout.source() as source, checkout.warehouse() as warehouse:
        sales = rows(source, SALES_IN_SOURCE)
        assert len(sales) > 4000
        assert rows(warehouse, SALES_IN_MARTS) == sales
        assert rows(warehouse, CUSTOMER_OF_SALE) == rows(
            source, "select i.id, o.customer_id from order_items i join orders o on o.id = i.order_id order by 1"
        )
        current = "select customer_id, customer_name, email from marts.dim_customers where is_current order by 1"
        assert rows(warehouse, current) == rows(source, "select id, name, email from customers order by 1")
        products = "select * from (select product_key, product_name, category from marts.dim_products) p order by 1"
        assert rows(warehouse, products) == rows(source, "select id, name, category from products order by 1")


@pytest.fixture(scope="module")
def outputs(checkout: Checkout) -> list[str]:
    """What the first and the second run printed."""
    printed = []
    for _ in range(2):
        done = checkout.run("run")
        assert done.returncode == 0, done.stdout + done.stderr
        assert_marts_equal_source(checkout)
        printed.append(done.stdout)
    return printed


def test_the_first_run_reads_everything(outputs: list[str]) -> None:
    assert re.search(r"shop\.orders +first +2,000 +2,000 +0 ", outputs[0])


def test_the_second_run_reads_what_changed(outputs: list[str]) -> None:
    found = re.search(r"shop\.orders +incremental +(\d+) +(\d+) +(\d+) ", outputs[1])
    assert found
    read, inserted, updated = (int(number) for number in found.groups())
    assert inserted > 0 and updated > 0 and inserted + updated <= read < 500


def test_the_result_is_readable(outputs: list[str]) -> None:
    for line in ("dbt models  10 of 10 passed", "dbt tests   40 of 40 passed", "make ui"):
        assert line in outputs[1]


def test_the_watermark_is_shown_and_equals_the_ledger(checkout: Checkout, outputs: list[str]) -> None:
    shown = (
        checkout.run("exec", "airflow", "variables", "get", "watermark__shop__orders").stdout.strip().splitlines()[-1]
    )
    with checkout.warehouse() as warehouse:
        query = "select mark, watermark_published_at from _elt.load_ledger where table_name = 'orders' order by 1 desc"
        mark, published_at = rows(warehouse, query)[0]
    assert shown == mark.isoformat(timespec="microseconds") and published_at is not None


def test_the_commands_that_look_after_it(checkout: Checkout, outputs: list[str]) -> None:
    """Through Airflow's own Variables and connections, and with the roles of the installation."""
    command = ("exec", "python", "-m", "include.orchestrate.commands")
    planned = checkout.run(*command, "plan")
    assert planned.returncode == 0 and planned.stdout.count("  window  incremental: ") == 4, planned.stderr
    assert checkout.run(*command, "reconcile").returncode == 0
    with checkout.source() as source, checkout.warehouse() as warehouse:
        warehouse.execute("delete from raw_shop.orders where id = %s", rows(source, SETTLED_ORDERS.format(1))[0])
    assert "1 missing" in checkout.run(*command, "reconcile").stderr
    assert "1 inserted" in checkout.run(*command, "reconcile", "--table", "shop.orders", "--repair").stdout
    shown = checkout.run("exec", "airflow", "variables", "get", "watermark__shop__orders").stdout
    rewound = checkout.run(*command, "rewind", "--table", "shop.orders", "--to", "2026-01-01T00:00:00Z")
    assert "from 2025-12-31T23:59:00.000000+00:00 on" in rewound.stdout, rewound.stderr
    assert checkout.run("exec", "airflow", "variables", "get", "watermark__shop__orders").stdout != shown
    unpatched = checkout.run("run", ELT_PATCHES="off")
    assert unpatched.returncode == 0, f"slower, it does the same: {unpatched.stdout}"
    assert_marts_equal_source(checkout)


def test_a_source_is_as_fresh_as_its_last_load_whatever_its_rows_say(checkout: Checkout, outputs: list[str]) -> None:
    freshness = ("exec", "dbt", "source", "freshness", "--project-dir", "dbt", "--profiles-dir", "dbt")
    shift = "update _elt.load_ledger set loaded_at = loaded_at {} interval '9 days' where table_name = 'products'"
    with checkout.warehouse() as warehouse:
        warehouse.execute(shift.format("-"))
    stale = checkout.run(*freshness)
    with checkout.warehouse() as warehouse:
        warehouse.execute(shift.format("+"))
    assert stale.returncode == 1 and "STALE freshness of shop.products" in stale.stdout, stale.stdout
    fresh = checkout.run(*freshness)
    assert fresh.returncode == 0 and fresh.stdout.count("PASS freshness") == 4, fresh.stdout


def test_an_incremental_fact_equals_a_full_refresh(checkout: Checkout, outputs: list[str]) -> None:
    with checkout.warehouse() as warehouse:
        before = rows(warehouse, "select * from marts.fct_sales order by order_item_id")
    done = checkout.run(
        "exec", "dbt", "run", "--project-dir", "dbt", "--profiles-dir", "dbt", "-s", "fct_sales", "--full-refresh"
    )
    assert done.returncode == 0, done.stdout
    with checkout.warehouse() as warehouse:
        assert rows(warehouse, "select * from marts.fct_sales order by order_item_id") == before


def test_a_staging_view_is_replaced_in_place(checkout: Checkout, outputs: list[str]) -> None:
    """Building it alone, as clearing its task does, must not take away the views and readers that depend on it."""
    views = """
        select oid, relname from pg_class
        where relkind = 'v' and relnamespace::regnamespace::text = any(%s) order by oid
    """
    layers = (["staging", "intermediate"],)
    with checkout.warehouse() as warehouse:
        before = warehouse.execute(views, layers).fetchall()
        assert len(before) == 5
    done = checkout.run("exec", "dbt", "run", "--project-dir", "dbt", "--profiles-dir", "dbt", "-s", "stg_shop__orders")
    assert done.returncode == 0, done.stdout
    with checkout.warehouse() as warehouse:
        assert warehouse.execute(views, layers).fetchall() == before


def test_nothing_is_left_in_staging(checkout: Checkout, outputs: list[str]) -> None:
    with checkout.warehouse() as warehouse:
        assert rows(warehouse, "select relname from pg_class where relname like 'staging\\_%'") == []
        assert rows(warehouse, "select * from _elt.extraction") == []


def test_dbt_runs_alone(checkout: Checkout, outputs: list[str]) -> None:
    done = checkout.run("exec", "dbt", "test", "--project-dir", "dbt", "--profiles-dir", "dbt")
    assert done.returncode == 0 and "Completed successfully" in done.stdout, done.stdout
    assert "PASS=45" in done.stdout  # 40 data tests, 5 unit tests


def test_each_tasks_log_is_where_airflow_looks_for_it(checkout: Checkout, outputs: list[str]) -> None:
    logs = checkout.here.airflow_home / "logs" / "dag_id=elt_pipeline"
    with psycopg.connect(checkout.here.metadata) as metadata:
        tried = metadata.execute("select run_id, task_id, map_index, try_number, state from task_instance").fetchall()
    assert len(tried) > 100
    for run_id, task_id, map_index, attempt, _ in tried:
        mapped = f"map_index={map_index}/" if map_index >= 0 else ""
        log = logs / f"run_id={run_id}" / f"task_id={task_id}" / f"{mapped}attempt={attempt}.log"
        lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        assert lines and all({"timestamp", "level", "event"} == line.keys() for line in lines), log


def test_rows_that_fail_a_test_have_their_key(checkout: Checkout, outputs: list[str]) -> None:
    with checkout.warehouse() as warehouse:
        ids = [row[0] for row in rows(warehouse, "select id from raw_shop.orders order by id limit 3")]
        before = rows(warehouse, f"select id, status from raw_shop.orders where id in {tuple(ids)}")
        warehouse.execute("update raw_shop.orders set status = 'lost' where id = any(%s)", (ids,))
    test = ("--project-dir", "dbt", "--profiles-dir", "dbt", "-s", "shop_orders_status_is_known")
    done = checkout.run("exec", "dbt", "test", *test)
    with checkout.warehouse() as warehouse:
        for order in before:
            warehouse.execute("update raw_shop.orders set status = %s where id = %s", (order[1], order[0]))
        kept = read_failing_rows(warehouse, "shop_orders_status_is_known")
    assert "Got 3 results" in done.stdout, done.stdout
    assert [row[kept.columns.index("id")] for row in sorted(kept.rows, key=str)] == sorted(map(str, ids))


def test_an_interrupted_run_is_over_at_once_with_an_end_and_a_note(checkout: Checkout, outputs: list[str]) -> None:
    with checkout.start("run") as child:
        for line in child.stdout or ():
            if "shop.horizon" in line:
                break
        begin = time.monotonic()
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
        assert child.returncode == 130 and time.monotonic() - begin < 10
    assert "Nothing is lost" in said
    with psycopg.connect(checkout.here.metadata) as metadata:
        number, state, end = metadata.execute("select id, state, end_date from dag_run order by id desc").fetchone()
        assert state == "failed" and end
        note = metadata.execute("select content from dag_run_note where dag_run_id = %s", (number,)).fetchone()
        assert note and note[0].startswith("Interrupted")
        run = "run_id = (select run_id from dag_run order by id desc limit 1)"
        ended = metadata.execute(f"select state, start_date, end_date from task_instance where {run}").fetchall()
    assert {None, "success"} <= {state for state, *_ in ended} <= {None, "success", "failed"}
    assert all(begun and end for state, begun, end in ended if state)
    assert checkout.run("run").returncode == 0
    assert_marts_equal_source(checkout)


def test_a_failing_test_fails_at_once_and_names_its_rows(checkout: Checkout, outputs: list[str]) -> None:
    with checkout.source() as source:
        item = rows(source, f"select min(id) from order_items where order_id = ({SETTLED_ORDERS.format(1)})")[0]
        source.execute("update order_items set quantity = quantity + 1 where id = %s", item)
    # A source of one's own is not changed before the run: the break stays as it is.
    here = checkout.here
    reader = here.server().dsn("shop_reader", here.secrets()["shop_reader"], "shop")
    done = checkout.run("run", AIRFLOW_CONN_SHOP=reader)
    assert done.returncode == 1
    assert "✗ staging.order_amount_equals_its_items" in done.stdout
    assert "failed for 1 row: correct them in the source" in done.stdout
    assert "select * from" in done.stdout and "dbt_test_failures" in done.stdout
    assert "marts.fct_sales.run" not in done.stdout
    with psycopg.connect(here.metadata) as metadata, checkout.warehouse() as warehouse:
        query = "select run_id from task_instance where state = 'failed' order by end_date desc"
        run_id = metadata.execute(query).fetchone()[0]
        kept = metadata.execute("select task_id, value from xcom where key = 'failing_rows'").fetchall()
        assert kept == [("staging.order_amount_equals_its_items", "order_amount_equals_its_items")]
        assert len(read_failing_rows(warehouse, kept[0][1]).rows) == 1
    log = (
        here.airflow_home / "logs/dag_id=elt_pipeline" / f"run_id={run_id}" / f"task_id={kept[0][0]}" / "attempt=1.log"
    )
    text = log.read_text()
    assert '"level": "error", "event": "dbt test order_amount_equals_its_items failed for 1 row' in text
    assert "Traceback" not in text and "compiled code at" not in text
    with checkout.source() as source:
        source.execute("update order_items set quantity = quantity - 1 where id = %s", item)
    assert checkout.run("run").returncode == 0
    assert_marts_equal_source(checkout)
