"""The page Pipeline health: what Airflow adds to include.operate.health, and who may see it. Served by the API server.

Nothing it asks may keep the page from being shown: a server that is away is a sentence on it, after three seconds.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails, VariableDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.configuration import conf
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from include.dbt.project import graph_path, target_dir
from include.errors import ConfigError
from include.operate import health, verdict
from include.operate.verdict import Failure, Finding
from include.orchestrate import health_nodes, health_runs, pictures
from include.orchestrate.dbt_tasks import dbt_connection
from include.orchestrate.health_runs import DAG_ID, Run
from include.orchestrate.health_servers import UNSEEN, ask_source, look, said
from include.orchestrate.links import run_path, task_path
from include.postgres.sessions import Connection
from include.sources import Problem, TableSpec, load_tables
from include.state.messages import to_text

UI = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/")
LOADS = 20

ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#ff7557" stroke-width="2"
stroke-linecap="round" stroke-linejoin="round"><path d="M3 12h4l3-8 4 16 3-8h4"/></svg>"""


REFUSED = {
    401: "Log in to Airflow, then ask again.",
    403: f"This is for who may read {DAG_ID}; rows and dbt's documentation for who may clear its tasks.",
}

may_read = Depends(requires_access_dag("GET", param_dag_id=DAG_ID))
may_mend = Depends(requires_access_dag("PUT", DagAccessEntity.TASK_INSTANCE, param_dag_id=DAG_ID))
app = FastAPI(openapi_url=None)


@app.exception_handler(ConfigError)
def broken(_: Request, error: ConfigError) -> Response:
    """A mistake in a source entry: the DAG's import error says the same."""
    return _page("broken", problem=str(error))


@app.exception_handler(HTTPException)
def refused(_: Request, error: HTTPException) -> Response:
    """Who is not logged in, may not see it, or asks for what is not there, reads a sentence in Airflow's frame too."""
    return _page("broken", error.status_code, problem=REFUSED.get(error.status_code, str(error.detail)))


@app.get("/", dependencies=[may_read])
def overview(metadata: SessionDep, user: GetUserDep) -> Response:
    """The verdict, every table, every source, the latest runs."""
    listed, graph = load_tables(), _graph()
    specs = list(listed.specs.values())
    variables = health_runs.variables(metadata, [spec.watermark_key for spec in specs])
    failing = _shown(health_runs.still_failing(metadata), user)
    runs = [replace(run, failures=_shown(run.failures, user)) for run in health_runs.latest_runs(metadata)]
    with ThreadPoolExecutor(8) as threads:
        asked = threads.map(ask_source, dict.fromkeys(spec.source for spec in specs))
        tables = [health.Table(spec, variable=variables[spec.watermark_key]) for spec in specs]
        latencies, problem = {}, None
        try:
            with look(dbt_connection) as warehouse:
                tables = health.read_tables(warehouse, specs, variables, LOADS)
                latencies = _latencies(warehouse, runs, {spec.source for spec in specs})
        except UNSEEN as error:
            problem = said(error, "warehouse")
        sources = list(asked)
    tables = [_for(user, table) for table in tables]
    findings = _findings(metadata, failing, tables, sources, _limits(graph), problem, listed.problems.values())
    return _page(
        "overview",
        sentence=verdict.sentence(findings, _looked_at(specs, graph, runs)),
        findings=findings,
        tables=[
            (table, _of_table(failing, table.spec), _states(findings, table.spec), pictures.of_loads(table.loads))
            for table in tables
        ],
        sources=sources,
        runs=runs,
        durations=pictures.of_runs(health_runs.ended_runs(metadata)),
        latencies=latencies,
        problem=problem,
        reconciled=health_runs.last_reconciled(metadata),
        documented=_docs().exists() and _may_mend(user),
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
    variables, problem = health_runs.variables(metadata, [spec.watermark_key]), None
    found, history = health.Table(spec, variable=variables[spec.watermark_key]), []
    try:
        with look(dbt_connection) as warehouse:
            [found] = health.read_tables(warehouse, [spec], variables, LOADS)
            history = health.read_history(warehouse, spec)
    except UNSEEN as error:
        problem = said(error, "warehouse")
    found = _for(user, found)
    failing = _of_table(_shown(health_runs.still_failing(metadata), user), spec)
    limits = _limits(_graph()).get(spec.name, health.Limits())
    of_table = () if problem else verdict.of_table(found, limits, failing)
    findings = [*verdict.of_failures(failing, [spec]), *of_table]
    drawn = pictures.of_history(history)
    return _page("table", table=found, findings=verdict.worst_first(findings), pictures=drawn, problem=problem)


@app.get("/nodes", dependencies=[may_read])
def nodes(metadata: SessionDep) -> Response:
    """Everything that dbt reads, builds and tests, and how the newest run left it."""
    found = health_nodes.nodes(_graph())
    ended = health_runs.results(metadata, [node.task_id for node in found.values()], runs=1)
    last = {task_id: results[-1] for task_id, results in ended.items() if results}
    rows = []
    for node in (each for each in found.values() if each.kind != "test"):
        tests = [found[test] for test in node.tests if found[test].task_id in last]
        passed = sum(last[test.task_id].state == "success" for test in tests)
        rows.append((node, passed, [test for test in tests if last[test.task_id].state in health_runs.FAILED]))
    return _page("nodes", rows=rows, last=last)


@app.get("/nodes/{unique_id:path}", dependencies=[may_read])
def node(unique_id: str, metadata: SessionDep, user: GetUserDep) -> Response:
    """One of them: what is wrong with it, how it ended in the newest runs, what it reads and what reads it."""
    found = health_nodes.nodes(_graph())
    if unique_id not in found:
        raise HTTPException(404, "dbt builds and tests no such node; it was renamed, or the project changed")
    one = found[unique_id]
    tasks = [each.task_id for each in (one, *(found[test] for test in one.tests))]
    near = [found[each].task_id for each in (*one.reads, *one.read_by)]
    ended = health_runs.results(metadata, [*tasks, *near])
    last = {task_id: results[-1] for task_id, results in ended.items() if results}
    failing = [each for each in _shown(health_runs.still_failing(metadata, {DAG_ID}), user) if each.task_id in tasks]
    return _page(
        "node",
        node=one,
        nodes=found,
        columns=_columns(unique_id),
        findings=verdict.worst_first(verdict.of_failures(failing, ())),
        last=last,
        task=Failure(last[one.task_id].run_id, one.task_id) if one.task_id in last else None,
        pictures={task_id: pictures.of_task(ended[task_id]) for task_id in tasks},
        rows=pictures.of_rows(health_runs.rows_built(metadata, one.task_id)),
    )


@app.get("/failures", dependencies=[may_mend])
def failures(run_id: str, task_id: str, metadata: SessionDep) -> Response:
    """The rows that failed a dbt test, as its latest run left them."""
    name, found, problem = health_runs.rows_of(metadata, run_id, task_id), None, None
    tests = _graph()["tests"].values()
    kept = (test["kept_in"] for test in tests if task_id == f"{test['place']}.{test['task_id']}" and "kept_in" in test)
    schema = next(kept, health.FAILURES_SCHEMA)
    if name:
        try:
            with look(dbt_connection) as warehouse:
                found = health.read_failing_rows(warehouse, name, schema)
        except UNSEEN as error:
            problem = said(error, "warehouse")
    return _page(
        "failures",
        task=Failure(run_id, task_id),
        name=name,
        found=found,
        problem=problem,
        schema=schema,
    )


@app.get("/dbt", dependencies=[may_mend])
def documentation() -> Response:
    """dbt's documentation site, as `make docs` wrote it: columns, lineage and the compiled SQL of every node.

    The page is dbt's, and of the project's descriptions: in a sandbox, where it is a stranger to Airflow's cookies.
    """
    if not _docs().exists():
        raise HTTPException(404, "There is no documentation of dbt's yet: run make docs.")
    policy = "sandbox allow-scripts; default-src 'none'; img-src data:; font-src data:; style-src 'unsafe-inline'"
    headers = {"Content-Security-Policy": f"{policy}; script-src 'unsafe-inline' 'unsafe-eval'"}
    return FileResponse(_docs(), media_type="text/html", headers={**headers, "Cache-Control": "no-store"})


@app.get("/icon.svg")
def icon() -> Response:
    """For the navigation, in a colour of Airflow that shows on each of its grounds. Open to all: it tells nothing."""
    return Response(ICON, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})


