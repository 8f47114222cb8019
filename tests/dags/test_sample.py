"""The graph of the sample: documented, in the order that its tables and models need, and of the reviewed tasks."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG
from cosmos.operators.local import DbtRunLocalOperator, DbtSnapshotLocalOperator, DbtTestLocalOperator

from include.dbt.project import PROJECT_DIR, graph_path
from include.local.environment import ROOT
from include.operate import health
from include.sources import load_specs
from tests.dags.conftest import upstream

EXPECTED = Path(__file__).with_name("expected_task_ids.txt")


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads(graph_path().with_name("manifest.json").read_text())


def unique_ids(dag: DAG, operator: type[Any]) -> list[str]:
    return sorted(task.extra_context["dbt_unique_id"] for task in dag.tasks if isinstance(task, operator))


def nodes(manifest: dict[str, Any], *resources: str) -> list[str]:
    return sorted(key for key, node in manifest["nodes"].items() if node["resource_type"] in resources)


def test_one_task_per_model_snapshot_and_test(dag: DAG, manifest: dict[str, Any]) -> None:
    assert unique_ids(dag, DbtRunLocalOperator) == nodes(manifest, "model")
    assert unique_ids(dag, DbtSnapshotLocalOperator) == nodes(manifest, "snapshot")
    assert unique_ids(dag, DbtTestLocalOperator) == nodes(manifest, "test")


def test_task_ids_are_the_reviewed_ones(dag: DAG) -> None:
    """A renamed task loses its history and its marks in the UI: a change of this file is read in review."""
    assert EXPECTED.read_text().split() == sorted(dag.task_ids), f"if intended, write the new ids to {EXPECTED}"


def test_a_process_for_one_task_makes_the_same_task_and_little_else(dag: DAG, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow parses the file again in every task's process, and says there which task it wants."""
    looked_at = ("task_type", "trigger_rule", "retries", "owner", "doc_md", "extra_context", "op_args", "op_kwargs")
    for expected in dag.tasks:
        # As Airflow's own context manager does, which does not take it back.
        monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", dag.dag_id)
        monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_TASK_ID", expected.task_id)
        parsed = DagBag(str(ROOT / "dags/elt_pipeline.py")).dags[dag.dag_id]
        made = parsed.get_task(expected.task_id)
        for name in looked_at:
            assert repr(getattr(made, name, None)) == repr(getattr(expected, name, None)), (expected.task_id, name)
        assert made.task_group.group_id == expected.task_group.group_id
        assert parsed.params.dump() == dag.params.dump()
        assert len(parsed.tasks) <= (20 if expected.task_id == "shop.horizon" else 7)


def test_a_staging_model_waits_for_its_own_table_alone(dag: DAG) -> None:
    above = upstream(dag, "staging.stg_shop__orders.run")
    assert "shop.orders.load" in above
    assert not above & {"shop.customers.extract", "shop.customers.load", "shop.products.load"}


def test_children_are_read_before_their_parents(dag: DAG) -> None:
    assert "shop.order_items.extract" in upstream(dag, "shop.orders.cut")
    assert "shop.order_items.extract" in upstream(dag, "shop.products.extract")
    assert "shop.orders.extract" in upstream(dag, "shop.customers.extract")


def test_a_table_that_may_be_cut_has_an_extract_for_each_range(dag: DAG) -> None:
    mapped = [task.task_id for task in dag.tasks if task.is_mapped]
    assert mapped == [f"{spec.name}.extract" for spec in load_specs() if spec.rows_per_range]
    assert mapped == ["shop.orders.extract"]
    for task_id in mapped:
        cut = task_id.replace(".extract", ".cut")
        assert dag.get_task(task_id).upstream_task_ids == {cut}


