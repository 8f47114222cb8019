"""Writers and the watch live as long as a schedule, or it says so."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.conftest import Postgres
from tests.drill import schedule, writers


@pytest.mark.parametrize(
    "change", ["add column a int", "drop column gone", "alter column gone type bigint"], ids=lambda it: it.split()[0]
)
def test_a_writer_goes_on_where_another_was_faster_to_change_a_column(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    dsn = postgres.database()
    with psycopg.connect(dsn) as connection:
        connection.execute("create table t (a int)")
    stop: list[Callable[..., None]] = []
    monkeypatch.setattr(writers.signal, "signal", lambda _, handler: stop.append(handler))
    ways: list[Callable[[writers.Writer], Any]] = [
        lambda _: stop[0](None, None),
        lambda writer: writer.connection.execute(f"alter table t {change}"),
    ]
    monkeypatch.setattr(writers, "WAYS", {lambda writer: ways.pop()(writer): 1})
    changes: Any = [0]
    writers.write(dsn, [], "seed", writers.WAYS, changes, 0)
    assert ways == []


@pytest.mark.parametrize(
    ("code", "violations"), [(0, []), (1, ["the watch died with exit code 1; what it said is above"])]
)
def test_a_process_that_died_is_a_violation(code: int, violations: list[str]) -> None:
    process = schedule.FORK.Process(target=os._exit, name="the watch", args=(code,))
    process.start()
    process.join()
    assert schedule._end([process]) == violations


def test_a_process_that_is_ended_before_it_began_is_none() -> None:
    process = schedule.FORK.Process(target=signal.pause)
    process.start()
    assert schedule._end([process]) == []
