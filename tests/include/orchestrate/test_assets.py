"""Assets: which relation a task updates, and that it does so only where something changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from airflow.sdk import DAG, Asset
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors

from include.connecting import profile_variables, written_parameters
from include.dbt import project as dbt_project
from include.dbt import runner as dbt_runner
from include.orchestrate import assets, dbt_tasks, tasks
from include.orchestrate.assets import tell_updated, warehouse_asset
from include.orchestrate.dbt_tasks import DbtFreshness, _change
from tests.conftest import Postgres
from tests.projects import project, rendered

FILES = {
    "models/sources.yml": """
sources:
  - name: stripe
    schema: public
    config:
      loaded_at_field: at
      freshness: {warn_after: {count: 1, period: day}, error_after: {count: 2, period: day}}
    tables:
      - name: charges
        columns: [{name: id, data_tests: [unique]}]
      - {name: always_fresh, config: {freshness: null}}
  - name: visits
    schema: public
    config: {freshness: {warn_after: {count: 1, period: day}}}
    tables: [{name: pages}]
  - {name: shop, schema: raw_shop, tables: [{name: orders, config: {meta: {extract: {mode: full}}}}]}
""",
    "models/staging/stg.sql": "select * from {{ source('stripe', 'charges') }}",
    "models/staging/through.sql": "{{ config(materialized='ephemeral') }} select * from {{ ref('numbers') }}",
    "models/marts/fct.sql": """{{ config(schema='marts', alias='Fact Table') }}
        select {{ function('twice') }}(id) from {{ ref('stg') }} join {{ ref('through') }} using (id)""",
    "functions/twice.sql": "select x * 2",
    "functions/twice.yml": """
