"""Cosmos's local dbt operators, run inside the task's own process with the manifest that was parsed once.

Stock Cosmos 1.15.1 copies the project, writes a profile and parses everything again for each task, which costs more
than most models. These subclasses keep what its operators give (one node a task, compiled SQL in the UI) and replace
`run_command` alone. They become unnecessary once Cosmos passes a manifest to `dbtRunner`
(docs/decisions.md has the measurement).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from datetime import timedelta
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import NAMESPACE_URL, uuid5

import psycopg
import structlog
from airflow.sdk import Asset, BaseHook, BaseOperator, Connection, Context, get_current_context
from airflow.sdk.exceptions import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
)
from cosmos.dbt.project import environ
from cosmos.operators.local import (
    DbtBuildLocalOperator,
    DbtLocalBaseOperator,
    DbtRunLocalOperator,
    DbtSeedLocalOperator,
    DbtSnapshotLocalOperator,
    DbtSourceLocalOperator,
    DbtTestLocalOperator,
)

from include.connecting import Parameters, profile_variables
from include.dbt import variables as dbt_vars
from include.dbt.project import load_manifest
from include.errors import ConfigError
from include.orchestrate import parameters
from include.orchestrate.assets import tell_read, tell_updated, warehouse_asset
from include.orchestrate.failing import WARNING, plainly
from include.orchestrate.tasks import no_retry_for_terminal_errors, reached
from include.postgres.sessions import KEEPALIVE, look

log = structlog.get_logger(__name__)

if TYPE_CHECKING:
    from dbt.cli.main import dbtRunnerResult
    from dbt.contracts.graph.manifest import Manifest

CONNECTIONS = ("warehouse_dbt", "warehouse")
"""Connections dbt may use, best first: a role of its own, else the one that loads."""

ON_RUN_END = "on-run-end"

HOOKS = {"on-run-start": "on_run_start", ON_RUN_END: "on_run_end"}
"""dbt's names of the two ends of a run, and the tasks that run the hooks there."""

built_by: dict[str, Set[str]] = {}
"""dbt's unique ids of what each DAG of this process builds and tests."""

REMEDIES = {
    "column .+ does not exist": (
        "; correct the model, or, where its table is older than its text, trigger the DAG with full_refresh and "
        "this model in dbt_select"
    ),
    "permission denied for database": (
        "; dbt's role may make no schema, and PostgreSQL refuses `create schema if not exists` even of one that is "
        "there: take the statement out of the hook, have the warehouse's administrator make the schema (docs/dbt.md, "
        "Schemas), then clear this task"
    ),
    "permission denied for": "; grant that to dbt's role in the warehouse, as its administrator, then clear this task",
    "must be owner of": "; make dbt's role its owner in the warehouse, as its administrator, then clear this task",
}
"""What PostgreSQL says of what a person has to change, as regular expressions, and what to do: the first that fits."""

OUTCOME = "dbt_outcome"
"""XCom of a dbt task, where the project has hooks at a run's end: what they are told of the node."""

FAILING_ROWS = "failing_rows"
"""XCom of a test that failed or warns: the table in which dbt keeps the rows."""

FAILED_ROWS = "failed_rows"
"""XCom of a test that failed or warns: how many rows did."""


def dbt_connection() -> Connection:
    """The connection dbt works through; it reads marts, which the loader's role may not."""
    for conn_id in CONNECTIONS[:-1]:
        try:
            return BaseHook.get_connection(conn_id)
        except AirflowNotFoundException:
            continue
    return BaseHook.get_connection(CONNECTIONS[-1])


def marts() -> AbstractContextManager[psycopg.Connection]:
    """A read-only session on what dbt built."""
    return look(reached(dbt_connection(), application_name="elt_report", **KEEPALIVE))


def warm_up() -> None:
    """Do once, in the process that forks the tasks, what each of them would do again.

    Reads the manifest and has dbt select nothing from it, without a look at the database: until then dbt has not made
    the code with which its classes are read and checked, which takes longer than most models do.
    """
    from include.dbt.runner import invoke

    profile = profile_variables(reached(dbt_connection()))
    with TemporaryDirectory() as folder, environ({**os.environ, **profile}):
        invoke(["compile", "--quiet", "--select", "path:none"], folder, load_manifest(profile))


