"""A drill that drilled nothing fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.drill import __main__ as drill
from tests.drill import attempt, mutants, world


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
