"""A drill that drilled nothing fails."""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.drill import __main__ as drill
from tests.drill import attempt, mutants, report, schedule, world
from tests.drill.runs import Runs, Tally
from tests.drill.strikes import STRIKES


@pytest.mark.parametrize("minutes", ["0", "1", "1.25"])
def test_too_few_minutes_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], minutes: str
) -> None:
    monkeypatch.setenv("MINUTES", minutes)
    monkeypatch.setattr(drill.tempfile, "mkdtemp", lambda **_: pytest.fail("it began"))
    assert drill.main() == 1
    assert f"error: MINUTES={minutes} is for the mutants alone" in capsys.readouterr().err


def test_a_scene_that_there_is_not_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(world, "World", lambda _: pytest.fail("it began"))
    assert asyncio.run(drill._drill(tmp_path, seed="1", minutes=5, only=None, scene="quiet")) == 1
    assert "there is no SCENE=quiet; there are one_run, " in capsys.readouterr().err


class NoServers:
    def __init__(self, folder: Path) -> None:
        self.servers: dict[str, object] = {}
        (folder / "tasks.log").touch()

    def fresh(self) -> None: ...

    def close(self) -> None: ...


class Played:
    """A schedule that takes the longest drill's time and finds what it is told to."""

    found: list[str] = []
    clock = 0.0

    def __init__(self, world: Any, seed: str, plan: Any, tally: Tally) -> None:
        self.tally, self.specs = tally, ()

    async def play(self) -> list[str]:
        self.tally.schedules, self.tally.checks, self.tally.looks = 1, 1, 1
        Played.clock += 3600
        return self.found


@pytest.fixture
def no_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "World", NoServers)
    monkeypatch.setattr(attempt, "warm_up", lambda _: None)
    monkeypatch.setattr(schedule, "Schedule", Played)
    monkeypatch.setattr(drill, "time", SimpleNamespace(monotonic=lambda: Played.clock))
    monkeypatch.setattr(drill, "ROOT", tmp_path)


@pytest.mark.usefixtures("no_servers")
def test_a_drill_without_a_schedule_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mutants, "MUTANTS", {})
    assert asyncio.run(drill._drill(tmp_path, seed="1", minutes=1, only=None)) == 1
    assert "no schedule was played" in capsys.readouterr().out


def test_a_drill_that_did_not_look_fails_and_a_long_one_that_did_not_strike() -> None:
    tally = Tally(schedules=1)
    assert report.never_met(tally, all_kinds=False) == ["no green run was checked", "no look at raw was taken"]
    tally.checks, tally.looks, tally.strikes = 1, 1, Counter(STRIKES.keys() - {"disk full", "freeze"})
    assert report.never_met(tally, all_kinds=False) == []
    assert sorted(report.never_met(tally, all_kinds=True)) == [
        "no fault 'disk full' struck",
        "no fault 'freeze' struck",
    ]


@pytest.mark.parametrize(("minutes", "struck"), [(5, True), (10, False)])
@pytest.mark.usefixtures("no_servers")
def test_from_ten_minutes_on_every_kind_of_fault_has_to_strike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minutes: float, struck: bool
) -> None:
    monkeypatch.setattr(mutants, "MUTANTS", {})
    assert asyncio.run(drill._drill(tmp_path, seed="1", minutes=minutes, only=None)) == (not struck)


@pytest.mark.parametrize("name", mutants.MUTANTS)
@pytest.mark.usefixtures("no_servers")
def test_a_mutant_is_caught_by_what_it_breaks_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """A busy machine, where something hangs, or a writer that dies catches nothing."""
    noise = ["load of orders hung for 60 s; fault: None", "a run without faults or writers was red", "writer 1 died"]
    monkeypatch.setattr(Played, "found", noise)
    monkeypatch.setattr(mutants, "MUTANTS", {name: mutants.MUTANTS[name]})
    asyncio.run(drill._drill(tmp_path, seed="1", minutes=1, only=None))
    printed = capsys.readouterr().out
    assert f"mutant {name}: NOT CAUGHT" in printed
    assert all(f"VIOLATION beside the mutant {name}: {text}" in printed for text in noise)


@pytest.mark.parametrize("mutate", [None, mutants.no_version_guard])
def test_a_mutant_that_fails_by_itself_does_not_count_as_caught(mutate: Any) -> None:
    """What it was to replace had another name by then: the drill caught its traceback."""
    unused: Any = None
    runs = Runs(unused, random.Random(), Tally(), BytesIO(), {}, 0, mutate)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b'{"ended": "unexpected", "message": "AttributeError"}\n')
        os._exit(0)
    os.close(writing)
    ended: asyncio.Future[dict[str, Any]] = asyncio.Future(loop=asyncio.new_event_loop())
    task = attempt.Attempt(unused, attempt.Run("r"), "load", "t", None, None, mutate)
    if mutate:
        with pytest.raises(RuntimeError, match="the mutant itself fails: load of t.*AttributeError"):
            asyncio.run(runs._listen(task, pid, reading, ended))
    else:
        asyncio.run(runs._listen(task, pid, reading, ended))
        assert "AttributeError" in runs.violations[0]
