"""Looking after the pipeline: the tasks of the DAGs reconcile and rewind, and what their commands share with them."""

from __future__ import annotations

import structlog
from airflow.sdk import Variable, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException

from include.errors import EmptyError, TerminalError
from include.extract.horizon import read_horizon
from include.operate.plan import Plan, describe, gaps, plan_table
from include.operate.reconcile import reconcile, repair
from include.operate.rewind import rewind_mark
from include.orchestrate.parameters import skip_unless_chosen
from include.orchestrate.tasks import (
    WAREHOUSE,
    Variables,
    no_retry_for_terminal_errors,
    session,
    show_watermark,
    spec_of,
)
from include.postgres.catalog import estimated_rows, source_columns
from include.schema.rows import in_window, rows_of
from include.sources import TableSpec
from include.state import ledger
from include.state.messages import to_text
from include.state.watermark import next_window

log = structlog.get_logger(__name__)


@task(task_id="reconcile")
def reconcile_table(table: str) -> str | None:
    """Compare a table with its source and, where the run says `repair`, read again what differs.

    Returns:
        The table's name if it was repaired.
    """
    context = get_current_context()
    skip_unless_chosen(context, table)
    with no_retry_for_terminal_errors():
        spec, run_id = spec_of(table), context["run_id"]
        try:
            text, is_repaired = check(spec, run_id, may_repair=context["params"]["repair"])
        except EmptyError as error:
            raise AirflowSkipException(str(error)) from error
        log.info(text)
        return table if is_repaired else None


@task.short_circuit(task_id="anything_repaired")
def anything_repaired(tables: list[str]) -> bool:
    """Go on only if raw changed: what is built on it has to be built again."""
    return any(tables)


@task(task_id="rewind")
def rewind_table() -> str:
    """Set back the watermark of the table that the run names; returns what the next run will read."""
    params = get_current_context()["params"]
    with no_retry_for_terminal_errors():
        return rewind(spec_of(params["table"]), params["to"], Variable)


def check(spec: TableSpec, run_id: str, *, may_repair: bool) -> tuple[str, bool]:
    """Compare a table, and repair it if that is wanted and needed.

    Returns:
        The report, and whether raw was changed.

    Raises:
        TerminalError: raw is not what it should be; carries the report and the command that repairs.
    """
    with session(WAREHOUSE) as warehouse, session(spec.source, read_only=True) as source:
        report = reconcile(source, warehouse, spec)
        text = "\n".join([str(report), *(f"  gap: {gap}" for gap in gaps(warehouse, spec))])
        if not may_repair and not report.is_clean:
            raise TerminalError(
                f"{text}\nrepair: make reconcile TABLE={spec.name} REPAIR=1, or trigger the DAG reconcile with `repair`"
            )
        if not may_repair or (report.is_clean and not report.to_repair):
            return text, False
        result = repair(source, warehouse, spec, report, run_id)
        text += f"\nrepaired: {result.rows_extracted:,} rows read again, {result.rows_inserted:,} inserted, "
        text += f"{result.rows_updated:,} updated, {result.rows_deleted:,} marked as deleted"
        after = reconcile(source, warehouse, spec)
    if not after.is_clean:
        raise TerminalError(f"{text}\nstill not the same:\n{after}")
    return text, True


def rewind(spec: TableSpec, to: str, variables: Variables) -> str:
    """Set a table's watermark back; what the next run will read, as a sentence.

    Args:
        spec: The table.
        to: See `rewind_mark`.
        variables: Where the watermark is set.
    """
    with session(WAREHOUSE) as warehouse, session(spec.source, read_only=True) as source:
        mark = to_text(rewind_mark(warehouse, spec, to))
        ledger.ensure(warehouse, spec.raw_schema)
        ledger.note_rewind(warehouse, spec)
        with ledger.variable_lock(warehouse, spec):
            show_watermark(spec, mark, variables, before=variables.get(spec.watermark_key, None))
        last, horizon = ledger.standing_mark(warehouse, spec), read_horizon(source, spec.source)
        window = next_window(spec, mark, last, horizon)
        query = rows_of(spec, source_columns(source, spec), in_window(spec, window))
        said = f"{spec.name}: the next run is {describe(spec, window)}; about {estimated_rows(source, query):,} rows"
    log.info(said)
    return said


def plan(specs: list[TableSpec], variables: Variables) -> list[Plan]:
    """What the next run would do with each table; every session refuses to write."""
    plans = []
    with session(WAREHOUSE, read_only=True) as warehouse:
        for spec in specs:
            with session(spec.source, read_only=True) as source:
                try:
                    horizon = read_horizon(source, spec.source)
                    plans.append(plan_table(source, warehouse, spec, horizon, variables.get(spec.watermark_key, None)))
                except TerminalError as error:
                    plans.append(Plan(spec.name, problems=[str(error)]))
    return plans
