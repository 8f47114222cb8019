"""The page Pipeline health: what Airflow adds to include.health, and who may see it. Served by the API server.

Nothing it asks may keep the page from being shown: a server that is away is a sentence on it, after three seconds.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import structlog
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.configuration import conf
from airflow.models import Variable
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from include import health, health_runs, verdict
from include.batch import to_text
from include.dbt_project import graph_path
from include.dbt_tasks import dbt_hook
from include.errors import ConfigError, TerminalError
from include.health_runs import DAG_ID, Run
from include.links import run_path, task_path
from include.sessions import Connection, pin
from include.sources import Problem, TableSpec, load_tables
from include.verdict import Failure, Finding

log = structlog.get_logger(__name__)

UI = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
LOADS = 20

IMPATIENT = {"application_name": "elt_health", "connect_timeout": 3, "tcp_user_timeout": 3000}
"""libpq options: whoever waits for the page would sooner know that a server is away."""

UNSEEN = (psycopg.Error, AirflowException, TerminalError, ValueError)
"""A server that is away or refuses, a connection that is missing or cannot be read."""

UNREACHABLE = {
    "refused": "nothing listens there",
    "timeout": "no answer within 3 seconds",
    "translate host": "its host is not known",
    "resolve": "its host is not known",
    "password": "it refuses the password",
}
"""What the client's message holds, and what of it the page may say."""

ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#ff7557" stroke-width="2"
stroke-linecap="round" stroke-linejoin="round"><path d="M3 12h4l3-8 4 16 3-8h4"/></svg>"""


may_read = Depends(requires_access_dag("GET", param_dag_id=DAG_ID))
may_read_logs = Depends(requires_access_dag("GET", DagAccessEntity.TASK_LOGS, param_dag_id=DAG_ID))
app = FastAPI(openapi_url=None)


@app.exception_handler(ConfigError)
def broken(_: Request, error: ConfigError) -> Response:
    """A mistake in a source entry: the DAG's import error says the same."""
    return _page("broken", problem=str(error))


@app.get("/", dependencies=[may_read])
def overview(metadata: SessionDep, user: GetUserDep) -> Response:
    """The verdict, every table, every source, the latest runs."""
    listed, graph = load_tables(), json.loads(graph_path().read_text(encoding="utf-8"))
    specs = list(listed.specs.values())
    variables = {spec.watermark_key: Variable.get(spec.watermark_key, None) for spec in specs}
    runs, failing = health_runs.latest_runs(metadata), _failing(metadata, user)
    with ThreadPoolExecutor(8) as threads:
        asked = threads.map(_source, dict.fromkeys(spec.source for spec in specs))
        tables = [health.Table(spec, variable=variables[spec.watermark_key]) for spec in specs]
        latencies, problem = {}, None
        try:
            with _look(dbt_hook) as warehouse:
                tables = [health.read_table(warehouse, spec, variables[spec.watermark_key]) for spec in specs]
                latencies = _latencies(warehouse, runs, {spec.source for spec in specs})
        except UNSEEN as error:
            problem = _said(error, "warehouse")
        sources = list(asked)
    findings = _findings(metadata, failing, tables, sources, _limits(graph), problem, listed.problems.values())
    return _page(
        "overview",
        sentence=verdict.sentence(findings, _looked_at(specs, graph, runs)),
        findings=findings,
        tables=[(table, _of_table(failing, table.spec), _states(findings, table.spec)) for table in tables],
        sources=sources,
        runs=runs,
        latencies=latencies,
        problem=problem,
        reconciled=health_runs.last_reconciled(metadata),
    )


@app.get("/tables/{name}", dependencies=[may_read])
def table(name: str, metadata: SessionDep, user: GetUserDep) -> Response:
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
        problem = _said(error, "warehouse")
    failures = verdict.of_failures(_of_table(_failing(metadata, user), spec), [spec])
    limits = _limits(json.loads(graph_path().read_text(encoding="utf-8"))).get(spec.name, health.Limits())
    findings = [*failures, *(() if problem else verdict.of_table(found, limits))]
    return _page("table", table=found, findings=verdict.worst_first(findings), problem=problem)


@app.get("/failures", dependencies=[may_read_logs])
def failures(run_id: str, task_id: str, metadata: SessionDep) -> Response:
    """The rows that failed a dbt test, as its latest run left them."""
    name, found, problem = health_runs.rows_of(metadata, run_id, task_id), None, None
    if name:
        try:
            with _look(dbt_hook) as warehouse:
                found = health.read_failing_rows(warehouse, name)
        except UNSEEN as error:
            problem = _said(error, "warehouse")
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


