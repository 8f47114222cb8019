"""What of Airflow is replaced."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from airflow.sdk import DAG
from airflow.sdk.execution_time.supervisor import WatchedSubprocess

from include.patches import patch

ours: set[str] = set()
"""Ids of the DAGs that hold the pipeline's tasks; nobody else's DAG is touched."""


@patch("apache-airflow", "==3.3.*", without="parsing 1,000 models takes 0.7 s longer, of 1.2")
def hash_by_name() -> None:
    """Airflow asks twice an edge for the hash of its DAG, and makes it of all task ids. Equal DAGs have the same name.

    Unnecessary once it hashes no task ids.
    """
    of_all = DAG.__hash__
    DAG.__hash__ = lambda dag: hash(dag.dag_id) if dag.dag_id in ours else of_all(dag)


@patch("apache-airflow", "==3.3.*", without="`make run` takes 4 s longer")
def serve_newest_version() -> None:
    """A run in one process answers the requests of its own tasks; routes for clients of all ten versions take 4 s.

    Unnecessary once `airflow dags test` serves one version.
    """
    from airflow.api_fastapi.execution_api.versions import bundle
    from cadwyn import Cadwyn

    def serve(app: Cadwyn) -> None:
        app.router.versioned_routers[bundle.versions[0].value] = app._latest_version_router
        app._cadwyn_initialized = True

    Cadwyn._cadwyn_initialize = serve


@patch("apache-airflow", "==3.3.*", without="a good run would end with an error of Airflow's", is_needed=True)
def run_without_deadline() -> None:
    """Nobody is told that a run is late for which a person waits. Airflow takes its deadline for an id, and fails.

    Unnecessary once `airflow dags test` ends a run that has a deadline.
    """
    run = DAG.test

    def without(dag: DAG, *args: Any, **kwargs: Any) -> Any:
        dag.deadline = None
        return run(dag, *args, **kwargs)

    DAG.test = without


@patch("apache-airflow-task-sdk", "==1.3.*", without="on two cores every third task holds its slot for 5 s more")
def see_a_task_end() -> None:
    """Who watches a task's process looks whether it has ended when it closes its pipes, which is just before it ends.

    If it has not, there is nothing left to wake him, and he looks again after `min_heartbeat_interval`, 5 s.

    Unnecessary once he waits for the process itself.
    """
    service = WatchedSubprocess._service_subprocess

    def service_or_wait(watched: WatchedSubprocess, max_wait_time: float, *rest: Any, **more: Any) -> int | None:
        if not watched._open_sockets:
            with suppress(watched._process.TimeoutExpired):
                watched._process.wait(timeout=max_wait_time)
            max_wait_time = 0
        return service(watched, max_wait_time, *rest, **more)

    WatchedSubprocess._service_subprocess = service_or_wait
