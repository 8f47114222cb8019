"""A second DAG of the same project: its own nodes alone, and nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowFailException

from include.dbt import project as dbt_project
from include.errors import ConfigError
from include.orchestrate import dbt_tasks, parts
from include.orchestrate.assets import warehouse_asset
from include.orchestrate.rendering import assets_before, render_pipeline
from tests.projects import project, rendered, selected

FILES = {
    "models/sources.yml": """
sources:
  - name: shop
    schema: raw_shop
    config: {meta: {extract: {mode: full}}}
    tables: [{name: orders}, {name: clicks, config: {tags: [hourly]}}]
""",
    "models/models.yml": """
models:
  - {name: stg_orders, columns: [{name: id, data_tests: [unique]}]}
  - name: live
    config: {tags: [hourly]}
    columns:
      - name: id
        data_tests: [unique, {relationships: {name: of_an_order, arguments: {to: ref('stg_orders'), field: id}}}]
""",
    "models/staging/stg_orders.sql": "select * from {{ source('shop', 'orders') }}",
    "models/live/live.sql": "select * from {{ ref('stg_orders') }}, {{ source('shop', 'clicks') }}",
    "models/marts/report.sql": "select * from {{ ref('live') }}, {{ ref('stg_orders') }}",
}
FILE = "with DAG() as dag:\n    render_pipeline(dag, select={!r})\n"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("parts")
    with project(folder, FILES), pytest.MonkeyPatch.context() as patch:
        (folder / "dags").mkdir()
        patch.setattr(parts, "DAGS_DIR", folder / "dags")
        yield folder / "dags"


@pytest.fixture
def hourly(written: Path) -> Iterator[Path]:
    (written / "hourly.py").write_text(FILE.format("tag:hourly"))
    yield written
    for path in written.glob("*.py"):
        path.unlink()


def part(select: str) -> DAG:
    with DAG("part", start_date=datetime(2024, 1, 1)) as dag:
        render_pipeline(dag, select=select)
    return dag


def test_a_node_is_in_one_dag_and_every_node_in_one(hourly: Path) -> None:
    theirs, rest = set(part("tag:hourly").task_ids), set(rendered().task_ids)
    assert {task_id for task_id in theirs if "of_an_order" not in task_id} == {
        "shop.horizon",
        "shop.clicks.extract",
        "shop.clicks.load",
        "live.live.run",
        "live.live.unique_id",
    }
    assert [task_id for task_id in theirs if "of_an_order" in task_id], "with the node that it stands with"
    assert rest == {
        "shop.horizon",
        "shop.orders.extract",
        "shop.orders.load",
        "staging.stg_orders.run",
        "staging.stg_orders.unique_id",
        "marts.report.run",
    }


def test_a_run_is_asked_for_what_its_dag_builds(hourly: Path) -> None:
    whole, hers = (dbt_tasks.built_by[dag.dag_id] for dag in (rendered(), part("tag:hourly")))
    assert not whole & hers and "model.elt.live" in hers
    assert whole | hers == {key for key in dbt_project.selected("") if not key.startswith("source.")}


def test_what_lies_across_the_border_is_waited_for_as_an_asset(hourly: Path) -> None:
    assert assets_before("tag:hourly") == [warehouse_asset("analytics", "stg_orders")]
    dag = part("tag:hourly")
    assert dag.get_task("live.live.run").upstream_task_ids == {"shop.clicks.load"}
    assert dag.get_task("live.live.run").outlets == [warehouse_asset("analytics", "live")]


def test_what_is_read_through_another_dags_node_is_waited_for(written: Path) -> None:
    (written / "middle.py").write_text(FILE.format("live"))
    try:
        assert rendered().get_task("marts.report.run").upstream_task_ids == {
            "staging.stg_orders.run",
            "staging.stg_orders.unique_id",
            "shop.clicks.load",
        }
    finally:
        (written / "middle.py").unlink()


def test_a_default_selector_says_what_the_dag_has(tmp_path: Path) -> None:
    """As it says what `dbt build` builds; of a chain that it cuts, the ends keep their order."""
    selector = {"name": "ours", "default": True, "definition": {"union": ["stg_orders", "report", "unique_live_id"]}}
    with project(tmp_path, FILES | {"selectors.yml": json.dumps({"selectors": [selector]})}):
        dag = rendered()
        assert {task_id for task_id in dag.task_ids if not task_id.startswith("shop.")} - {
            task_id for task_id in dag.task_ids if "of_an_order" in task_id
        } == {"staging.stg_orders.run", "staging.stg_orders.unique_id", "marts.report.run", "live.live.unique_id"}
        ids = {task.extra_context["dbt_unique_id"] for task in dag.tasks if hasattr(task, "extra_context")}
        assert ids == dbt_project.selected("")
        assert "shop.clicks.load" in dag.get_task("marts.report.run").upstream_task_ids
        assert dag.get_task("live.live.unique_id").upstream_task_ids == {
            "staging.stg_orders.run",
            "staging.stg_orders.unique_id",
            "shop.clicks.load",
        }
        (live,) = (key for key in dbt_project.load_manifest({}).nodes if key.startswith("model.") and "live" in key)
        assert selected(live) == [live], "it can have a DAG of its own"


def test_without_a_second_dag_all_is_in_the_first(written: Path) -> None:
    assert {"live.live.run", "shop.clicks.load", "marts.report.run"} <= set(rendered().task_ids)


def test_a_node_that_two_claim_is_refused_in_both(hourly: Path) -> None:
    (hourly / "other.py").write_text(FILE.format("live"))
    for select in ("tag:hourly", "live"):
        task = part(select).get_task("live.live.run")
        with pytest.raises(
            AirflowFailException, match="dags/hourly.py, dags/other.py claim it, by .* one DAG"
        ) as raised:
            task.python_callable(*task.op_args)
        assert str(raised.value).startswith("dbt/models/live/live.sql: live: ")
    assert "live.live.run" not in rendered().task_ids
    assert part("tag:hourly").get_task("shop.clicks.load").task_type == "_PythonDecoratedOperator"


def test_a_selection_that_cannot_work_stops_its_own_dag_alone(hourly: Path) -> None:
    (hourly / "other.py").write_text(FILE.format("tag:hourli"))
    with pytest.raises(ConfigError, match="dbt selects nothing by 'tag:hourli'"):
        part("tag:hourli")
    with pytest.raises(ConfigError, match=r"no file of dags/ calls render_pipeline\(…, select='tag:daily'\)"):
        part("tag:daily")
    assert "marts.report.run" in rendered().task_ids