def _failing(metadata: SessionDep, user: Any) -> list[Failure]:
    """What failed; why, which can quote data, for those alone who may read the tasks' logs."""
    failing = health_runs.still_failing(metadata)
    may_read_logs = get_auth_manager().is_authorized_dag(
        method="GET", access_entity=DagAccessEntity.TASK_LOGS, details=DagDetails(id=DAG_ID), user=user
    )
    return failing if may_read_logs else [replace(failure, error=None) for failure in failing]


def _findings(
    metadata: SessionDep,
    failing: Sequence[Failure],
    tables: Sequence[health.Table],
    sources: Sequence[health.Source],
    limits: dict[str, health.Limits],
    problem: str | None,
    refused: Iterable[Problem],
) -> list[Finding]:
    now = datetime.now(UTC)
    found = [*verdict.of_failures(failing, [table.spec for table in tables])]
    found += (Finding("failed", f"table {entry.name}", entry.sentence, "") for entry in refused)
    for dag in health_runs.dag_states(metadata):
        found += verdict.of_dag(dag, now)
    for source in sources:
        found += verdict.of_source(source)
    if problem:
        found.append(Finding("unseen", "the warehouse", problem, "Until then nothing is known of the tables."))
    else:
        for table in tables:
            found += verdict.of_table(table, limits.get(table.spec.name, health.Limits()))
    return verdict.worst_first(found)


def _limits(graph: dict[str, Any]) -> dict[str, health.Limits]:
    return {
        f"{node['source_name']}.{node['title']}": health.Limits.from_dbt(node.get("freshness"))
        for node in graph["sources"].values()
    }


def _looked_at(specs: Sequence[TableSpec], graph: dict[str, Any], runs: Sequence[Run]) -> str:
    """What the verdict rests on."""
    models = sum(node["resource_type"] != "test" for node in graph["nodes"].values())
    ended = next((run.started_at for run in runs if run.state == "success"), None)
    when = f", last run {ended:%Y-%m-%d %H:%M} UTC" if ended else ""
    return f"{len(specs)} tables, {models} models and {len(graph['tests'])} tests{when}"


def _of_table(failing: Sequence[Failure], spec: TableSpec) -> list[Failure]:
    return [failure for failure in failing if failure.dag_id == DAG_ID and failure.stands_for(spec)]


def _states(findings: Sequence[Finding], spec: TableSpec) -> list[Finding]:
    """Of a table, what is no failed task: those have links of their own."""
    return [finding for finding in findings if finding.about == f"table {spec.name}" and not finding.failure]


def _source(name: str) -> health.Source:
    try:
        with _look(lambda: PostgresHook(name)) as connection:
            return health.read_source(connection, name)
    except UNSEEN as error:
        return health.Source(name, problem=_said(error, name))


@contextmanager
def _look(connect: Callable[[], PostgresHook]) -> Iterator[Connection]:
    """A read-only session that waits for nothing longer than three seconds."""
    hook = connect()
    hook.connection.extra = json.dumps({**hook.connection.extra_dejson, **IMPATIENT})
    with hook.get_conn() as connection:
        pin(connection, read_only=True, connect=hook.get_conn).execute("set statement_timeout to '3s'")
        yield connection


def _said(error: Exception, connection: str) -> str:
    """The error for the page: what the server says of a statement. The client's own words name hosts and users."""
    log.warning("the health page could not look", exc_info=error)
    if isinstance(error, AirflowNotFoundException):
        return "the API server has no such connection, or cannot read it; its name is the one that the tasks use"
    if isinstance(error, TerminalError):
        return str(error)
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    said = next((meaning for words, meaning in UNREACHABLE.items() if words in str(error)), type(error).__name__)
    return f"cannot be asked ({said}): see that it runs, and what the connection {connection} of the API server says"


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


def _run_link(run_id: str, dag_id: str = DAG_ID) -> str:
    return UI + run_path(dag_id, run_id)


def _task_link(task: Failure) -> str:
    return UI + task_path(task.dag_id, task.run_id, task.task_id, task.map_index)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "span": _span,
    "kind": verdict.KINDS.get,
    "run_link": _run_link,
    "task_link": _task_link,
    "exact": to_text,
}
_ENVIRONMENT.globals |= {"holder": verdict.holder, "held_after": verdict.HELD_AFTER}
TEMPLATE = _ENVIRONMENT.get_template("health.html.jinja")
