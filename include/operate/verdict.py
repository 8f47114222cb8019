"""Is it well? One sentence for the top of the page Pipeline health, and what to do about each thing that is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from include.operate.health import Limits, Source, Table
from include.sources import TableSpec

KINDS = {
    "unseen": "bad",
    "failed": "bad",
    "late": "bad",
    "stale": "bad",
    "gap": "bad",
    "never loaded": "bad",
    "paused": "warn",
    "tries again": "warn",
    "due": "warn",
    "warns": "warn",
    "held": "warn",
    "Variable": "warn",
}
"""What can be wrong, the worst first; `due` is past the freshness that a source warns of, `warns` says dbt of a test or
a source. And how bad that is."""

HELD_AFTER = timedelta(minutes=1)
"""A transaction of less holds the watermark back as well, but does not need anybody."""

OVERDUE_AFTER = timedelta(minutes=10)
"""A run that has not begun so long after its time needs a scheduler."""


@dataclass(frozen=True)
class Failure:
    """A task that failed, or waits for its next try, or that succeeded with a warning of dbt's.

    Attributes:
        table: Keeps the rows that failed its dbt test.
        error: Its last line, where it left one; or what it warns of.
        label: What tells a mapped task apart: a table of `reconcile`.
    """

    run_id: str
    task_id: str
    map_index: int = -1
    state: str = "failed"
    table: str | None = None
    error: str | None = None
    label: str | None = None
    dag_id: str = "elt_pipeline"

    def stands_for(self, table: TableSpec) -> bool:
        """Whether it failed for a source table: as a task of it, or as its source's horizon."""
        return self.task_id.startswith(f"{table.task_group}.") or self.task_id == horizon_of(table)


STATES = {"failed": "failed", "up_for_retry": "tries again", "success": "warns"}
"""Of the task of a `Failure`, by its state, the kind."""


@dataclass(frozen=True)
class DagState:
    """A DAG of this project, as Airflow has it.

    Attributes:
        is_scheduled: Whether it runs by the clock.
        is_there: False where Airflow does not have it, or no longer.
        has_run: Whether it ever did.
        waiting: Runs that are queued or under way.
        next_at: When its next run is to be made.
        overdue: Runs under way whose deadline has passed.
        broken: The last line of its file's import error.
    """

    dag_id: str
    is_scheduled: bool
    is_there: bool = True
    is_paused: bool = False
    has_run: bool = False
    waiting: int = 0
    next_at: datetime | None = None
    overdue: Sequence[str] = ()
    broken: str | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that is not well.

    Attributes:
        kind: Of `KINDS`.
        about: The table, model, source or DAG.
        text: What is wrong with it.
        remedy: What to do.
        failure: The task whose log says more.
        run: (DAG, run) to look at.
    """

    kind: str
    about: str
    text: str
    remedy: str
    failure: Failure | None = None
    run: tuple[str, str] | None = None

    @property
    def is_bad(self) -> bool:
        return KINDS[self.kind] == "bad"


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    order = list(KINDS)
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def sentence(findings: Sequence[Finding], looked_at: str) -> str:
    """The verdict: a number, and of what; all well only where everything was looked at."""
    if not findings:
        return f"All is well: {looked_at}."
    counts = Counter(finding.kind for finding in findings)
    kinds = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if kind in counts)
    one = len(findings) == 1
    return f"{len(findings)} thing{'' if one else 's'} need{'s' if one else ''} you: {kinds}."


def of_failures(failures: Iterable[Failure], tables: Sequence[TableSpec]) -> Iterator[Finding]:
    """A finding for each failed task that no newer run has done, by what it stands for."""
    for failure in failures:
        yield Finding(STATES[failure.state], _about(failure, tables), failure.error or "", _remedy(failure), failure)


def horizon_of(table: TableSpec) -> str:
    """Id of the task that reads the horizon of the table's source."""
    return f"{table.task_group.partition('.')[0]}.horizon"


def _about(failure: Failure, tables: Sequence[TableSpec]) -> str:
    if failure.dag_id != "elt_pipeline":
        return f"{failure.dag_id}, {failure.label}" if failure.label else failure.dag_id
    if failure.task_id == "check_parameters":
        return "what the run was asked for"
    mine = [table for table in tables if failure.stands_for(table)]
    if mine and failure.task_id == horizon_of(mine[0]):
        return f"source {mine[0].source}, all its tables ({len(mine)})"
    if mine:
        return f"table {mine[0].name}"
    place = failure.task_id.split(".")
    return place[1] if len(place) > 2 else failure.task_id


