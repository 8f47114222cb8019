"""What Airflow's metadata says of this project's DAGs, for the page Pipeline health. Reads only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import PurePath
from typing import Any

from airflow.configuration import ensure_secrets_loaded
from airflow.models import DagModel, DagRun, TaskInstance, Variable
from airflow.models.asset import AssetEvent
from airflow.models.deadline import Deadline
from airflow.models.errors import ParseImportError
from airflow.models.xcom import XComModel
from airflow.secrets.metastore import MetastoreBackend
from sqlalchemy import and_, case, func, select
from sqlalchemy.orm import Session

from include.operate.verdict import DagState, Failure
from include.orchestrate.dbt_tasks import FAILING_ROWS
from include.orchestrate.failing import ERROR, WARNING

DAG_ID = "elt_pipeline"
DAGS = {
    DAG_ID: True,
    "reconcile": True,
    "rewind": False,
    "sales_report": False,  # sample shop
}
"""This project's, and whether each runs by the clock. Other people's DAGs in the same Airflow are not looked at."""

SHOWN, LOOKED_AT = 5, 50
"""Runs: on the page, and back to which a task has failed that none has done since."""

FAILED = ("failed", "up_for_retry")
OPEN = ("queued", "running")


@dataclass(frozen=True)
class Run:
    """A run of the pipeline; `built_at` is the end of its marts, where every one of its tasks succeeded."""

    run_id: str
    state: str
    started_at: datetime | None
    took: timedelta | None
    failures: Sequence[Failure]
    waiting: int
    built_at: datetime | None


def latest_runs(metadata: Session) -> list[Run]:
    """The newest runs of the pipeline, with the tasks that failed in each and how many wait for those."""
    found = metadata.scalars(
        select(DagRun).where(DagRun.dag_id == DAG_ID).order_by(DagRun.id.desc()).limit(SHOWN)
    ).all()
    of_runs = (TaskInstance.dag_id == DAG_ID, TaskInstance.run_id.in_([run.run_id for run in found]))
    is_open = case((TaskInstance.state == "success", 0), else_=1)
    is_waiting = case((TaskInstance.state == "upstream_failed", 1), else_=0)
    marts_end = case((TaskInstance.task_id == "marts_ready", TaskInstance.end_date))
    sums = select(TaskInstance.run_id, func.sum(is_open), func.sum(is_waiting), func.max(marts_end)).where(*of_runs)
    of_run = {run_id: rest for run_id, *rest in metadata.execute(sums.group_by(TaskInstance.run_id))}
    failures: dict[str, list[Failure]] = defaultdict(list)
    for failure in _failures(metadata, *of_runs):
        failures[failure.run_id].append(failure)
    runs = []
    for run in found:
        left, waiting, built_at = of_run.get(run.run_id, (1, 0, None))
        took = run.end_date - run.start_date if run.start_date and run.end_date else None
        built = None if left else built_at
        runs.append(Run(run.run_id, run.state, run.start_date, took, failures[run.run_id], waiting, built))
    return runs


def variables(metadata: Session, names: Sequence[str]) -> dict[str, str | None]:
    """Airflow Variables as `Variable.get` finds them, those of the metadata in one query."""
    stored = {one.key: one.get_val() for one in metadata.scalars(select(Variable).where(Variable.key.in_(names)))}
    before = [backend for backend in ensure_secrets_loaded() if not isinstance(backend, MetastoreBackend)]
    shadowed = {name: next(filter(None, (backend.get_variable(name) for backend in before)), None) for name in names}
    return {name: shadowed[name] or stored.get(name) for name in names}


def ended_runs(metadata: Session) -> Sequence[Any]:
    """Begin, end and state of the newest runs of the pipeline that are over, the oldest first."""
    ended = select(DagRun.start_date, DagRun.end_date, DagRun.state).where(DagRun.dag_id == DAG_ID)
    ended = ended.where(DagRun.state.in_(["success", "failed"]), DagRun.start_date.is_not(None))
    return metadata.execute(ended.order_by(DagRun.id.desc()).limit(LOOKED_AT)).all()[::-1]


def still_failing(metadata: Session, dag_ids: Set[str] = DAGS.keys()) -> list[Failure]:
    """Tasks of the DAGs as they are now that failed or warned in a run, and that no newer run has done. Newest first.

    What a backfill was to read no other run reads: there a task has failed until that very run has done it.
    """
    return [failure for dag_id in dag_ids for failure in _not_done_since(metadata, dag_id)]


def _not_done_since(metadata: Session, dag_id: str) -> list[Failure]:
    """Of one DAG. Asks for what failed first: of all else there are a thousand times as many rows."""
    columns = (DagRun.id, DagRun.run_id, DagRun.run_type)
    newest = select(*columns).where(DagRun.dag_id == dag_id).order_by(DagRun.id.desc()).limit(LOOKED_AT)
    runs = {run.run_id: run for run in metadata.execute(newest)}
    of_dag = (TaskInstance.dag_id == dag_id, TaskInstance.run_id.in_(runs))
    failures = _failures(metadata, *of_dag)
    if not failures:
        return []
    same_task = TaskInstance.task_id.in_({failure.task_id for failure in failures})
    done = select(TaskInstance.task_id, TaskInstance.map_index, TaskInstance.run_id)
    done = done.where(*of_dag, same_task, TaskInstance.state == "success")
    now = select(TaskInstance.task_id).where(*of_dag, same_task, TaskInstance.run_id == next(iter(runs)))
    of_now = set(metadata.scalars(now))

    def scope(task: Any) -> tuple[str, int, int]:
        run = runs[task.run_id]
        return task.task_id, task.map_index, run.id if run.run_type == "backfill" else 0

    last: dict[tuple[str, int, int], int] = {}
    for task in [*failures, *metadata.execute(done)]:
        last[scope(task)] = max(last.get(scope(task), 0), runs[task.run_id].id)
    return [one for one in failures if one.task_id in of_now and last[scope(one)] == runs[one.run_id].id]


def _failures(metadata: Session, *conditions: Any) -> list[Failure]:
    columns = (TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index)
    query = select(*columns, TaskInstance.state, TaskInstance.rendered_map_index)
    query = query.where(*conditions).order_by(TaskInstance.start_date.desc(), TaskInstance.task_id)
    warning = and_(*(getattr(XComModel, column.key) == column for column in columns), XComModel.key == WARNING)
    warned = query.join(XComModel, warning).where(TaskInstance.state == "success")
    rows = [*metadata.execute(query.where(TaskInstance.state.in_(FAILED))), *metadata.execute(warned)]
    left = select(*(getattr(XComModel, column.key) for column in columns), XComModel.key, XComModel.value)
    kept = XComModel.key.in_([FAILING_ROWS, ERROR, WARNING])
    left = left.where(XComModel.run_id.in_({row.run_id for row in rows}), kept)
    values = {tuple(key): value for *key, value in metadata.execute(left)}
    return [
        Failure(
            row.run_id,
            row.task_id,
            row.map_index,
            row.state,
            table=values.get((*row[:4], FAILING_ROWS)),
            error=values.get((*row[:4], WARNING if row.state == "success" else ERROR)),
            label=row.rendered_map_index,
            dag_id=row.dag_id,
        )
        for row in rows
    ]


def results(metadata: Session, task_ids: Sequence[str], runs: int = LOOKED_AT) -> dict[str, list[Any]]:
    """By task id, how the pipeline's tasks ended in its newest runs: state, begin and seconds, the oldest first."""
    newest = select(DagRun.run_id).where(DagRun.dag_id == DAG_ID).order_by(DagRun.id.desc()).limit(runs)
    columns = (TaskInstance.task_id, TaskInstance.run_id, TaskInstance.state, TaskInstance.start_date)
    query = select(*columns, TaskInstance.duration).join(TaskInstance.dag_run).order_by(DagRun.id)
    query = query.where(TaskInstance.dag_id == DAG_ID, TaskInstance.run_id.in_(newest))
    found: dict[str, list[Any]] = {task_id: [] for task_id in task_ids}
    for row in metadata.execute(query.where(TaskInstance.task_id.in_(task_ids))):
        found[row.task_id].append(row)
    return found


