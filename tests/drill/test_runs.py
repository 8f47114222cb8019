"""Faults reach what they are aimed at, and only what hangs is called hung."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from io import BytesIO
from typing import Any

import pytest

from tests.drill import runs
from tests.drill.attempt import Attempt, Run
from tests.drill.runs import Runs, Tally
from tests.drill.strikes import STRIKES

UNUSED: Any = None


def a_schedules_runs(tally: Tally | None = None) -> Runs:
    return Runs(UNUSED, random.Random(1), tally or Tally(), BytesIO(), {"kill -9": 1.0}, 1.0)


def test_a_step_that_is_not_met_again_does_not_take_all_kills() -> None:
    """Such as a change of columns, which comes once and rarely again."""
    tally, rare = Tally(), "before warehouse: alter table"
    tally.steps["extract", "shapes", False] = {rare, *(f"before step {number}" for number in range(30))}
    drill, aimed = a_schedules_runs(tally), Counter[str]()
    for _ in range(600):
        fault = drill._choose("extract", "shapes", 1.0)
        if fault and not fault.delay:
            aimed[fault.step] += 1
            tally.killed_at[f"extract: {fault.step}"] += fault.step != rare
    assert len(aimed) == 31
    assert max(aimed.values()) - min(aimed.values()) <= 1


@pytest.mark.parametrize("kind", sorted(STRIKES))
@pytest.mark.parametrize("step", ["before warehouse: merge into …", "after shop: BEGIN"])
def test_a_fault_has_a_step_to_strike_at_or_there_is_none(kind: str, step: str) -> None:
    """A `blobs` that is loaded without a COPY ended the drill."""
    tally = Tally()
    tally.steps["load", "blobs", False] = {step}
    drill = Runs(UNUSED, random.Random(1), tally, BytesIO(), {kind: 1.0}, 1.0)
    found = [drill._choose("load", "blobs", 1.0) for _ in range(20)]
    assert {fault.step for fault in found if fault} <= {step}
    assert all(found) or (step.startswith("after") and kind in ("time out", "disk full")) or kind == "hang shop"


def test_a_loop_that_could_not_listen_calls_nothing_hung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "HUNG_SECONDS", 2)

    async def hear(ended: asyncio.Future[None]) -> None:
        time.sleep(2.1)  # as a question that waits for a lock
        for _ in range(5):  # what was told meanwhile comes through the pipe, the stream and the listener
            await asyncio.sleep(0)
        ended.set_result(None)

    async def blocked() -> bool:
        ended = asyncio.get_running_loop().create_future()
        hearing = asyncio.create_task(hear(ended))
        return await runs._are_done_in_time({ended}) and hearing.done()

    assert asyncio.run(blocked())


def test_a_zombie_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "HUNG_SECONDS", 1)
    drill = a_schedules_runs()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.pause()
    os.close(writing)

    async def end() -> None:
        attempt = Attempt(UNUSED, Run("r"), "load", "t", None, None, None)
        listener = asyncio.create_task(drill._listen(attempt, pid, reading, asyncio.Future()))
        drill._listeners[listener] = attempt, pid
        await drill.end()

    asyncio.run(end())
    assert drill.violations == ["load of t hung for 1 s; fault: None"]