def check_selection(params: Mapping[str, Any], built: Set[str]) -> None:
    """See that each part of a run's `dbt_select` holds something, and that its `dbt_vars` enable nothing new.

    Args:
        params: The run's.
        built: dbt's unique ids of what its DAG builds and tests.

    Raises:
        ConfigError: not so; says what there is.
    """
    from include.dbt.runner import SELECTABLE, selected

    variables = params.get("dbt_vars") or {}
    _, profile, manifest = _opened(variables)
    if variables:
        drawn = load_manifest(profile)
        new = sorted(key for key in manifest.nodes.keys() - drawn.nodes.keys() if key.split(".")[0] in SELECTABLE)
        if new:
            raise ConfigError(
                f"parameter dbt_vars enables {', '.join(new[:5])}, which has no task: the graph is of the project as "
                "it is; set the variable in dbt/dbt_project.yml"
            )
    for part in (params.get("dbt_select") or "").split():
        with TemporaryDirectory() as folder, environ({**os.environ, **profile}):
            chosen = selected(part, folder, manifest)
        if not chosen:
            names = sorted({node.name for node in manifest.nodes.values() if node.resource_type in SELECTABLE[:3]})
            raise ConfigError(f"parameter dbt_select: {part!r} selects nothing{parameters.meant(part, names)}")
        if not built & set(chosen):
            raise ConfigError(
                f"parameter dbt_select: this DAG builds nothing of {part!r}: {chosen[0]} is another DAG's, is left out "
                "by the default selector of dbt/selectors.yml, or is ephemeral"
            )


class _InProcess(DbtLocalBaseOperator):
    """Runs one dbt node through `dbtRunner`, honouring the run's `dbt_select`, `dbt_vars` and `full_refresh`."""

    select: str | None
    extra_context: dict[str, Any]
    vars: dict[str, Any] | None

    # Nothing to render: what the UI shows as rendered is set, and stored, when dbt has run.
    template_fields: tuple[str, ...] = ()

    def execute(self, context: Context, **kwargs: Any) -> None:
        with plainly():
            params = context["params"]
            self.select = params.get("dbt_select") or None
            self.vars = _variables(params)
            if params.get("full_refresh") and hasattr(self, "full_refresh"):
                self.full_refresh = True
            super().execute(context, **kwargs)

    def run_command(
        self, cmd: list[str], env: dict[str, Any], context: Context, *args: Any, **kwargs: Any
    ) -> dbtRunnerResult:
        """Invoke dbt on the node; `cmd` is Cosmos's command line without its project and profile flags."""
        # and with them dbt, which takes a second: not where a DAG is parsed
        from include.dbt.runner import invoke
        from include.patches.dbt import Period, Run
        from include.patches.dbt_hooks import has_hooks, outcome

        told, profile, manifest = _opened(self.vars)
        with no_retry_for_terminal_errors():
            about = parameters.period(context)
        period, own, run = about and Period(*about), self.extra_context["dbt_unique_id"], Run(_invocation_id(context))
        with TemporaryDirectory() as folder, environ(env | profile):
            result = invoke(cmd[1:], folder, manifest, only=own, reached=told, period=period, run=run)
            if has_hooks(manifest, ON_RUN_END):
                for each in getattr(result.result, "results", ()):
                    context["ti"].xcom_push(OUTCOME, outcome(each))
            self.store_compiled_sql(folder, context)
            self.template_fields = ("select", "vars", "compiled_sql")
            self._override_rtif(context)
        tell_read(context, _read_by(manifest, own))
        self.check_nodes(result)
        if not result.success:
            self.conclude(result)
        self.warn(result)
        if asset := self.extra_context.get("asset"):
            tell_updated(context, warehouse_asset(*asset), _change(result.result.results))
        return result

    def warn(self, result: dbtRunnerResult) -> None:
        """Have a warning of dbt's seen: in the log, and as the task's XCom on the page and at the end of `make run`."""
        for each in result.result.results:
            if each.status == "warn":
                said = self.warning(each)
                log.warning(said)
                get_current_context()["ti"].xcom_push(WARNING, said)

    def warning(self, result: Any) -> str:
        """What a result warns of, in one sentence."""
        return f"{result.node.name}: {result.message}"

    def check_nodes(self, result: dbtRunnerResult) -> None:
        """Make sure that dbt ran this task's node and no other, unless the run has left it out."""
        results, own = getattr(result.result, "results", ()), self.extra_context["dbt_unique_id"]
        ran = {each.node.unique_id for each in results if each.node.resource_type != "operation"}  # which is a hook
        if ran - {own}:
            raise AirflowFailException(f"dbt ran {', '.join(sorted(ran - {own}))} in the task of {own}")
        if result.success and not ran:
            if self.select or self.vars:
                raise AirflowSkipException(
                    f"not selected by dbt_select {self.select!r} with dbt_vars {self.vars or {}}"
                )
            raise AirflowFailException(
                f"dbt has nothing to run for {own}: it changed since this DAG was parsed; parse the DAG again"
            )

    def conclude(self, result: dbtRunnerResult) -> None:
        """Turn a failed invocation into the task's error: retried where the server or the network failed, else not."""
        _fail(result, getattr(result.result, "results", ()))