functions: [{name: twice, arguments: [{name: x, data_type: int}], returns: {data_type: int}}]
""",
    "seeds/numbers.csv": "id\n1\n",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with project(tmp_path_factory.mktemp("assets"), FILES) as made:
        yield made


@pytest.fixture(scope="module")
def dag(written: Path) -> DAG:
    return rendered()


def outlets(dag: DAG) -> dict[str, list[tuple[str, str]]]:
    return {task.task_id: [(each.name, each.uri) for each in task.outlets] for task in dag.tasks if task.outlets}


def test_what_a_task_makes_is_its_asset(dag: DAG) -> None:
    place = "postgres://warehouse:5432/warehouse"
    assert outlets(dag) == {
        "staging.stg.run": [("analytics.stg", f"{place}/analytics/stg")],
        "marts.fct.run": [("analytics_marts.Fact Table", f"{place}/analytics_marts/Fact%20Table")],
        "seeds.numbers.seed": [("analytics.numbers", f"{place}/analytics/numbers")],
        "shop.orders.load": [("raw_shop.orders", f"{place}/raw_shop/orders")],
    }


def test_what_a_node_reads_is_its_input_in_openlineage(written: Path) -> None:
    read = dbt_tasks._read_by(dbt_project.load_manifest({}), "model.elt.fct")
    assert sorted(asset.name for asset in read) == ["analytics.numbers", "analytics.stg"]


@pytest.mark.parametrize("is_installed", [True, False])
def test_inputs_are_told_where_the_provider_is_and_cost_nothing_elsewhere(
    monkeypatch: pytest.MonkeyPatch, is_installed: bool
) -> None:
    monkeypatch.setattr(assets, "find_spec", lambda name: is_installed and name == "airflow.providers.openlineage")
    task, made = SimpleNamespace(inlets=[]), []
    read = (made.append(name) or warehouse_asset("staging", name) for name in ("a", "b"))
    assets.tell_read({"ti": SimpleNamespace(task=task)}, read)
    assert [asset.name for asset in task.inlets] == (["staging.a", "staging.b"] if is_installed else [])
    assert made == (["a", "b"] if is_installed else [])


def test_the_process_of_one_task_asks_no_server_about_it(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "rendered")
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_TASK_ID", "staging.stg.run")
    task = rendered().get_task("staging.stg.run")
    assert task.outlets == [] and task.extra_context["asset"] == ["analytics", "stg"]


@pytest.mark.parametrize("extra", [{"rows": 3}, None])
def test_an_event_tells_what_changed_and_there_is_none_where_nothing_did(extra: dict[str, Any] | None) -> None:
    asset = warehouse_asset("marts", "fct_sales")
    context: Any = {
        "ti": SimpleNamespace(task=SimpleNamespace(outlets=[asset])),
        "outlet_events": OutletEventAccessors(),
    }
    tell_updated(context, asset, extra)
    assert context["ti"].task.outlets == ([] if extra is None else [asset])
    assert len(context["outlet_events"]) == (0 if extra is None else 1)
    assert extra is None or context["outlet_events"][asset].extra == extra


@pytest.mark.parametrize(
    ("materialized", "rows", "hooks", "told"),
    [
        ("table", 0, [], {"rows": 0}),
        ("view", -1, [], {}),
        ("incremental", 7, [], {"rows": 7}),
        ("incremental", 0, [], None),
        ("snapshot", 0, [], None),
        ("incremental", 0, ["delete from {{ this }}"], {"rows": 0}),
    ],
)
def test_a_model_to_which_no_row_came_did_not_change(
    materialized: str, rows: int, hooks: list[str], told: dict[str, int] | None
) -> None:
    config = SimpleNamespace(materialized=materialized, post_hook=hooks)
    node = SimpleNamespace(resource_type="model", config=config)
    assert _change([SimpleNamespace(node=node, adapter_response={"rows_affected": rows})]) == told


@pytest.mark.parametrize("built", [0, 2])
def test_marts_are_updated_if_any_was_built(built: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    ti = SimpleNamespace(dag_id="d", run_id="r", task=SimpleNamespace(outlets=[Asset("marts")]))
    ti.get_ti_count = lambda **what: asked.append(what) or built
    monkeypatch.setattr(tasks, "get_current_context", lambda: {"ti": ti, "outlet_events": OutletEventAccessors()})
    monkeypatch.setattr(tasks, "session", nullcontext)
    monkeypatch.setattr(tasks, "_refuse_clear_values", lambda loader: None)
    tasks.marts_ready.function([f"marts.m{number}.run" for number in range(150)])
    assert ti.task.outlets == ([Asset("marts")] if built else [])
    assert {key: asked[0][key] for key in ("dag_id", "run_ids", "states")} == (
        {"dag_id": "d", "run_ids": ["r"], "states": ["success"]}
    )
    assert sum(len(each["task_ids"]) for each in asked) == (100 if built else 150), "in requests of 100"


def test_an_assets_uri_is_the_one_that_airflow_keeps() -> None:
    asset = warehouse_asset("marts", "fct_sales")
    assert asset == Asset(name="marts.fct_sales", uri="postgres://warehouse/warehouse/marts/fct_sales")


def test_somebody_elses_source_is_looked_at_before_what_reads_it(dag: DAG) -> None:
    task = dag.get_task("stripe.charges.freshness")
    assert isinstance(task, DbtFreshness) and not task.upstream_task_ids
    assert task.downstream_task_ids == {"stripe.charges.unique_id", "staging.stg.run"}
    assert not [task_id for task_id in dag.task_ids if "always_fresh" in task_id or task_id == "shop.orders.freshness"]


def test_a_source_whose_age_cannot_be_known_says_what_it_needs(dag: DAG) -> None:
    task = dag.get_task("visits.pages.freshness")
    with pytest.raises(AirflowFailException, match="^dbt/models/sources.yml: pages: `freshness:` needs `loaded_at_f"):
        task.python_callable(*task.op_args)


@pytest.mark.parametrize(("age", "status"), [("1 hour", "pass"), ("30 hours", "warn"), ("3 days", "error")])
def test_a_stale_source_stops_what_reads_it_and_says_how_old_it_is(
    written: Path, dag: DAG, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, age: str, status: str
) -> None:
    dsn = postgres.database()
    with psycopg.connect(dsn) as warehouse:
        warehouse.execute(f"create table charges as select 1 as id, now() - interval '{age}' as at")
    profile = profile_variables(written_parameters(dsn))
    for name, value in profile.items():
        monkeypatch.setenv(name, value)
    task = dag.get_task("stripe.charges.freshness")
    with TemporaryDirectory() as made:
        manifest = dbt_project.load_manifest(profile)
        done = dbt_runner.invoke([*task.base_cmd], made, manifest, task.extra_context["dbt_unique_id"])
    assert [(each.node.unique_id, str(each.status)) for each in done.result.results] == [
        ("source.elt.stripe.charges", status)
    ]
    task.check_nodes(done)
    assert done.success == (status != "error")
    kept: dict[str, str] = {}
    ti = SimpleNamespace(xcom_push=kept.__setitem__)
    monkeypatch.setattr(dbt_tasks, "get_current_context", lambda: {"ti": ti})
    sentence = "source stripe.charges is stale: its newest row is of 20.* ago;"
    if not done.success:
        with pytest.raises(AirflowFailException, match=sentence):
            task.conclude(done)
    task.warn(done)
    assert bool(kept) == (status == "warn") and all(re.match(sentence, kept["warning"]) for _ in kept)