def _docs() -> Path:
    return target_dir() / "static_index.html"


def _graph() -> dict[str, Any]:
    """What `include.dbt.graph.draw` made of the project as it is now."""
    graph: dict[str, Any] = json.loads(graph_path().read_text(encoding="utf-8"))
    return graph


def _columns(unique_id: str) -> list[dict[str, Any]]:
    """What the project says of a node's columns; it is no part of the graph that each task reads."""
    manifest = json.loads(graph_path().with_name("manifest.json").read_text(encoding="utf-8"))
    node = manifest["nodes"].get(unique_id) or manifest["sources"].get(unique_id, {})
    return list(node.get("columns", {}).values())


def _may_mend(user: Any) -> bool:
    return get_auth_manager().is_authorized_dag(
        method="PUT", access_entity=DagAccessEntity.TASK_INSTANCE, details=DagDetails(id=DAG_ID), user=user
    )


def _shown(failures: Iterable[Failure], user: Any) -> list[Failure]:
    """What failed; why, and which rows, which is data, for those alone who may clear tasks."""
    may_mend = _may_mend(user)
    return [failure if may_mend else replace(failure, error=None, table=None) for failure in failures]


def _for(user: Any, found: health.Table) -> health.Table:
    """The table without what its Variable holds, unless the user may read that."""
    details = VariableDetails(key=found.spec.watermark_key)
    if get_auth_manager().is_authorized_variable(method="GET", details=details, user=user):
        return found
    difference = found.difference and "it is not the ledger's; how, is told to who may read Variables"
    return replace(found, variable=found.variable and "hidden", difference=difference)


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
            found += verdict.of_table(table, limits.get(table.spec.name, health.Limits()), failing)
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


def _latencies(warehouse: Connection, runs: Sequence[Run], sources: set[str]) -> dict[str, timedelta]:
    """By run, how long after it read what every source had committed by then the marts had that."""
    built = {run.run_id: run.built_at for run in runs if run.built_at}
    read = health.committed_before(warehouse, list(built))
    return {
        run_id: built[run_id] - min(instants.values())
        for run_id, instants in read.items()
        if instants.keys() == sources
    }


def _page(view: str, status: int = 200, **values: Any) -> Response:
    nonce = secrets.token_urlsafe(16)
    html = TEMPLATE.render(view=view, nonce=nonce, now=datetime.now(UTC), ui=UI, **values)
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; frame-ancestors 'self'"
    return HTMLResponse(html, status, {"Content-Security-Policy": policy, "Cache-Control": "no-store"})


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
    "span": pictures.span,
    "kind": verdict.KINDS.get,
    "run_link": _run_link,
    "task_link": _task_link,
    "exact": to_text,
}
_ENVIRONMENT.globals |= {"holder": verdict.holder, "held_after": verdict.HELD_AFTER, "states": verdict.STATES}
TEMPLATE = _ENVIRONMENT.get_template("health.html.jinja")