def test_a_table_that_failed_or_was_left_out_does_not_stop_the_next_but_a_horizon_stops_all(dag: DAG) -> None:
    for task_id in dag.task_ids:
        if task_id.endswith((".extract", ".cut")):
            task = dag.get_task(task_id)
            assert "shop.horizon" in upstream(dag, task_id) and task.trigger_rule == "all_success"
            for before in task.upstream_list:
                if before.task_id.endswith(".ended"):
                    assert before.trigger_rule == "all_done" and before.task_type == "EmptyOperator"
                else:
                    assert before.task_id == "shop.horizon" or before.task_id.split(".")[1] == task_id.split(".")[1]


def test_a_test_runs_after_all_its_parents_and_blocks_what_depends_on_them(dag: DAG, manifest: dict[str, Any]) -> None:
    task_of = {t.extra_context["dbt_unique_id"]: t for t in dag.tasks if hasattr(t, "extra_context")}
    for spec in load_specs():
        task_of[f"source.elt.{spec.name}"] = dag.get_task(f"{spec.name}.load")
    parents = {key: set(above) & task_of.keys() for key, above in manifest["parent_map"].items() if key in task_of}

    def ancestors(key: str) -> set[str]:
        return parents[key].union(*(ancestors(parent) for parent in parents[key])) if parents.get(key) else set()

    for test in nodes(manifest, "test"):
        above = task_of[test].get_flat_relative_ids(upstream=True)
        assert {task_of[parent].task_id for parent in parents[test]} <= above
        for node in nodes(manifest, "model", "snapshot"):
            blocks = task_of[test].task_id in task_of[node].get_flat_relative_ids(upstream=True)
            assert blocks == (parents[test] <= ancestors(node)), f"{test} and {node}"


def test_groups_follow_the_layers(dag: DAG) -> None:
    layers = {"shop", "staging", "snapshots", "intermediate", "marts"}
    assert {task_id.split(".")[0] for task_id in dag.task_ids} == layers | {"check_parameters", "marts_ready"}


def test_a_group_says_what_its_node_is(dag: DAG, manifest: dict[str, Any]) -> None:
    described = {group.tooltip for group in dag.task_group_dict.values()}
    for node in (*manifest["sources"].values(), *manifest["nodes"].values()):
        if node["resource_type"] != "test":
            assert node["description"] and node["description"] in described, node["unique_id"]


def test_policies_of_every_dag(bag: DagBag) -> None:
    for dag in bag.dags.values():
        assert (
            dag.description and dag.doc_md and dag.tags and dag.max_active_runs == 1
        ), f"{dag.dag_id}: needs description, doc_md, tags, max_active_runs=1"
        for task in dag.tasks:
            assert task.owner != "airflow", f"{dag.dag_id}.{task.task_id}: name an owner in default_args"
            assert (task.retries, task.retry_delay) == (3, timedelta(minutes=5)), f"{dag.dag_id}.{task.task_id}"


def test_what_to_do_comes_first(bag: DagBag) -> None:
    for dag in bag.dags.values():
        assert dag.doc_md and dag.doc_md.strip().split("\n\n")[1].startswith("**Something is red?** "), dag.dag_id


def test_the_form_speaks_english(bag: DagBag) -> None:
    """A title instead of the parameter's name, and code only where Markdown is rendered."""
    for dag in bag.dags.values():
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.schema.get("title") and (param.description or param.schema.get("description_md")), name
            assert "`" not in (param.description or ""), f"{dag.dag_id}, {name}: description_md renders it"


def test_dag_files_are_short() -> None:
    for path in (ROOT / "dags").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 80, f"{path.name}: move the how to include/"
        assert not path.name.startswith("dbt_"), f"{path.name}: dbt imports modules named dbt_* as plugins"


def test_dbt_keeps_failing_rows_where_they_are_looked_for() -> None:
    project = yaml.safe_load((PROJECT_DIR / "dbt_project.yml").read_text())
    assert project["data_tests"]["elt"] == {"+store_failures": True, "+schema": health.FAILURES_SCHEMA}
