"""What rendering does apart from the graph of this project, which tests/dags/test_integrity.py looks at."""

from __future__ import annotations

import gc
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions import dag as airflow_dag
from cosmos.operators.local import DbtLocalBaseOperator

from include.dbt import project as dbt_project
from tests.projects import project, rendered


@pytest.fixture(scope="module")
def lone_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A project with a test whose query reads no model."""
    files = {"models/a.sql": "select 1 as id", "tests/clock_is_right.sql": "select 1 where now() < '2026-01-01'"}
    with project(tmp_path_factory.mktemp("lone"), files):
        yield


def test_a_test_that_reads_no_model_runs_on_its_own(lone_test: None) -> None:
    dag = rendered()
    task = dag.get_task("tests.clock_is_right")
    assert task.extra_context == {"dbt_unique_id": "test.elt.clock_is_right"} and task.task_group.group_id == "tests"
    assert not task.upstream_task_ids and not task.downstream_task_ids


def test_its_process_makes_it_alone(lone_test: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "rendered")
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_TASK_ID", "tests.clock_is_right")
    assert rendered().task_ids == ["tests.clock_is_right"]


def test_hooks_are_tasks_at_the_two_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = json.loads(dbt_project.graph_path().read_text())
    graph["hooks"] = ["on-run-end", "on-run-start"]
    changed = tmp_path / "graph.json"
    changed.write_text(json.dumps(graph))
    monkeypatch.setattr(dbt_project, "graph_path", lambda: changed)
    dag = rendered()
    assert [task.task_id for task in dag.tasks if not task.upstream_list] == ["on_run_start"]
    end, last = dag.get_task("on_run_end"), dag.get_task("all_built")
    assert end.trigger_rule == "all_done", "it is told of failures, and may clean up after them"
    assert end.upstream_task_ids == last.upstream_task_ids - {"on_run_end"}, "the run fails with what failed before it"
    assert [task.task_id for task in dag.tasks if not task.downstream_list] == ["all_built"]
    tasks = {task.task_id for task in dag.tasks if isinstance(task, DbtLocalBaseOperator)}
    assert {*end.tasks.values()} == {*dag.get_task("on_run_start").tasks.values()} == tasks
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "rendered")
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_TASK_ID", "on_run_end")
    assert rendered().task_ids == ["on_run_end", "all_built"]


def test_garbage_is_looked_for_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered()
    assert gc.isenabled()
    monkeypatch.setattr(dbt_project, "graph_path", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        rendered()
    assert gc.isenabled()
    gc.disable()
    try:
        with pytest.raises(ZeroDivisionError):
            rendered()
        assert not gc.isenabled(), "whoever turned it off wants it off"
    finally:
        gc.enable()


def test_what_is_replaced_is_still_there() -> None:
    """Where one of these fails, rendering may no longer need to replace it: measure, and remove what is not needed."""
    assert "task_ids" in airflow_dag._DAG_HASH_ATTRS, "Airflow no longer hashes a DAG's task ids"
    source = inspect.getsource(DbtLocalBaseOperator.__init__)
    assert "inspect.signature(" in source and "inspect.getfullargspec(" in source, "Cosmos keeps the signatures"


def test_equal_dags_have_equal_hashes() -> None:
    first, second, other = DAG("a"), DAG("a"), DAG("b")
    assert first == second and hash(first) == hash(second)
    assert len({first, second, other}) == 2
