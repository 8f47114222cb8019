"""What a run is asked for: the parameters of its form, and the data interval it is given. Done as asked, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from difflib import get_close_matches

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException
from airflow.sdk.timezone import coerce_datetime

from include.dbt import variables as dbt_vars
from include.errors import ConfigError

MAX_NAMES = 20


def check(context: Context) -> None:
    """See that a run can do what it is asked for, in which its first task is.

    Raises:
        ConfigError: a parameter that the DAG does not have, a table that it does not know or none at all, a dbt
            variable that is not as declared, a window that is none, or two wishes of which one would be ignored. Says
            which, and what to write.
    """
    declared = context["dag"].params
    # Airflow itself sends some settings this way, with a slash in their names.
    unknown = [name for name in context["dag_run"].conf or {} if name not in declared and "/" not in name]
    if unknown:
        raise ConfigError(f"there is no parameter {unknown[0]!r}{meant(unknown[0], list(declared))}")
    dbt_vars.check(context["params"].get("dbt_vars"))
    if "tables" in declared:
        _check_tables(context["params"]["tables"], declared.get_param("tables").schema["examples"])
    window = requested_window(context)
    if window and context["params"].get("full_refresh"):
        raise ConfigError(
            "parameter full_refresh reads every row, and this run is to read a part: "
            f"{window[0].isoformat()} to {window[1].isoformat()}; ask for one of the two"
        )


def _check_tables(chosen: Sequence[str], known: Sequence[str]) -> None:
    if known and not chosen:
        raise ConfigError("parameter tables is empty: name at least one, or leave it out and all are taken")
    for name in chosen:
        if name not in known:
            raise ConfigError(f"parameter tables: there is no table {name!r}{meant(name, known)}")


def meant(name: str, known: Sequence[str]) -> str:
    """What to write instead of a name that is none: the nearest, or what there is."""
    near = get_close_matches(str(name), known, n=1)
    if near:
        return f"; did you mean {near[0]}?"
    rest = len(known) - MAX_NAMES
    return f"; there are {', '.join(known[:MAX_NAMES])}" + (f" and {rest} more" if rest > 0 else "")


def requested_window(context: Context) -> tuple[datetime, datetime] | None:
    """The half-open window that a run was asked for; None: from the watermark on.

    That of a backfill is its data interval; of a run by hand what the form says, or a data interval given by hand.

    Raises:
        ConfigError: only one bound, an instant that is none, an end that is not after the start, or two windows.
    """
    bounds = {name: context["params"].get(name) for name in ("window_start", "window_end")}
    given = {name: value for name, value in bounds.items() if value}
    interval = _given_interval(context)
    if given and interval:
        raise ConfigError(
            f"parameter {next(iter(given))} and the run's data interval, {interval[0].isoformat()} to "
            f"{interval[1].isoformat()}, are both given: a run has one window, leave one of the two out"
        )
    if len(given) == 1:
        missing = next(name for name in bounds if name not in given)
        raise ConfigError(f"parameter {missing} is missing: give both bounds of the window, or none")
    if not given and not interval:
        return None
    start, end = interval or tuple(_instant(name, value) for name, value in given.items())
    if start >= end:
        raise ConfigError(f"window_end {end.isoformat()!r} is not after window_start {start.isoformat()!r}")
    return start, end


def _given_interval(context: Context) -> tuple[datetime, datetime] | None:
    """The data interval of a backfill, or of a run by hand where it is not the one that Airflow gives each of those."""
    from airflow.serialization.encoders import coerce_to_core_timetable  # not where a DAG is parsed

    run = context["dag_run"]
    interval = run.data_interval_start, run.data_interval_end
    if run.run_type == "backfill":
        return interval
    if run.run_type != "manual" or None in interval or run.logical_date is None:
        return None
    timetable = coerce_to_core_timetable(context["dag"].timetable)
    usual = timetable.infer_manual_data_interval(run_after=coerce_datetime(run.logical_date))
    return None if interval == (usual.start, usual.end) else interval


def _instant(name: str, value: str) -> datetime:
    try:
        instant = datetime.fromisoformat(value)
    except (ValueError, TypeError):
        raise ConfigError(f"parameter {name} is {value!r}, not an ISO instant such as 2026-01-31T00:00:00Z") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def period(context: Context) -> tuple[datetime, datetime, bool] | None:
    """The time that a run is about, and whether it is all that was asked for; None: the present.

    That is its window, or of a scheduled run its data interval.
    """
    if window := requested_window(context):
        return (*window, True)
    run = context["dag_run"]
    if run.run_type != "scheduled" or run.data_interval_start in (None, run.data_interval_end):
        return None
    return run.data_interval_start, run.data_interval_end, False


def skip_unless_chosen(context: Context, table: str) -> None:
    """Skip the task if the run was asked for other tables."""
    if table not in context["params"].get("tables", [table]):
        raise AirflowSkipException(f"{table} is not among the tables chosen for this run")