def _opened(variables: Mapping[str, Any] | None) -> tuple[Parameters, Parameters, Manifest]:
    """What libpq is told, what the profile is told, and what the project was parsed to."""
    with no_retry_for_terminal_errors():
        told = reached(dbt_connection(), application_name="elt_dbt", **KEEPALIVE)
        profile = profile_variables(told)
        return told, profile, load_manifest(profile, variables)


def _variables(params: Mapping[str, Any]) -> dict[str, Any]:
    """The dbt variables of a run."""
    variables = params.get("dbt_vars") or {}
    with no_retry_for_terminal_errors():
        dbt_vars.check(variables)
    return variables


def _invocation_id(context: Context) -> str:
    """dbt's id of the run: one for all its tasks."""
    return str(uuid5(NAMESPACE_URL, f"{context['dag_run'].dag_id}/{context['run_id']}"))


def _fail(result: dbtRunnerResult, results: Sequence[Any]) -> NoReturn:
    """Turn a failed invocation into the task's error: retried where the server or the network failed, else not."""
    from include.dbt.runner import may_pass

    problems = [str(result.exception)] if result.exception else []
    problems += [f"{each.node.name}: {each.message}" for each in results]
    # dbt wrote what it compiled to a folder that is gone: it is what the tab Rendered Templates shows.
    message = "; ".join(re.sub(r"\s*compiled code at \S+", "", problem) for problem in problems)
    message += next((remedy for said, remedy in REMEDIES.items() if re.search(said, message)), "")
    raise (AirflowException if may_pass() else AirflowFailException)(message)


