"""The parsed DAGs: complete, and exactly what the dbt manifest says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.providers.standard.operators.trigger_dagrun import DagIsPaused
from airflow.sdk import DAG, CronDataIntervalTimetable

from include.orchestrate.alerts import tell_failed, tell_warned
from include.sources import load_specs
from tests.dags.conftest import upstream


def test_every_file_parses_and_the_bag_is_not_empty(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert {"elt_pipeline", "reconcile", "rewind"} <= bag.dags.keys()


def test_one_extract_and_one_load_per_source_table(dag: DAG) -> None:
    tables = [spec.name for spec in load_specs()]
    for step in ("extract", "load"):
        assert sorted(t for t in dag.task_ids if t.endswith(f".{step}")) == sorted(f"{t}.{step}" for t in tables)


def test_parameters_are_checked_before_anything_runs(bag: DagBag) -> None:
    for dag_id in ("elt_pipeline", "reconcile"):
        assert [task.task_id for task in bag.dags[dag_id].roots] == ["check_parameters"]


def test_a_repair_does_not_queue_a_run_of_a_paused_dag(bag: DagBag) -> None:
    """It would wait for ever, and look as if all was built again."""
    paused = SimpleNamespace(get_dag=lambda dag_id: SimpleNamespace(is_paused=True))
    with pytest.raises(DagIsPaused, match="elt_pipeline is paused"):
        bag.dags["reconcile"].get_task("rebuild").execute({"ti": paused})


def test_people_are_told_of_what_runs_by_the_clock(bag: DagBag) -> None:
    scheduled = [dag for dag in bag.dags.values() if isinstance(dag.timetable, CronDataIntervalTimetable)]
    assert {dag.dag_id for dag in scheduled} >= {"elt_pipeline", "reconcile"}
    for dag in scheduled:
        is_told = dag.on_failure_callback is tell_failed and dag.deadline
        assert is_told, f"{dag.dag_id}: see include/orchestrate/alerts.py"
    assert bag.dags["elt_pipeline"].on_success_callback is tell_warned


def test_a_repair_is_followed_by_a_run_of_the_pipeline(bag: DagBag) -> None:
    dag = bag.dags["reconcile"]
    assert sorted(dag.task_ids) == ["anything_repaired", "check_parameters", "rebuild", "reconcile"]
    assert upstream(dag, "rebuild") == {"anything_repaired", "check_parameters", "reconcile"}
    assert dag.get_task("rebuild").trigger_dag_id == "elt_pipeline"
    # A table that could not be repaired must show as a failed run: what follows it is not to be green.
    assert {task.trigger_rule for task in dag.tasks} == {"all_success", "none_failed"}


def test_daily_with_data_intervals(dag: DAG) -> None:
    assert isinstance(dag.timetable, CronDataIntervalTimetable)
    assert dag.timetable == CronDataIntervalTimetable("@daily", timezone="UTC")
    assert not dag.catchup
