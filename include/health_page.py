"""The page Pipeline health: what Airflow adds to include.health, and who may see it. Served by the API server.

Nothing it asks may keep the page from being shown: a server that is away is a sentence on it, after three seconds.
"""

from __future__ import annotations

import json
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import structlog
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import requires_access_dag
from airflow.configuration import conf
from airflow.models import DagRun, TaskInstance, Variable
from airflow.models.xcom import XComModel
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import case, func, select

from include import health
from include.batch import to_text
from include.dbt_tasks import FAILING_ROWS, dbt_hook
from include.errors import ConfigError
from include.links import run_path, task_path
from include.sessions import Connection, pin
from include.sources import TableSpec, load_tables

log = structlog.get_logger(__name__)

DAG_ID = "elt_pipeline"
UI = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
RUNS, LOADS = 5, 20

IMPATIENT = {"application_name": "elt_health", "connect_timeout": 3, "tcp_user_timeout": 3000}
"""libpq options: whoever waits for the page would sooner know that a server is away."""

FAILED = ("failed", "up_for_retry")

UNSEEN = (psycopg.Error, AirflowException, ValueError)
"""A server that is away or refuses, a connection that is missing or cannot be read."""

ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#ff7557" stroke-width="2"
stroke-linecap="round" stroke-linejoin="round"><path d="M3 12h4l3-8 4 16 3-8h4"/></svg>"""


@dataclass(frozen=True)
class Failure:
    """A task that failed, or waits for its next try; `table` keeps the rows that failed its dbt test."""

    run_id: str
    task_id: str
    map_index: int = -1
    state: str = "failed"
    table: str | None = None


@dataclass(frozen=True)
class Run:
    """A run of the pipeline; `built_at` is the end of its marts, where every one of its tasks succeeded."""

    run_id: str
    state: str
    started_at: datetime | None
    took: timedelta | None
    failures: Sequence[Failure]
    succeeded: Set[str]
    built_at: datetime | None


may_read = Depends(requires_access_dag("GET", param_dag_id=DAG_ID))
may_read_logs = Depends(requires_access_dag("GET", DagAccessEntity.TASK_LOGS, param_dag_id=DAG_ID))
app = FastAPI(openapi_url=None)


@app.exception_handler(ConfigError)
def broken(_: Request, error: ConfigError) -> Response:
    """A mistake in a source entry: the DAG's import error says the same."""
    return _page("broken", problem=str(error))


@app.get("/", dependencies=[may_read])
def overview(metadata: SessionDep) -> Response:
    """Every table, every source, the latest runs."""
    listed = load_tables()
    specs = list(listed.specs.values())
    variables = {spec.watermark_key: Variable.get(spec.watermark_key, None) for spec in specs}
    runs = _latest_runs(metadata)
    with ThreadPoolExecutor(8) as threads:
        sources = threads.map(_source, dict.fromkeys(spec.source for spec in specs))
        tables = [health.Table(spec, variable=variables[spec.watermark_key]) for spec in specs]
        latencies, problem = {}, None
        try:
            with _look(dbt_hook) as warehouse:
                tables = [health.read_table(warehouse, spec, variables[spec.watermark_key]) for spec in specs]
                latencies = _latencies(warehouse, runs, {spec.source for spec in specs})
        except UNSEEN as error:
            problem = _said(error)
        return _page(
            "overview",
            broken=[each.sentence for each in listed.problems.values()],
            tables=[(table, still_failing(runs, table.spec)) for table in tables],
            sources=list(sources),
            runs=runs,
            latencies=latencies,
            problem=problem,
        )


@app.get("/tables/{name}", dependencies=[may_read])
def table(name: str, metadata: SessionDep) -> Response:
    """One table: what is wrong with it, its watermark, extractions under way and last loads."""
    listed = load_tables()
    for broken_entry in listed.problems.values():
        if broken_entry.name == name:
            raise ConfigError(broken_entry.sentence)
    spec = next((spec for spec in listed.specs.values() if spec.name == name), None)
    if spec is None:
        raise HTTPException(404, "no dbt source lists this table")
    variable, problem = Variable.get(spec.watermark_key, None), None
    found = health.Table(spec, variable=variable)
    try:
        with _look(dbt_hook) as warehouse:
            found = health.read_table(warehouse, spec, variable, loads=LOADS)
    except UNSEEN as error:
        problem = _said(error)
    return _page("table", table=found, failing=still_failing(_latest_runs(metadata), spec), problem=problem)


@app.get("/failures", dependencies=[may_read_logs])
def failures(run_id: str, task_id: str, metadata: SessionDep) -> Response:
    """The rows that failed a dbt test, as its latest run left them."""
    name, found, problem = _tables_of_failures(metadata, [run_id]).get((run_id, task_id)), None, None
    if name:
        try:
            with _look(dbt_hook) as warehouse:
                found = health.read_failing_rows(warehouse, name)
        except UNSEEN as error:
            problem = _said(error)
    return _page(
        "failures",
        task=Failure(run_id, task_id),
        name=name,
        found=found,
        problem=problem,
        schema=health.FAILURES_SCHEMA,
    )


@app.get("/icon.svg")
def icon() -> Response:
    """For the navigation, in a colour of Airflow that shows on each of its grounds. Open to all: it tells nothing."""
    return Response(ICON, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})