def rows_built(metadata: Session, task_id: str) -> Sequence[Any]:
    """Time and rows of the newest times that a task changed its relation, where dbt counts them, the oldest first."""
    built = select(AssetEvent.timestamp, AssetEvent.extra).where(AssetEvent.source_dag_id == DAG_ID)
    built = built.where(AssetEvent.source_task_id == task_id).order_by(AssetEvent.id.desc()).limit(LOOKED_AT)
    return [row for row in metadata.execute(built).all()[::-1] if "rows" in row.extra]


def rows_of(metadata: Session, run_id: str, task_id: str) -> str | None:
    """The table that keeps the rows which failed a dbt test: the task's XCom."""
    query = select(XComModel.value).where(XComModel.dag_id == DAG_ID, XComModel.run_id == run_id)
    return metadata.scalar(query.where(XComModel.task_id == task_id, XComModel.key == FAILING_ROWS))


def dag_states(metadata: Session) -> list[DagState]:
    """Of each DAG of this project whether it is there, on, and on time."""
    models = {model.dag_id: model for model in metadata.scalars(select(DagModel).where(DagModel.dag_id.in_(DAGS)))}
    open_runs = select(DagRun.dag_id, func.count()).where(DagRun.dag_id.in_(DAGS), DagRun.state.in_(OPEN))
    waiting = {dag_id: count for dag_id, count in metadata.execute(open_runs.group_by(DagRun.dag_id))}
    has_run = set(metadata.scalars(select(DagRun.dag_id).where(DagRun.dag_id.in_(DAGS)).distinct()))
    missed = select(DagRun.dag_id, DagRun.run_id).join(Deadline, Deadline.dagrun_id == DagRun.id)
    missed = missed.where(Deadline.missed, DagRun.dag_id.in_(DAGS), DagRun.state.in_(OPEN))
    overdue: dict[str, list[str]] = defaultdict(list)
    for dag_id, run_id in metadata.execute(missed):
        overdue[dag_id].append(run_id)
    broken = {
        PurePath(name or "").stem: said
        for name, said in metadata.execute(select(ParseImportError.filename, ParseImportError.stacktrace))
    }
    states = []
    for dag_id, is_scheduled in DAGS.items():
        model = models.get(dag_id)
        states.append(
            DagState(
                dag_id,
                is_scheduled,
                is_there=model is not None and not model.is_stale,
                is_paused=bool(model and model.is_paused),
                has_run=dag_id in has_run,
                waiting=waiting.get(dag_id, 0),
                next_at=model.next_dagrun_create_after if model else None,
                overdue=overdue[dag_id],
                broken=_last_line(broken[dag_id]) if dag_id in broken else None,
            )
        )
    return states


def last_reconciled(metadata: Session) -> tuple[datetime | None, str | None]:
    """End and state of the newest comparison that has ended."""
    ended = select(DagRun.end_date, DagRun.state).where(
        DagRun.dag_id == "reconcile", DagRun.state.in_(["success", "failed"])
    )
    return metadata.execute(ended.order_by(DagRun.id.desc()).limit(1)).first() or (None, None)


def _last_line(stacktrace: str | None) -> str:
    lines = [line.strip() for line in (stacktrace or "").splitlines() if line.strip()]
    return lines[-1].partition("Error: ")[2] or lines[-1] if lines else "It cannot be read."
