"""A drill that drilled nothing fails."""

from __future__ import annotations

import asyncio
import os
import random
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from tests.drill import __main__ as drill
from tests.drill import attempt, mutants, world
from tests.drill.runs import Runs, Tally


@pytest.mark.parametrize("minutes", ["0", "1", "1.25"])
def test_too_few_minutes_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], minutes: str
) -> None:
    monkeypatch.setenv("MINUTES", minutes)
    monkeypatch.setattr(drill.tempfile, "mkdtemp", lambda **_: pytest.fail("it began"))
    assert drill.main() == 1
    assert f"error: MINUTES={minutes} is for the mutants alone" in capsys.readouterr().err


class NoServers:
    def __init__(self, folder: Path) -> None:
        self.servers: dict[str, object] = {}
        (folder / "tasks.log").touch()

    def fresh(self) -> None: ...


def test_a_drill_without_a_schedule_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(world, "World", NoServers)
    monkeypatch.setattr(attempt, "warm_up", lambda _: None)
    monkeypatch.setattr(mutants, "MUTANTS", {})
    monkeypatch.setattr(drill, "ROOT", tmp_path)
    assert asyncio.run(drill._drill(tmp_path, seed="1", minutes=1, only=None)) == 1
    assert "no schedule was played" in capsys.readouterr().out


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