def _source(name: str) -> health.Source:
    try:
        with _look(lambda: PostgresHook(name)) as connection:
            return health.read_source(connection, name)
    except UNSEEN as error:
        return health.Source(name, problem=_said(error))


@contextmanager
def _look(connect: Callable[[], PostgresHook]) -> Iterator[Connection]:
    """A read-only session that waits for nothing longer than three seconds."""
    hook = connect()
    hook.connection.extra = json.dumps({**hook.connection.extra_dejson, **IMPATIENT})
    with hook.get_conn() as connection:
        pin(connection, read_only=True, connect=hook.get_conn).execute("set statement_timeout to '3s'")
        yield connection


def _said(error: Exception) -> str:
    """The error for the page: what the server says of a statement. The client's own words name hosts and users."""
    log.warning("the health page could not look", exc_info=error)
    if isinstance(error, AirflowNotFoundException):
        return "the API server has no such connection, or cannot read it; its name is the one that the tasks use"
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return f"cannot be asked ({type(error).__name__}); the API server's log says more"


def _latest_runs(metadata: SessionDep) -> list[Run]:
    found = metadata.scalars(select(DagRun).where(DagRun.dag_id == DAG_ID).order_by(DagRun.id.desc()).limit(RUNS)).all()
    ids = [run.run_id for run in found]
    of_runs = (TaskInstance.dag_id == DAG_ID, TaskInstance.run_id.in_(ids))
    is_open = case((TaskInstance.state == "success", 0), else_=1)
    marts_end = case((TaskInstance.task_id == "marts_ready", TaskInstance.end_date))
    ends = select(TaskInstance.run_id, func.sum(is_open), func.max(marts_end)).where(*of_runs)
    built_at = {run_id: end for run_id, left, end in metadata.execute(ends.group_by(TaskInstance.run_id)) if not left}
    tables, failures, succeeded = _tables_of_failures(metadata, ids), defaultdict(list), defaultdict(set)
    ended = select(TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state).where(
        *of_runs
    )
    ended = ended.where(TaskInstance.state.in_(["success", *FAILED])).order_by(TaskInstance.end_date)
    for run_id, task_id, map_index, state in metadata.execute(ended):
        if state == "success":
            succeeded[run_id].add(task_id)
        else:
            failures[run_id].append(Failure(run_id, task_id, map_index, state, tables.get((run_id, task_id))))
    return [
        Run(
            run.run_id,
            run.state,
            run.start_date,
            run.end_date - run.start_date if run.start_date and run.end_date else None,
            failures[run.run_id],
            succeeded[run.run_id],
            built_at.get(run.run_id),
        )
        for run in found
    ]


def still_failing(runs: Sequence[Run], spec: TableSpec) -> list[Failure]:
    """Tasks of the table that failed in one of the runs, the newest first, and in none since."""
    failing: list[Failure] = []
    settled: set[str] = set()
    for run in runs:
        failing += [task for task in run.failures if task.task_id not in settled]
        settled |= run.succeeded | {task.task_id for task in run.failures}
    return [task for task in failing if task.task_id.startswith(f"{spec.task_group}.")]


def _tables_of_failures(metadata: SessionDep, run_ids: Sequence[str]) -> dict[tuple[str, str], str]:
    """By run and task, the table that keeps what failed: the task's XCom."""
    query = select(XComModel.run_id, XComModel.task_id, XComModel.value)
    query = query.where(XComModel.dag_id == DAG_ID, XComModel.run_id.in_(run_ids), XComModel.key == FAILING_ROWS)
    return {(run_id, task_id): str(value) for run_id, task_id, value in metadata.execute(query)}


def _latencies(warehouse: Connection, runs: Sequence[Run], sources: set[str]) -> dict[str, timedelta]:
    """By run, how long after it read what every source had committed by then the marts had that."""
    built = {run.run_id: run.built_at for run in runs if run.built_at}
    read = health.committed_before(warehouse, list(built))
    return {
        run_id: built[run_id] - min(instants.values())
        for run_id, instants in read.items()
        if instants.keys() == sources
    }


def _page(view: str, **values: Any) -> Response:
    nonce = secrets.token_urlsafe(16)
    html = TEMPLATE.render(view=view, nonce=nonce, now=datetime.now(UTC), ui=UI, **values)
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; frame-ancestors 'self'"
    return HTMLResponse(html, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})


def _span(span: timedelta) -> str:
    """Two figures that matter: `4.2 s`, `3 min 5 s`, `2 h 40 min`, `5 d 3 h`."""
    seconds = span.total_seconds()
    if abs(seconds) < 60:
        return f"{seconds:.1f} s"
    for size, unit, smaller, part in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if abs(seconds) >= size:
            whole, rest = divmod(int(abs(seconds)), size)
            return f"{'−' if seconds < 0 else ''}{whole} {unit} {rest // smaller} {part}"
    raise AssertionError(span)


def _run_link(run_id: str) -> str:
    return UI + run_path(DAG_ID, run_id)


def _task_link(task: Failure) -> str:
    return UI + task_path(DAG_ID, task.run_id, task.task_id, task.map_index)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"span": _span, "run_link": _run_link, "task_link": _task_link, "exact": to_text}
TEMPLATE = _ENVIRONMENT.get_template("health.html.jinja")