class DbtHooks(BaseOperator):
    """Runs the hooks at one end of a run, those of packages too: once, as `dbt build` does.

    Args:
        end: `on-run-start` or `on-run-end`.
        tasks: The tasks of the DAG's nodes, by dbt's unique id.
        is_all: Whether those are all of the project's.
    """

    def __init__(self, *, end: str, tasks: Mapping[str, str], is_all: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.end, self.tasks, self.is_all = end, tasks, is_all

    def execute(self, context: Context) -> None:
        from include.dbt.runner import invoke
        from include.patches.dbt import Run

        params = context["params"]
        with plainly():
            variables = _variables(params)
            told, profile, manifest = _opened(variables)
            command = ["build", "--vars", json.dumps(variables), "--exclude-resource-type", "unit_test"]
            command += ["--select", *params["dbt_select"].split()] if params.get("dbt_select") else []
            command += ["--full-refresh"] if params.get("full_refresh") else []
            run = Run(_invocation_id(context), self.end, self._outcomes(context) if self.end == ON_RUN_END else {})
            with TemporaryDirectory() as folder, environ({**os.environ, **profile}):
                only = None if self.is_all else self.tasks.keys()
                result = invoke(command, folder, manifest, only=only, reached=told, run=run)
            failed = [
                each
                for each in getattr(result.result, "results", ())
                if each.node.resource_type == "operation" and each.status != "success"
            ]
            if result.exception or failed:
                _fail(result, failed)

    def _outcomes(self, context: Context) -> dict[str, Any]:
        """What the run's tasks have kept of their nodes, by unique id."""
        found = {key: context["ti"].xcom_pull(task_ids=each, key=OUTCOME) for key, each in self.tasks.items()}
        return {key: value for key, value in found.items() if value}


def _read_by(manifest: Manifest, unique_id: str) -> Iterator[Asset]:
    """What a node reads, through ephemeral models too."""
    for node in map(manifest.expect, manifest.expect(unique_id).depends_on_nodes):
        if node.resource_type != "function":
            if node.resource_type == "source" or node.relation_name:
                yield warehouse_asset(node.schema, node.identifier)
            else:
                yield from _read_by(manifest, node.unique_id)


def _change(results: Sequence[Any]) -> dict[str, Any] | None:
    """What to say of a relation that was built: its rows, where dbt counts them; None where none came or went."""
    found = [each for each in results if each.node.resource_type != "operation"]
    rows = found[0].adapter_response.get("rows_affected", -1)
    if (
        rows == 0
        and found[0].node.config.materialized in ("incremental", "snapshot")
        and not found[0].node.config.post_hook
    ):
        return None
    return {"rows": rows} if rows >= 0 else {}


class DbtRun(_InProcess, DbtRunLocalOperator):
    """Builds one model."""


class DbtSeed(_InProcess, DbtSeedLocalOperator):
    """Loads one seed."""


class DbtSnapshot(_InProcess, DbtSnapshotLocalOperator):
    """Takes one snapshot."""


class DbtFunction(_InProcess, DbtBuildLocalOperator):
    """Creates one function, which no command of dbt but `build` does."""


class DbtFreshness(_InProcess, DbtSourceLocalOperator):
    """Looks how old a source table of somebody else's is. A retry finds it older."""

    def warning(self, result: Any) -> str:
        return (
            f"source {result.node.source_name}.{result.node.name} is stale: its newest row is of "
            f"{result.max_loaded_at:%Y-%m-%d %H:%M:%S} UTC, {timedelta(seconds=round(result.age))} ago; "
            f"ask who loads it, or change `freshness:` in {result.node.original_file_path}"
        )

    def conclude(self, result: dbtRunnerResult) -> None:
        for each in [] if result.exception else result.result.results:
            if each.status == "error":
                raise AirflowFailException(self.warning(each))
        super().conclude(result)


def _keep(result: Any) -> str | None:
    """Leave beside a test's state how many rows it found, and where dbt keeps them; returns that relation, if any."""
    ti = get_current_context()["ti"]
    ti.xcom_push(FAILED_ROWS, result.failures)
    if result.node.relation_name:
        ti.xcom_push(FAILING_ROWS, result.node.alias)
    return result.node.relation_name


class DbtTest(_InProcess, DbtTestLocalOperator):
    """Runs one data test. Failing rows fail the task at once: a retry finds the same rows."""

    def warning(self, result: Any) -> str:
        """What a test with `severity: warn` or `warn_if` found; its rows are kept as those of one that fails."""
        rows = _keep(result)
        return f"dbt test {result.node.name} warns of {result.failures:,} row{'s' * (result.failures != 1)}" + (
            f". They are in the task's tab Failing rows: select * from {rows}" if rows else ""
        )

    def conclude(self, result: dbtRunnerResult) -> None:
        failed = [] if result.exception else [each for each in result.result.results if each.status == "fail"]
        for each in failed:
            rows = _keep(each)
            raise AirflowFailException(
                f"dbt test {each.node.name} failed for {each.failures:,} row{'s' * (each.failures != 1)}: correct them "
                "in the source, and the next run reads them again; or the model, and clear this task"
                + (f". The rows are in its tab Failing rows: select * from {rows}" if rows else "")
            )
        super().conclude(result)
