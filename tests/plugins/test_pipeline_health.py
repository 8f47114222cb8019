"""The page Pipeline health in Airflow's own API server: who may see it, and what it says when servers are away."""

from __future__ import annotations

import html
import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from fastapi.testclient import TestClient
from psycopg.conninfo import conninfo_to_dict

from include.local.environment import ROOT
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
    task = {
        "task_id": TEST,
        "state": "failed",
        "start_date": BEGAN,
        "duration": 75,
        "pool": "default_pool",
        "pool_slots": 1,
        "queue": "default",
    }
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


def page(server: TestClient, path: str = PAGE, role: str | None = "op", **query: str) -> Any:
    server.cookies.set("_token", token(role))
    try:
        return server.get(path, params=query or None)
    finally:
        server.cookies.clear()


def test_who_may_only_look_sees_neither_rows_nor_errors_nor_variables(
    server: TestClient, metadata: None, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_WATERMARK__SHOP__ORDERS", "2026-01-01T01:02:03+00:00")
    for path in (PAGE, f"{PAGE}tables/shop.orders"):
        assert "its rows</a>" in page(server, path).text
        shown = page(server, path, role="viewer").text
        assert TEST in shown and "its rows" not in shown and "01:02:03" not in shown
    assert "01:02:03" in page(server, f"{PAGE}tables/shop.orders").text
    refused = page(server, f"{PAGE}failures?run_id={quote(RUN)}&task_id={TEST}", role="viewer")
    assert refused.status_code == 403 and "who may clear its tasks" in refused.text


def test_dbts_documentation_is_a_stranger_to_airflow_and_for_who_may_clear_tasks(
    server: TestClient, metadata: None, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert ">Models, columns and their lineage</a>" not in page(server).text
    monkeypatch.setattr("include.orchestrate.health_page.target_dir", lambda: tmp_path)
    missing = page(server, f"{PAGE}dbt")
    assert missing.status_code == 404 and "run make docs" in missing.text
    (tmp_path / "static_index.html").write_text("<h1>models</h1>")
    shown = page(server, f"{PAGE}dbt")
    assert shown.text == "<h1>models</h1>"
    assert shown.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert ">Models, columns and their lineage</a>" in page(server).text
    assert ">Models, columns and their lineage</a>" not in page(server, role="viewer").text
    assert page(server, f"{PAGE}dbt", role="viewer").status_code == 403


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
    assert shown.count('class="muted wide">never loaded</td>') == 4 and "nobody</span>" in shown
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


@pytest.fixture
def runs(server: TestClient) -> Iterator[Callable[..., None]]:
    """Adds a run of a DAG: the states of its tasks by their ids. The oldest first."""
    from airflow.models import DagRun, TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import delete, insert

    made: list[str] = []

    def add(dag_id: str = "rewind", run_type: str = "manual", **states: str) -> None:
        made.append(f"{dag_id}{len(made)}")
        here = {"dag_id": dag_id, "run_id": made[-1]}
        with create_session() as session:
            session.execute(insert(DagRun).values(**here, run_type=run_type, state="failed", run_after=BEGAN))
            for task_id, state in states.items():
                task = {"task_id": task_id, "state": state, "pool": "x", "pool_slots": 1, "queue": "x", "max_tries": 0}
                session.execute(insert(TaskInstance).values(**here, **task, map_index=-1))

    yield add
    with create_session() as session:
        session.execute(delete(TaskInstance).where(TaskInstance.run_id.in_(made)))
        session.execute(delete(DagRun).where(DagRun.run_id.in_(made)))


def failing() -> list[tuple[str, str]]:
    from airflow.utils.session import create_session

    from include.orchestrate.health_runs import still_failing

    with create_session() as session:
        return [(task.run_id, task.task_id) for task in still_failing(session, {"rewind"})]


def test_a_task_has_failed_until_a_newer_run_has_done_it(runs: Callable[..., None]) -> None:
    runs(extract="failed", test="failed", load="success")
    assert failing() == [("rewind0", "extract"), ("rewind0", "test")]
    runs(extract="success", test="failed", load="up_for_retry")
    assert failing() == [("rewind1", "load"), ("rewind1", "test")]
    runs(extract="skipped", test="upstream_failed", load="running")
    assert failing() == [("rewind1", "load"), ("rewind1", "test")]
    runs(extract="success", test="success", load="success")
    assert failing() == []


def test_a_warning_stands_until_a_newer_run_has_none(server: TestClient, runs: Callable[..., None]) -> None:
    from airflow.models import DagRun
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import delete, insert, select

    from include.orchestrate.health_runs import still_failing

    runs(test="success", load="success")
    with create_session() as session:
        number = session.scalar(select(DagRun.id).where(DagRun.run_id == "rewind0"))
        here = {"dag_id": "rewind", "run_id": "rewind0", "task_id": "test", "dag_run_id": number}
        session.execute(insert(XComModel).values(**here, key="warning", value="dbt test test warns of 2 rows"))
        (found,) = still_failing(session, {"rewind"})
    assert (found.task_id, found.state, found.error) == ("test", "success", "dbt test test warns of 2 rows")
    runs(test="success")
    assert failing() == []
    with create_session() as session:
        session.execute(delete(XComModel).where(XComModel.run_id == "rewind0"))


def test_what_a_backfill_did_not_read_no_other_run_reads(runs: Callable[..., None]) -> None:
    runs(run_type="backfill", load="failed")
    runs(load="success")
    assert failing() == [("rewind0", "load")]


def test_a_task_that_the_dag_no_longer_has_does_not_stay_red(runs: Callable[..., None]) -> None:
    runs(load="failed", gone="failed")
    runs(load="failed")
    assert failing() == [("rewind1", "load")]


def test_a_horizon_that_failed_is_every_tables_failure_and_the_verdict_names_it_with_its_error(
    server: TestClient, metadata: None, databases: dict[str, str], runs: Callable[..., None]
) -> None:
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import delete, insert

    runs("elt_pipeline", **{"shop.horizon": "failed", "shop.orders.load": "upstream_failed"})
    here = {"dag_id": "elt_pipeline", "run_id": "elt_pipeline0", "task_id": "shop.horizon", "dag_run_id": 2}
    said = {"key": "error", "value": "role may not log in; run: alter role x login"}
    with create_session() as session:
        session.execute(insert(XComModel).values(**here, **said))
    shown = page(server).text
    with create_session() as session:
        session.execute(delete(XComModel).where(XComModel.task_id == "shop.horizon"))
    verdict, _, tables = shown.partition("<h2>Tables</h2>")
    assert "source shop, all its tables (4)" in verdict and "alter role x login" in verdict
    assert tables.split("Who holds")[0].count(">failed</span>") == 4 and ">ok<" not in tables
    assert "1 more wait for it" in tables


def test_nothing_is_green_that_was_not_looked_at(
    server: TestClient, metadata: None, databases: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", NOBODY_LISTENS)
    shown = page(server).text
    assert shown.count(">unknown</span>") == 4 and ">ok<" not in shown and "All is well" not in shown


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
    assert answer.status_code == 200 and answer.text.count("cannot be asked (nothing listens there)") == 1
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
    assert "cannot be asked (no answer within 3 seconds)" in answer.text and answer.elapsed < timedelta(seconds=10)


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
    monkeypatch.setattr("include.orchestrate.health_page.load_tables", lambda: broken)
    shown = html.unescape(page(server).text)
    assert sentence in shown and "shop.orders" in shown
    assert sentence in html.unescape(page(server, f"{PAGE}tables/shop.visits").text)


def test_a_table_that_no_source_lists_is_not_found(server: TestClient, databases: dict[str, str]) -> None:
    assert page(server, f"{PAGE}tables/shop.{HOSTILE}").status_code == 404


def luminance(colour: str) -> float:
    """Relative luminance of `#rgb` or `#rrggbb` (WCAG 2.2)."""
    digits = colour[1:] if len(colour) == 7 else "".join(digit * 2 for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_asks_for(scheme: int) -> None:
    template = (ROOT / "include/orchestrate/health.html.jinja").read_text()
    palette = {name: pair[scheme] for name, *pair in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", template)}
    assert {"bg", "head", "fg", "muted", "link", "good", "bad", "warn"} <= palette.keys()
    for text in ("fg", "muted", "link", "good", "bad", "warn"):
        for ground in ("bg", "head"):
            dark, light = sorted((luminance(palette[text]), luminance(palette[ground])))
            assert (light + 0.05) / (dark + 0.05) >= 4.5, (text, ground)


@pytest.mark.parametrize("path", PATHS)
def test_the_page_can_be_read_by_anybody(
    server: TestClient, metadata: None, databases: dict[str, str], path: str
) -> None:
    """A main landmark, one heading, links told by more than colour, tables that the keyboard scrolls."""
    shown = page(server, path).text
    assert shown.count("<main>") == shown.count("<h1>") == 1 and '<html lang="en">' in shown
    assert 'name="viewport" content="width=device-width' in shown
    assert "a { color: var(--link); text-decoration: underline;" in shown
    regions = re.findall(r'<div class="scroll"([^>]*)>', shown)
    names = [re.findall(r'aria-label="([^"]+)"', region) for region in regions]
    assert all('tabindex="0" role="region"' in region for region in regions)
    assert all(names) and len({name for (name,) in names}) == len(names)


IMPORTED = """
import sys
from airflow.plugins_manager import _get_plugins
print("pipeline_health" in [plugin.name for plugin in _get_plugins()[0]])
print(*sorted(name for name in sys.modules if name.startswith("include")))
"""


def test_a_process_that_only_loads_plugins_imports_nothing_for_it() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-2:] == ["True", ""], done.stdout + done.stderr


DRAWN = {"package_name": "elt", "file": "dbt/models/_all.yml", "original_file_path": "models/_all.yml"}
GRAPH: dict[str, dict[str, Any]] = {
    "sources": {
        "source.elt.shop.orders": DRAWN
        | {
            "unique_id": "source.elt.shop.orders",
            "resource_type": "source",
            "source_name": "shop",
            "title": "orders",
            "description": "People's <b>orders</b>",
            "place": ["shop", "orders"],
            "is_loaded": True,
            "has_freshness": False,
        }
    },
    "nodes": {
        "model.elt.orders": DRAWN
        | {
            "unique_id": "model.elt.orders",
            "resource_type": "model",
            "title": "orders",
            "place": ["marts", "orders"],
            "depends_on": {"nodes": ["source.elt.shop.orders"]},
        }
    },
    "tests": {
        "test.elt.unique": DRAWN
        | {
            "unique_id": "test.elt.unique",
            "resource_type": "test",
            "title": "unique_orders_id",
            "place": "shop.orders",
            "task_id": "unique_id",
            "parents": ["source.elt.shop.orders"],
        }
    },
}
COLUMNS = {"amount": {"name": "amount", "description": "money, in EUR", "data_type": None}}


def test_a_node_has_a_page_with_its_results_its_lineage_and_its_tests(
    server: TestClient, metadata: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "graph.json").write_text(json.dumps(GRAPH))
    manifest = {"nodes": {}, "sources": {"source.elt.shop.orders": {"columns": COLUMNS}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr("include.orchestrate.health_page.graph_path", lambda: tmp_path / "graph.json")
    listed = page(server, f"{PAGE}nodes").text
    assert f'href="{PAGE}nodes/model.elt.orders"' in listed and "0 of 1</td>" in listed
    source = page(server, f"{PAGE}nodes/source.elt.shop.orders").text
    assert "People&#39;s &lt;b&gt;orders&lt;/b&gt;" in source and "money, in EUR" in source
    assert source.count(f'href="{PAGE}nodes/model.elt.orders"') == 1, "what reads it"
    assert f'href="{PAGE}nodes/model.elt.orders"' not in page(server, f"{PAGE}nodes/model.elt.orders").text
    test = page(server, f"{PAGE}nodes/test.elt.unique").text
    assert f"/runs/{quote(RUN, safe='')}/tasks/{TEST}" in test and "2026-01-01 12:00: failed, 75.0 s" in test
    assert f'href="{PAGE}nodes/source.elt.shop.orders"' in test, "what it tests"
    assert all("failed</span>" in text for text in (listed, source, test))
    assert "its rows" in test and "its rows" not in page(server, f"{PAGE}nodes/test.elt.unique", role="viewer").text
    missing = page(server, f"{PAGE}nodes/model.elt.%3Cb%3E")
    assert missing.status_code == 404 and "dbt builds and tests no such node" in missing.text
    assert page(server, f"{PAGE}nodes", role=None).status_code == 403
