"""What a person sees of a run: nothing wider than the terminal, and never silence."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time

import pytest

from include.local import progress
from include.local.environment import ROOT
from include.local.progress import Console, Task

SHOWN = """
import time
from types import SimpleNamespace
from include.local.progress import Console, Task
console, tasks = Console(), [Task("shop.orders.extract", "_PythonDecoratedOperator", "failed", 1.0)]
console.show(tasks[0], tasks)
console.step("word " * 40)
with console.waiting("a task with a name that is longer than the terminal, " * 3):
    time.sleep(1.2)
console.report(tasks, [SimpleNamespace(source="shop", table_name=name, mode="incremental", rows_extracted=1000000,
    rows_inserted=1000000, rows_updated=1000000) for name in ("orders", "customer_demographics_of_everybody_there_is")])
"""


@pytest.mark.parametrize("columns", [60, 120])
def test_nothing_is_wider_than_the_terminal(columns: int) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    with subprocess.Popen([sys.executable, "-c", SHOWN], stdout=theirs, cwd=ROOT, env=kept) as child:
        os.close(theirs)
        printed = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how a terminal ends
                break
            if not part:
                break
            printed += part
        assert child.wait() == 0
    lines = re.split(r"[\r\n]+", re.sub(r"\x1b\[K", "", printed.decode()))
    assert max(map(len, lines)) <= columns, max(lines, key=len)
    assert any("1,000,000" in line for line in lines) and any("longer than" in line for line in lines)
    assert any(re.match(r"shop\.customer_demogr\S+ +(incremental +)?1,000,000", line) for line in lines)


def test_where_there_is_no_terminal_it_speaks_up_as_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.01)
    with Console().waiting("the first thing") as say:
        _until(capsys, "… the first thing")
        say("the second thing")
        _until(capsys, "… the second thing")


def _until(capsys: pytest.CaptureFixture[str], words: str) -> None:
    end, printed = time.monotonic() + 10, ""
    while words not in printed and time.monotonic() < end:
        printed += capsys.readouterr().out
    assert words in printed


def test_what_did_not_run_is_not_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    states = ["success", "success", "failed", "upstream_failed", None, "skipped"]
    tasks = [Task(f"m{number}", "DbtRun", state, 1.0) for number, state in enumerate(states)]
    Console().report(tasks, [])
    assert "dbt models  2 of 6 passed, 1 failed, 3 not run" in capsys.readouterr().out


def test_a_warning_is_neither_passed_nor_failed_and_says_of_what(capsys: pytest.CaptureFixture[str]) -> None:
    tests = [
        Task("marts.sales.positive", "DbtTest", "success", 0.1, warning="dbt test positive warns of 1,234 rows"),
        Task("marts.sales.unique", "DbtTest", "success", 0.1),
        Task("marts.sales.known", "DbtTest", "failed", 0.1),
    ]
    Console().report(tests, [])
    said = capsys.readouterr().out
    assert "dbt tests   1 of 3 passed, 1 failed, 1 warned\n" in said
    assert "! marts.sales.positive\n  dbt test positive warns of 1,234 rows\n" in said
