"""The page Pipeline health in Airflow's own API server: who may see it, and what it says when servers are away."""

from __future__ import annotations

import html
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from fastapi.testclient import TestClient
from psycopg.conninfo import conninfo_to_dict

from include.sources import Problem, load_specs, load_tables
from tests.conftest import Postgres

PAGE = "/pipeline-health/"
RUN = "manual__2026-01-01T00:00:00+00:00"
BEGAN = datetime(2026, 1, 1, 12, tzinfo=UTC)
TEST = "shop.orders.unique_id"
HOSTILE = "<script>alert(1)</script>"
NOBODY_LISTENS = "postgresql://nobody:hush-hush@127.0.0.1:1/none"


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    """Airflow's API server in this process, on empty metadata."""
    from airflow import settings
    from airflow.api_fastapi.app import create_app, purge_cached_app
    from airflow.models import import_all_models
    from airflow.models.base import Base

    import_all_models()
    settings.configure_orm()
    Base.metadata.create_all(settings.engine)
    yield TestClient(create_app(apps="core"), follow_redirects=False)
    Base.metadata.drop_all(settings.engine)
    purge_cached_app()


@pytest.fixture(scope="module")
def metadata(server: TestClient) -> None:
    """One run: a dbt test failed in it."""
    from airflow.models import DagRun, TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import insert

    here = {"dag_id": "elt_pipeline", "run_id": RUN}
    run = {"run_type": "manual", "state": "failed", "start_date": BEGAN, "end_date": BEGAN + timedelta(seconds=75)}
    task = {"task_id": TEST, "state": "failed", "pool": "default_pool", "pool_slots": 1, "queue": "default"}
    with create_session() as session:
        session.execute(insert(DagRun).values(**here, **run, run_after=BEGAN))
        session.execute(insert(TaskInstance).values(**here, **task, map_index=-1, max_tries=0))
        session.execute(
            insert(XComModel).values(**here, task_id=TEST, dag_run_id=1, key="failing_rows", value="unique_orders_id")
        )


