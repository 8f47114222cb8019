"""What a run is asked for is done as asked, or refused in one sentence before anything runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG, CronDataIntervalTimetable, Param
from airflow.sdk.exceptions import AirflowSkipException

from include.errors import ConfigError
from include.orchestrate import parameters

TABLES = ["shop.customers", "shop.orders"]
NOW = datetime(2026, 1, 2, 5, 30, tzinfo=UTC)
DAY = (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC))
AIRFLOWS_OWN: dict[str, Any] = {"airflow/task_span_detail_level": 2}
ELSE = (datetime(2025, 6, 1, tzinfo=UTC), datetime(2025, 6, 3, tzinfo=UTC))


def asked(
    run_type: str = "manual",
    interval: tuple[datetime | None, datetime | None] = DAY,
    timetable: Any = None,
    **conf: Any,
) -> Any:
    """The context of a run that was given these parameters; by hand, at half past five, unless it says otherwise."""
    defaults: dict[str, Any] = {
        "tables": Param(TABLES, type="array", examples=TABLES),
        "window_start": None,
        "window_end": None,
        "full_refresh": False,
        "dbt_vars": {},
    }
    timetable = timetable or CronDataIntervalTimetable("@daily", timezone="UTC")
    dag = DAG("elt_pipeline", schedule=timetable, start_date=DAY[0], params=defaults)
    run = SimpleNamespace(run_type=run_type, conf=conf, logical_date=NOW if interval[0] else None)
    run.data_interval_start, run.data_interval_end = interval
    return {"dag": dag, "dag_run": run, "params": {**dag.params.dump(), **conf}}


def test_a_scheduled_run_reads_from_the_watermark() -> None:
    assert parameters.requested_window(asked("scheduled")) is None


def test_a_backfill_reads_its_data_interval() -> None:
    assert parameters.requested_window(asked("backfill")) == DAY


def test_a_manual_run_reads_from_the_watermark_with_airflows_own_interval_or_none() -> None:
    assert parameters.requested_window(asked()) is None
    assert parameters.requested_window(asked(interval=(None, None))) is None


def test_a_manual_run_reads_the_window_of_the_form() -> None:
    wanted = asked(window_start="2026-01-01T00:00:00Z", window_end="2026-01-02 00:00")
    assert parameters.requested_window(wanted) == DAY


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (asked("scheduled"), (*DAY, False)),
        (asked("scheduled", interval=(DAY[1], DAY[1])), None),  # a trigger's, which has an instant
        (asked("backfill"), (*DAY, True)),
        (asked("manual"), None),
        (asked(window_start="2026-01-01T00:00:00Z", window_end="2026-01-02 00:00"), (*DAY, True)),
    ],
)
def test_microbatch_models_are_about_the_time_that_the_run_is_about(run: Any, expected: Any) -> None:
    assert parameters.period(run) == expected


@pytest.mark.parametrize("schedule", ["@daily", "*/5 * * * *"])
def test_a_data_interval_given_by_hand_is_read(schedule: str) -> None:
    wanted = asked(interval=ELSE, timetable=CronDataIntervalTimetable(schedule, timezone="Europe/Berlin"))
    assert parameters.requested_window(wanted) == ELSE
    parameters.check(wanted)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (asked(window_start="2026-01-01"), "parameter window_end is missing"),
        (asked(window_end="2026-01-01"), "parameter window_start is missing"),
        (asked(window_start="2026-01-02", window_end="2026-01-01"), "is not after window_start"),
        (asked(window_start="2026-01-01", window_end="2026-01-01"), "is not after window_start"),
        (asked(window_start="soon", window_end="2026-01-01"), "window_start is 'soon', not an ISO instant"),
        (asked(interval=(ELSE[1], ELSE[0])), "is not after window_start"),
        (asked(interval=ELSE, window_start="2026-01-01"), "window_start and the run's data interval, .* both given"),
        (asked("backfill", window_end="2026-01-01"), "window_end and the run's data interval, .* both given"),
        (asked("backfill", full_refresh=True), "full_refresh reads every row, and this run is to read a part"),
        (asked(full_refresh=True, window_start="2026-01-01", window_end="2026-01-02"), "ask for one of the two"),
        (asked(tables=[]), "parameter tables is empty"),
        (asked(tables=["shop.orders", "shop.order"]), "no table 'shop.order'; did you mean shop.orders?"),
        (asked(tables=["x"]), "no table 'x'; there are shop.customers, shop.orders$"),
        (asked("backfill", tables=["shop.order"]), "no table 'shop.order'"),
        (asked(table=["shop.orders"]), "no parameter 'table'; did you mean tables?"),
    ],
)
def test_what_cannot_be_done_is_refused(context: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parameters.check(context)


@pytest.mark.parametrize(
    "context",
    [
        asked(),
        asked("scheduled"),
        asked("backfill", tables=["shop.orders"]),
        asked(full_refresh=True),
        asked(**AIRFLOWS_OWN),
        asked(window_start="2026-01-01", window_end=(NOW + timedelta(days=1)).isoformat()),
    ],
)
def test_what_can_be_done_is_not(context: Any) -> None:
    parameters.check(context)


def test_tables_that_were_not_chosen_are_skipped() -> None:
    parameters.skip_unless_chosen(asked(tables=["shop.orders"]), "shop.orders")
    with pytest.raises(AirflowSkipException, match=r"shop\.customers is not among"):
        parameters.skip_unless_chosen(asked(tables=["shop.orders"]), "shop.customers")
