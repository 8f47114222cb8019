"""Tells people that a run failed, warns or is late: one message a run, to the web hook in the connection `alerts`.

A message holds names, counts and links. The texts of errors and the rows themselves stay where Airflow's users and the
warehouse's roles decide who reads them: both can quote data, and a chat keeps what it is sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from html import escape
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import structlog
from airflow import __version__ as airflow_version
from airflow.sdk import DAG, BaseHook, Connection, Context
from airflow.sdk.configuration import conf
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.xcom import XCom
from packaging.version import Version

from include.errors import ConfigError
from include.orchestrate.failing import WARNING
from include.orchestrate.links import run_path, task_path

CONNECTION = "alerts"
TIMEOUT_SECONDS = 5
MAX_TASKS = 20

log = structlog.get_logger(__name__)


def due_within(interval: timedelta) -> DeadlineAlert:
    """Have people told of a run that has not succeeded so long after it was queued.

    Where a run is cleared or marked, Airflow 3.3.2 counts its deadline anew and reads the interval as a number, but had
    stored a timedelta as a dictionary: HTTP 500 (apache/airflow #70368). It stores a number as one. Unnecessary once a
    later Airflow reads what it stored (tests/e2e/test_mending.py clears runs whose deadline is open).
    """
    stored: Any = interval.total_seconds() if Version(airflow_version) <= Version("3.3.2") else interval
    queued = DeadlineReference.DAGRUN_QUEUED_AT
    return DeadlineAlert(reference=queued, interval=stored, callback=SyncCallback(tell_late))


def tell_failed(context: Context) -> None:
    """Tell which tasks of a run failed. A DAG's `on_failure_callback`: the DAG processor calls it at the run's end.

    So does `airflow dags test`, in a process that cannot ask Airflow; its terminal says what failed.
    """
    if not hasattr(task_runner, "SUPERVISOR_COMMS"):
        log.info("nobody else was told: this run was started by `airflow dags test`")
    elif connection := _connection():
        dag, run_id = context["dag"], context["run_id"]
        _post(connection, failed_text(dag, run_id, str(context.get("reason", ""))))


def tell_warned(context: Context) -> None:
    """Tell what a run that succeeded warns of, if anything. A DAG's `on_success_callback`, called as `tell_failed`."""
    dag, run_id = context["dag"], context["run_id"]
    if hasattr(task_runner, "SUPERVISOR_COMMS") and (warned := _warned(dag, run_id)) and (connection := _connection()):
        _post(connection, _message(dag, run_id, [f"{dag.dag_id} succeeded", *_warnings(dag, run_id, warned)]))


def tell_late(context: Mapping[str, Any]) -> None:
    """Tell that a run is late. A deadline's callback: the executor calls it, in a process of its own.

    Nobody waits for a backfill at a certain hour, and who waits for a run that failed has been told.
    """
    run = context["dag_run"]
    if run["run_type"] == "backfill" or run["state"] == "failed":
        log.info("nobody has to be told", **{key: run[key] for key in ("dag_run_id", "run_type", "state")})
    elif connection := _connection():
        _post(connection, late_text(run, str(context["deadline"]["deadline_time"])))


def failed_text(dag: DAG, run_id: str, reason: str) -> str:
    """The message about a run that failed; asks Airflow for the states of its tasks."""
    states = task_runner.RuntimeTaskInstance.get_task_states(dag.dag_id, run_ids=[run_id]).get(run_id, {})
    failed = sorted(key for key, state in states.items() if state == "failed")
    blocked = sum(state == "upstream_failed" for state in states.values())
    lines = [f"{dag.dag_id} failed: {len(failed)} of {len(states)} tasks, and {blocked} that wait for them"]
    lines += _named(dag, run_id, failed) or [f"• {reason}"]
    return _message(dag, run_id, lines + _warnings(dag, run_id, _warned(dag, run_id)))


def _message(dag: DAG, run_id: str, lines: list[str]) -> str:
    return "\n".join([*lines, f"The run: {_url(run_path(dag.dag_id, run_id))}"])


def _warnings(dag: DAG, run_id: str, warned: list[str]) -> list[str]:
    count = len(warned)
    return [f"{count} task{'s warn' if count > 1 else ' warns'}", *_named(dag, run_id, warned)] if warned else []


def _warned(dag: DAG, run_id: str) -> list[str]:
    """Ids of the tasks that warn; asks Airflow once for each that can."""
    can = (task for task in dag.tasks if getattr(task, "extra_context", {}).get("may_warn"))
    asked = {"key": WARNING, "dag_id": dag.dag_id, "run_id": run_id}
    return sorted(task.task_id for task in can if XCom.get_one(task_id=task.task_id, **asked))


def _named(dag: DAG, run_id: str, keys: list[str]) -> list[str]:
    """A line and a link for each of the first tasks, and the number of the others."""
    lines = [_task(dag, run_id, key) for key in keys[:MAX_TASKS]]
    return lines + [f"• and {len(keys) - MAX_TASKS} more"] * (len(keys) > MAX_TASKS)


def late_text(run: Mapping[str, Any], due_at: str) -> str:
    """The message about a run that is late."""
    since = run["start_date"] if run["state"] == "running" else run["end_date"] or run["queued_at"]
    late = f"{run['dag_id']} is late: due by {_minute(due_at)}, {run['state']} since {_minute(since)}"
    return f"{late}\nThe run: {_url(run_path(run['dag_id'], run['dag_run_id']))}"


def _minute(instant: str) -> str:
    return f"{datetime.fromisoformat(instant).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _task(dag: DAG, run_id: str, key: str) -> str:
    """A task that failed or warns: its name, of a dbt test its rows, and its log."""
    mapped, _, index = key.rpartition("_")
    if dag.has_task(key):
        return f"• {key}{_rows(dag.get_task(key), run_id)}\n  {_url(task_path(dag.dag_id, run_id, key))}"
    if not dag.has_task(mapped):
        return f"• {key}, which the DAG no longer has"
    # Airflow appends its number to a mapped task. Which table that is, of the DAG reconcile, is known without asking.
    values = dag.get_task(mapped)._get_specified_expand_input().value.values()
    known = [str(value[int(index)]) for value in values if isinstance(value, list)]
    url = _url(task_path(dag.dag_id, run_id, mapped, int(index)))
    return f"• {' '.join([mapped, *(known or [index])])}\n  {url}"


def _rows(task: Any, run_id: str) -> str:
    """How many rows failed a dbt test, and the table that keeps them."""
    from include.operate.health import FAILURES_SCHEMA
    from include.orchestrate.dbt_tasks import FAILED_ROWS, FAILING_ROWS, DbtTest

    if not isinstance(task, DbtTest):
        return ""
    place = {"dag_id": task.dag_id, "task_id": task.task_id, "run_id": run_id}
    count, table = XCom.get_one(key=FAILED_ROWS, **place), XCom.get_one(key=FAILING_ROWS, **place)
    if not isinstance(count, int):  # it broke before it could count
        return ""
    # An XCom may hold anything: whoever may write one would speak in the pipeline's name.
    kept = f", kept in {FAILURES_SCHEMA}.{table}" if isinstance(table, str) and table.isidentifier() else ""
    return f": {count:,} failing row{'s' * (count != 1)}{kept}"


def _url(path: str) -> str:
    return conf.get("api", "base_url", fallback="").rstrip("/") + path


def _connection() -> Connection | None:
    try:
        return BaseHook.get_connection(CONNECTION)
    except AirflowNotFoundException:
        log.info(f"nobody was told: Airflow has no connection {CONNECTION!r}")
        return None


def plain(text: str) -> str:
    """A text in which a chat finds no markup: `&`, `<` and `>` are written as Slack asks for, control characters go."""
    return "".join(" " if each < " " and each != "\n" else each for each in escape(text, quote=False))


def _post(connection: Connection, text: str) -> None:
    """Send `{"text": …}`, as chats take it: a name is no link and calls nobody, whatever is in it.

    What goes wrong is logged without the address, whose path is secret.
    """
    body = json.dumps({"text": plain(text)}).encode()
    request = Request(address(connection), body, {"Content-Type": "application/json"})
    try:
        with urlopen(request, timeout=TIMEOUT_SECONDS):
            log.info("people were told", text=text)
    except (OSError, HTTPException, ValueError) as error:
        said = (
            f"{error.code} {error.reason}"
            if isinstance(error, HTTPError)
            else type(error.__context__ or error).__name__
        )
        log.warning(f"nobody was told: the address in the connection {CONNECTION!r} did not take it: {said}", text=text)


def address(connection: Connection) -> str:
    """The URL in a connection: all of it in `host`, or in parts, as Airflow reads `AIRFLOW_CONN_ALERTS=https://…`.

    Raises:
        ConfigError: it is no http or https URL.
    """
    host, kind = connection.host or "", connection.conn_type
    if "://" not in host and host:
        query = f"?{urlencode(connection.extra_dejson)}" if connection.extra else ""
        host += f":{connection.port}" if connection.port else ""
        host = f"{kind}://{host}/{quote(connection.schema or '')}{query}"
    if not host.startswith(("https://", "http://")):
        raise ConfigError(f"connection {CONNECTION!r} is of type {kind!r}; write AIRFLOW_CONN_ALERTS=https://host/path")
    return host