@pytest.fixture
def databases(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A source and a warehouse without a ledger, as the API server is told of them."""
    made = {"SHOP": postgres.database(), "WAREHOUSE": postgres.database()}
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    monkeypatch.delenv("AIRFLOW_CONN_WAREHOUSE_DBT", raising=False)
    for name, dsn in made.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", dsn)
    return made


def token(role: str | None) -> str:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

    return get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="somebody", role=role))


def page(server: TestClient, path: str = PAGE, role: str | None = "viewer", **query: str) -> Any:
    server.cookies.set("_token", token(role))
    try:
        return server.get(path, params=query or None)
    finally:
        server.cookies.clear()


PATHS = [PAGE, f"{PAGE}tables/shop.orders", f"{PAGE}failures?run_id=x&task_id=y"]


@pytest.mark.parametrize("path", PATHS)
def test_nobody_sees_it_without_a_login_that_may_read_dags(
    server: TestClient, metadata: None, databases: dict[str, str], path: str
) -> None:
    assert server.get(path).status_code == 401
    assert server.get(path, headers={"Authorization": "Bearer forged"}).status_code == 403
    assert page(server, path, role=None).status_code == 403
    assert page(server, path).status_code == 200


def test_it_is_in_the_navigation_and_on_each_task(server: TestClient) -> None:
    plugins = server.get("/api/v2/plugins", headers={"Authorization": f"Bearer {token('admin')}"}).json()["plugins"]
    views = next(each["external_views"] for each in plugins if each["name"] == "pipeline_health")
    assert [(view["name"], view["destination"]) for view in views] == [
        ("Health", "nav"),
        ("Failing rows", "task_instance"),
    ]
    assert server.get(views[0]["icon"]).headers["content-type"] == "image/svg+xml"
    assert views[1]["href"].startswith(f"{PAGE}failures?")


def test_before_the_first_load_every_table_is_listed(
    server: TestClient, metadata: None, databases: dict[str, str]
) -> None:
    shown = page(server).text
    for spec in load_specs():
        assert f"{spec.name}</a>" in shown
    assert shown.count("never loaded") == 4 and "nobody</span>" in shown
    assert "1 min 15 s" in shown and "/dags/elt_pipeline/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00/tasks/" in shown


def test_the_rows_of_a_failed_test_are_one_click_away_and_escaped(
    server: TestClient, metadata: None, databases: dict[str, str]
) -> None:
    assert (
        "failures?run_id=manual__2026-01-01T00%3A00%3A00%2B00%3A00&amp;task_id=shop.orders.unique_id"
        in page(server).text
    )
    with psycopg.connect(databases["WAREHOUSE"]) as warehouse:
        warehouse.execute("create schema dbt_test_failures")
        warehouse.execute("create table dbt_test_failures.unique_orders_id as select %s as name", (HOSTILE,))
    answer = page(server, f"{PAGE}failures", run_id=RUN, task_id=TEST)
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td>" in answer.text and HOSTILE not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert (
        f"/runs/{quote(RUN, safe='')}/tasks/{TEST}\"" in answer.text and "the next run reads them again" in answer.text
    )
    other = page(server, f"{PAGE}failures", run_id=HOSTILE, task_id=HOSTILE).text
    assert "None are kept" in other and HOSTILE not in other


@pytest.mark.parametrize("path", [PAGE, f"{PAGE}tables/shop.orders"])
def test_from_a_table_that_failed_it_is_one_click_to_log_and_rows(
    server: TestClient, metadata: None, databases: dict[str, str], path: str
) -> None:
    shown = page(server, path).text.split("Who holds the watermark back")[0]
    assert ">failed</span>" in shown and "never loaded" in shown
    assert f"/runs/{quote(RUN, safe='')}/tasks/{TEST}\"" in shown and "/pipeline-health/failures?run_id=" in shown
    assert ">failed</span>" not in page(server, f"{PAGE}tables/shop.order_items").text


def test_a_task_has_failed_until_a_newer_run_has_done_it() -> None:
    from include.health_page import Failure, Run, still_failing

    def run(run_id: str, state: str, *task_ids: str, succeeded: str = "") -> Run:
        failures = [Failure(run_id, task_id, state=state) for task_id in task_ids]
        return Run(run_id, "running", None, None, failures, set(succeeded.split()), None)

    orders = next(spec for spec in load_specs() if spec.name == "shop.orders")
    oldest = run("1", "failed", "shop.orders.extract", "shop.orders.unique_id", "shop.order_items.extract")
    older = run("2", "failed", "shop.orders.unique_id", succeeded="shop.orders.extract")
    retried = run("3", "up_for_retry", "shop.orders.load", succeeded="shop.products.load")

    def failing(*runs: Run) -> list[tuple[str, str]]:
        return [(task.run_id, task.task_id) for task in still_failing(runs, orders)]

    assert failing(oldest) == [("1", "shop.orders.extract"), ("1", "shop.orders.unique_id")]
    assert failing(older, oldest) == [("2", "shop.orders.unique_id")]
    assert failing(retried, older, oldest) == [("3", "shop.orders.load"), ("2", "shop.orders.unique_id")]
    assert failing(run("4", "failed", succeeded="shop.orders.load shop.orders.unique_id"), retried, older) == []


def test_names_from_the_source_are_escaped(server: TestClient, metadata: None, databases: dict[str, str]) -> None:
    with psycopg.connect(databases["SHOP"]) as clerk:
        clerk.execute("create table a ()")
        clerk.execute("prepare transaction '<b>half</b>'")
    shown = page(server).text
    with psycopg.connect(databases["SHOP"], autocommit=True) as clerk:
        clerk.execute("rollback prepared '<b>half</b>'")
    assert "&lt;b&gt;half&lt;/b&gt;" in shown and "<b>half" not in shown


@pytest.mark.parametrize("away", ["SHOP", "WAREHOUSE"])
def test_a_server_that_is_away_is_a_sentence_without_its_address(
    server: TestClient, metadata: None, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{away}", NOBODY_LISTENS)
    answer = page(server)
    assert answer.status_code == 200 and answer.text.count("cannot be asked (OperationalError)") == 1
    assert "shop.orders</a>" in answer.text
    for hidden in ("hush-hush", "127.0.0.1", "nobody@", "postgresql:"):
        assert hidden not in answer.text
    for dsn in databases.values():
        assert str(conninfo_to_dict(dsn)["port"]) not in answer.text


def test_a_server_that_accepts_and_never_answers_costs_three_seconds(
    server: TestClient, metadata: None, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", f"postgresql://me@127.0.0.1:{deaf.getsockname()[1]}/shop")
        answer = page(server)
    assert "cannot be asked (ConnectionTimeout)" in answer.text and answer.elapsed < timedelta(seconds=10)


@pytest.mark.parametrize("name", ["SHOP", "WAREHOUSE"])
def test_a_connection_that_nobody_can_read_is_a_sentence(
    server: TestClient, metadata: None, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{name}", "{")
    assert page(server).text.count("the API server has no such connection, or cannot read it") == 1


def test_a_broken_source_entry_is_a_sentence_and_takes_no_other_table_away(
    server: TestClient, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "dbt/models/_sources.yml: table shop.visits: mode 'incremental' needs key; add `key:`"
    listed = load_tables()
    broken = listed._replace(problems={"source.elt.shop.visits": Problem("shop.visits", sentence)})
    monkeypatch.setattr("include.health_page.load_tables", lambda: broken)
    shown = html.unescape(page(server).text)
    assert sentence in shown and "shop.orders" in shown
    assert sentence in html.unescape(page(server, f"{PAGE}tables/shop.visits").text)


def test_a_table_that_no_source_lists_is_not_found(server: TestClient, databases: dict[str, str]) -> None:
    assert page(server, f"{PAGE}tables/shop.{HOSTILE}").status_code == 404


IMPORTED = """
import sys
from airflow.plugins_manager import _get_plugins
print("pipeline_health" in [plugin.name for plugin in _get_plugins()[0]])
print(*sorted(name for name in sys.modules if name.startswith("include")))
"""


def test_a_process_that_only_loads_plugins_imports_nothing_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-2:] == ["True", ""], done.stdout + done.stderr