def _remedy(failure: Failure) -> str:
    if failure.state == "success":
        return "Nothing waits for it: what depends on it is built."
    if failure.state != "failed":
        return "It is tried again by itself; its log says why."
    if failure.task_id == "check_parameters":
        return "Trigger the run again, as it says."
    if failure.error and failure.table:
        return ""  # it says it all
    if failure.table:
        return (
            "Correct its rows in the source, and the next run reads them again; or the model, and clear the task with "
            "Downstream."
        )
    said = "Do what it says" if failure.error else "The last line of its log says what to do"
    return f"{said}, then clear the task with Downstream."


def of_dag(dag: DagState, now: datetime) -> Iterator[Finding]:
    """What is wrong with a DAG itself: it cannot be read, is off, or does not run when it should."""
    if dag.broken:
        yield Finding("failed", f"{dag.dag_id}.py", dag.broken, "Correct the file: its DAG is not there until then.")
    elif not dag.is_there:
        yield Finding(
            "failed", dag.dag_id, "Airflow has no such DAG.", "See that the DAG processor runs, and its import errors."
        )
    for run_id in dag.overdue:
        yield Finding(
            "late", dag.dag_id, "The run is past its deadline.", "See what it works on.", run=(dag.dag_id, run_id)
        )
    if dag.is_paused and (dag.is_scheduled or dag.waiting):
        text = "is paused" if dag.has_run or not dag.is_scheduled else "was never switched on"
        waits = f", and {dag.waiting} run{'s wait' if dag.waiting > 1 else ' waits'} for that" if dag.waiting else ""
        yield Finding("paused", dag.dag_id, f"It {text}: nothing runs by itself{waits}.", "Switch it on.")
    elif dag.is_scheduled and dag.next_at and not dag.waiting and now - dag.next_at > OVERDUE_AFTER:
        yield Finding(
            "late",
            dag.dag_id,
            f"Its run was to begin at {dag.next_at:%Y-%m-%d %H:%M} UTC and has not.",
            "See that the scheduler runs.",
        )


def of_table(table: Table, limits: Limits, failures: Iterable[Failure] = ()) -> Iterator[Finding]:
    """What the ledger says of a table, and the freshness that its source declares; what a failure says, it says."""
    name = table.spec.name
    if not table.loads and not table.extractions:
        yield Finding("never loaded", f"table {name}", "Nothing of it is in raw.", "Trigger elt_pipeline.")
    for gap in table.gaps:
        lower = gap.lower.isoformat() if gap.lower else "beginning"
        yield Finding(
            "gap",
            f"table {name}",
            f"No load has read {table.spec.cursor} from {lower} to {gap.upper.isoformat()}.",
            f"Rewind it to {lower}: the DAG rewind, or make rewind TABLE={name} TO={lower}.",
        )
    if table.age is not None and (kind := limits.kind(table.age)):
        yield Finding(
            kind,
            f"table {name}",
            f"Last loaded {_days(table.age)} ago; its source wants {_days(limits.of(kind))} at most.",
            "See below why elt_pipeline did not load it, or trigger it.",
        )
    if table.difference and not any(table.spec.watermark_key in (failure.error or "") for failure in failures):
        is_refused = table.difference.startswith("Variable ")  # and says what to do
        said = table.difference if is_refused else f"{table.variable or 'not set'}: {table.difference}"
        yield Finding("Variable", f"table {name}", said, "" if is_refused else "The next run does that.")


def of_source(source: Source) -> Iterator[Finding]:
    """A source that cannot be looked at, or that somebody holds back."""
    if source.problem:
        yield Finding("unseen", f"source {source.name}", source.problem, "Until then nobody knows what it holds back.")
    for one in source.holders if source.lag and source.lag > HELD_AFTER else ():
        yield Finding(
            "held",
            f"source {source.name}",
            f"{holder(one)} is in a transaction that holds the watermark back; rows still land.",
            f"Have it committed or rolled back, or end it on the source: {one.ending}",
        )


def holder(one: Any) -> str:
    """A row of open_transactions.sql in words."""
    application = f", application {one.application_name}" if one.application_name else ""
    return f"{one.holder}, role {one.role}{application}"


def _days(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    if hours < 1:
        return f"{hours * 60:.0f} minutes"
    return f"{hours:.0f} hours" if hours < 96 else f"{hours / 24:.0f} days"
