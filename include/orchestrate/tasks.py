"""The TaskFlow wrappers: open the sessions, call the core, hand a small message to the next task."""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Protocol, TypeVar

import psycopg
import structlog
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import Asset, BaseHook, Context, Variable, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException, AirflowRuntimeError

from include import retries
from include.connecting import Parameters, libpq_parameters
from include.errors import ConfigError, StalledError, TerminalError, TransientError
from include.extract.horizon import read_horizon
from include.extract.table import Request, begin_extraction, extract_part, extract_table
from include.load import personal
from include.load.publish import load_batch
from include.orchestrate import parameters
from include.orchestrate.assets import source_asset, tell_read, tell_updated, warehouse_asset
from include.orchestrate.failing import plainly, sentence
from include.postgres.sessions import KEEPALIVE, Connection, lock_holders, pin, relation_text
from include.sources import TableSpec, load_tables
from include.state import extractions, ledger, watermark
from include.state.messages import Batch, Horizon, LoadResult, Part, Window, to_text

log = structlog.get_logger(__name__)

WAREHOUSE = "warehouse"
T = TypeVar("T")


@task(task_id="check_parameters")
def check_parameters() -> None:
    """See that the run can do what it is asked for. Everything else waits for this: one mistake is one red task."""
    context = get_current_context()
    with no_retry_for_terminal_errors():
        parameters.check(context)
        if context["params"].get("dbt_select") or context["params"].get("dbt_vars"):
            from include.orchestrate.dbt_tasks import built_by, check_selection  # which is built on this module

            check_selection(context["params"], built_by[context["dag"].dag_id])


# multiple_outputs: Airflow would also store each entry of a returned dictionary by itself, a request each.
@task(task_id="horizon", multiple_outputs=False)
def open_run(source: str) -> dict[str, Any]:
    """Read the source's safe horizon, before any table is read.

    Returns:
        A `Horizon` as JSON.
    """
    with no_retry_for_terminal_errors(), session(source, read_only=True) as connection:
        return read_horizon(connection, source).to_json()


@task(task_id="extract", multiple_outputs=False)
def extract(table: str, horizon: dict[str, Any]) -> dict[str, Any]:
    """Stage the rows of this run's window in the warehouse.

    Args:
        table: `source.table`.
        horizon: From the source's `horizon` task.

    Returns:
        A `Batch` as JSON.
    """
    with _extraction(table, horizon) as (source, warehouse, request):
        return extract_table(source, warehouse, request).to_json()


@task(task_id="cut")
def cut(table: str, horizon: dict[str, Any]) -> list[dict[str, Any]]:
    """Begin an extraction that several tasks can share: decide what it reads, and cut that into ranges if it is large.

    Args:
        table: `source.table`, which has `rows_per_range`.
        horizon: From the source's `horizon` task.

    Returns:
        `Part`s as JSON, each for an `extract` task of its own.
    """
    with _extraction(table, horizon) as (source, warehouse, request):
        return [part.to_json() for part in begin_extraction(source, warehouse, request)]


@task(task_id="extract", map_index_template="{{ range }}", multiple_outputs=False)
def extract_range(part: dict[str, Any]) -> dict[str, Any]:
    """Stage one range of a table, or all of its window where `cut` made one of it.

    Args:
        part: From the table's `cut` task.

    Returns:
        A `Batch` as JSON.
    """
    range_ = Part.from_json(part)
    get_current_context()["range"] = f"{range_.number + 1} of {range_.ranges}"
    spec = spec_of(f"{range_.source}.{range_.table}")
    with (
        no_retry_for_terminal_errors(),
        session(WAREHOUSE) as warehouse,
        session(spec.source, read_only=True) as source,
        _naming_what_is_in_the_way(spec, warehouse, source),
    ):
        return extract_part(source, warehouse, spec, range_).to_json()


@contextmanager
def _naming_what_is_in_the_way(
    spec: TableSpec, warehouse: Connection, source: Connection | None = None
) -> Iterator[None]:
    """Say of a lock that was not to be had which table it guards, and who has it; of a policy, for whom to lift it."""
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as error:
        if not source or "row-level security" not in str(error):
            raise
        raise TerminalError(
            f"{spec.name}: {error.diag.message_primary}; "
            f'run on the source: alter role "{source.info.user}" bypassrls'
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        places = {WAREHOUSE: (warehouse, spec.raw_schema, spec.table, False)}
        if source:
            places = {spec.source: (source, spec.schema_name, spec.identifier, True)} | places
        found = []
        for place, (connection, schema, table, is_read) in places.items():
            with suppress(psycopg.Error):
                holders = lock_holders(connection, spec.name, relation_text(schema, table), is_read=is_read)
                found += [f"in {place}, {holder}" for holder in holders]
        who = "; ".join(found) or f"whoever had it is gone ({error.diag.context or 'no context'})"
        raise TransientError(f"{spec.name}: {error.diag.message_primary}: {who}") from error


@contextmanager
def _extraction(table: str, horizon: dict[str, Any] | None) -> Iterator[tuple[Connection, Connection, Request]]:
    """The sessions on source and warehouse, and what this run is asked to read of a table."""
    context = get_current_context()
    spec, run_id = spec_of(table), context["run_id"]
    parameters.skip_unless_chosen(context, table)
    with no_retry_for_terminal_errors():
        read = Horizon.from_json(handed_on(horizon, f"{spec.source}.horizon"))
    with (
        no_retry_for_terminal_errors(),
        session(WAREHOUSE) as warehouse,
        session(spec.source, read_only=True) as source,
        _naming_what_is_in_the_way(spec, warehouse, source),
    ):
        ledger.ensure(warehouse, spec.raw_schema)
        if sys.argv[1:3] == ["dags", "test"]:
            _own(run_id)
        # Rows staged by an earlier attempt of this run stay until the run has ended. Otherwise a frozen attempt that
        # wakes up would drop what its own retry has staged.
        extractions.discard_leftovers(warehouse, spec, lambda other: _is_over(context, other))
        variable = Variable.get(spec.watermark_key, default=None)
        window = _window(context, warehouse, spec, variable, read)
        yield source, warehouse, Request(spec, run_id, window, read, variable)


@task(task_id="load", multiple_outputs=False)
def load(table: str, batch: dict[str, Any] | Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Publish the staged rows in raw with their ledger row, then show the watermark in the Airflow Variable.

    Args:
        table: `source.table`.
        batch: From the table's `extract` task, or from each of them.

    Returns:
        A `LoadResult` as JSON.
    """
    spec = spec_of(table)
    with no_retry_for_terminal_errors():
        staged = handed_on([batch] if isinstance(batch, dict) else batch, f"{spec.name}.{spec.first_task}")
        parts = [Batch.from_json(part) for part in staged]
    with (
        no_retry_for_terminal_errors(),
        session(WAREHOUSE) as warehouse,
        _naming_what_is_in_the_way(spec, warehouse),
    ):
        result = load_batch(warehouse, spec, *parts)
        _publish_watermark(warehouse, spec, result, parts[0].watermark_before)
        changed = result.rows_inserted + result.rows_updated + result.rows_deleted
        extra = {"rows": changed, "watermark": result.mark and to_text(result.mark)}
        context, asset = get_current_context(), warehouse_asset(spec.raw_schema, spec.table)
        tell_read(context, map(source_asset, [spec]))
        tell_updated(context, asset, extra if changed else None)
        return result.to_json()


@task(task_id="refuse")
def refuse(sentence: str, table: str | None = None) -> None:
    """Stand in the place of what cannot work, and say why; what waits for it does not run.

    Args:
        sentence: What is wrong, with file and remedy.
        table: `source.table`, where a run may leave it out.
    """
    if table:
        parameters.skip_unless_chosen(get_current_context(), table)
    with plainly():
        raise AirflowFailException(sentence)


def handed_on(value: T | None, task_id: str) -> T:
    """What an earlier task of the run returned.

    Raises:
        AirflowFailException: nothing: somebody marked it as success.
    """
    if not value:
        raise AirflowFailException(f"{task_id} was marked as success, but left nothing to go on with: clear {task_id}")
    return value


def _window(context: Context, warehouse: Connection, spec: TableSpec, variable: str | None, horizon: Horizon) -> Window:
    requested, last = parameters.requested_window(context), ledger.standing_mark(warehouse, spec)
    has_lost_rows = last is None and ledger.last_mark(warehouse, spec) is not None
    # Without a key, or where raw lost its rows, a part of the table would take the place of all of it.
    if requested and spec.cursor and spec.key and not has_lost_rows:
        return Window("window", *requested, mark=None)
    return watermark.next_window(
        spec, variable, last, horizon, full_refresh=bool(context["params"].get("full_refresh"))
    )


def _publish_watermark(warehouse: Connection, spec: TableSpec, result: LoadResult, before: str | None) -> None:
    """Set the Variable to the ledger's mark, once, unless a person changed it since the extraction read it."""
    if result.mark is None:
        return
    value = to_text(result.mark)
    with ledger.variable_lock(warehouse, spec):
        current = Variable.get(spec.watermark_key, default=None)
        if ledger.is_published(warehouse, spec, result.loaded_at):
            log.info("shown before, or rewound since it began: the Variable is kept", key=spec.watermark_key)
        elif current not in (before, value):
            log.warning("the Variable was changed during the run: it is kept", key=spec.watermark_key, value=current)
        else:
            show_watermark(spec, value, Variable, current)
            ledger.mark_published(warehouse, spec)


class Variables(Protocol):
    """Airflow's Variables: the SDK's class inside a task, the model outside."""

    def get(self, key: str, default: str | None, /) -> str | None: ...

    def set(self, key: str, value: str, description: str, /) -> None: ...


def show_watermark(spec: TableSpec, value: str, variables: Variables, before: str | None) -> None:
    """Set the Variable of a table's watermark, and read it back.

    Args:
        spec: The table.
        value: The watermark.
        variables: Where it is set.
        before: What the Variable was.

    Raises:
        TerminalError: something shadows it.
    """
    variables.set(spec.watermark_key, value, f"Everything of {spec.name} before this instant is loaded.")
    shown = variables.get(spec.watermark_key, None)
    if shown not in (value, before):
        log.warning("the Variable was changed as it was set: it is kept", key=spec.watermark_key, value=shown)
    elif shown != value and shown is not None:
        raise TerminalError(
            f"Variable {spec.watermark_key} was set to {value} but reads {shown!r}: something shadows it; "
            f"remove AIRFLOW_VAR_{spec.watermark_key.upper()} or the secrets backend's entry"
        )


def _own(run_id: str) -> None:
    """In a process that carries out the whole run: keep a session on the warehouse that tells others it lives.

    Airflow calls the run of a killed `airflow dags test` running for ever.
    """
    with suppress(psycopg.OperationalError):
        if run_id in _owners:
            return extractions.own(_owners[run_id], run_id)
    _owners[run_id] = _open_until_exit.enter_context(session(WAREHOUSE))
    extractions.own(_owners[run_id], run_id)


_owners: dict[str, Connection] = {}
_open_until_exit = ExitStack()
atexit.register(_open_until_exit.close)


def _is_over(context: Context, run_id: str) -> bool:
    """Whether a run of this DAG has ended. A run that this Airflow does not know may live in another: not over."""
    try:
        return context["ti"].get_dagrun_state(context["dag_run"].dag_id, run_id) in ("success", "failed")
    except AirflowRuntimeError:
        return False


def spec_of(name: str) -> TableSpec:
    """The table called `source.table`.

    Raises:
        ConfigError: no dbt source lists it, or its entry cannot work.
    """
    tables = load_tables()
    for spec in tables.specs.values():
        if spec.name == name:
            return spec
    for problem in tables.problems.values():
        if problem.name == name:
            raise ConfigError(problem.sentence)
    raise ConfigError(
        f"no dbt source lists a table {name!r} with `config.meta.extract`; "
        f"there are {', '.join(tables.names) or 'none'}"
    )


LEFT_BEHIND = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where pid = %s and usename = current_user and state = 'active' and wait_event_type = 'Client'"""
"""Ends a session of ours whose server waits for a client that is gone, where what stands between does not tell it."""


@contextmanager
def session(conn_id: str, *, read_only: bool = False) -> Iterator[Connection]:
    """A pinned session through an Airflow connection; what the connection's extra says wins over our defaults."""
    told = reached(BaseHook.get_connection(conn_id), application_name="elt_pipeline", **KEEPALIVE)

    def connect() -> Connection:
        return psycopg.connect(**told)  # type: ignore[arg-type]

    try:
        connection = connect()
    except psycopg.OperationalError as error:
        if retries.is_refused(retries.parameters_of(error)):
            said = str(error).strip()
            raise TerminalError(f"connection {conn_id!r}: {said}; have the server take it, or correct it") from error
        raise
    with connection:
        try:
            pin(connection, read_only=read_only, connect=connect)
        except TerminalError as error:
            raise TerminalError(f"connection {conn_id!r}: {error}") from error
        pid = connection.info.backend_pid
        try:
            yield connection
        except StalledError:
            with suppress(psycopg.Error), connect() as other:
                other.execute(LEFT_BEHIND, (pid,))
            raise


@task(task_id="marts_ready", trigger_rule="none_failed", outlets=[Asset("marts")])
def marts_ready(marts: list[str]) -> None:
    """All of the run is done. Updates the asset `marts` if the run has built any of them.

    Red while values that an entry began to leave out or to hash are stored below raw yet.

    Args:
        marts: Ids of the tasks that build marts.
    """
    with no_retry_for_terminal_errors(), session(WAREHOUSE) as loader:
        _refuse_clear_values(loader)
    context = get_current_context()
    ti = context["ti"]
    parts = [marts[start : start + 100] for start in range(0, len(marts), 100)]  # they stand in a request's URL
    asked = {"dag_id": ti.dag_id, "run_ids": [ti.run_id], "states": ["success"]}
    built = any(ti.get_ti_count(**asked, task_ids=part) for part in parts)
    tell_updated(context, Asset("marts"), {} if built else None)


def _refuse_clear_values(loader: Connection) -> None:
    """Look at what dbt's role owns, with its rights, and at what is staged. In most runs there is nothing there."""
    from include.orchestrate.dbt_tasks import marts  # and with it Cosmos, which commands do without

    if not (digests := personal.awaited(loader)):
        return
    with marts() as connection:
        found = personal.holders(connection, digests)
    found += personal.holders(loader, digests)
    if found:
        raise TerminalError(personal.refusal(found))
    personal.forget(loader, digests)


def reached(connection: Any, **defaults: str | int) -> Parameters:
    """What libpq is told for an Airflow connection, as `PostgresHook` would; a cloud's token stands for the password.

    Raises:
        ConfigError: an extra can be no parameter; names it.
    """
    if connection.extra_dejson.get("iam"):
        hook = PostgresHook(connection=connection)
        connection.login, connection.password, connection.port = hook.get_iam_token(connection)
    return libpq_parameters(connection, **defaults)


@contextmanager
def no_retry_for_terminal_errors() -> Iterator[None]:
    """Fail the task at once, without its retries, where another attempt would meet the same error."""
    with plainly():
        try:
            yield
        except TerminalError as error:
            raise AirflowFailException(str(error)) from None
        except psycopg.Error as error:
            is_refused = error.sqlstate is None and retries.is_refused(retries.parameters_of(error))
            if is_refused or retries.is_final(error):
                raise AirflowFailException(sentence(error)) from None
            raise
