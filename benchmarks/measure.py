"""Run one process and say what it cost."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

TIMED = "seconds="
"""A Python contender times itself, after its imports, and prints this; of the others the whole process is timed."""


class BenchError(Exception):
    """A contender failed, or lost rows."""


@dataclass(frozen=True)
class Cost:
    """Wall time, CPU time of the client's processes, and the largest peak memory of one of them."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


def run(command: list[str], variables: Mapping[str, str], cwd: Path | None = None) -> Cost:
    """Run a command to its end.

    Raises:
        BenchError: it failed; carries the end of its output.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = perf_counter()
        child = subprocess.Popen(
            command, env=os.environ | variables, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        _, status, usage = os.wait4(child.pid, 0)
        seconds = perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        said = output.read()
    if child.returncode != 0:
        raise BenchError(f"{command[0]} ended with {child.returncode}: {said.strip()[-1500:]}")
    timed = [line.removeprefix(TIMED) for line in said.splitlines() if line.startswith(TIMED)]
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2): bytes there, KiB here
    peak = usage.ru_maxrss * unit / 1e6
    return Cost(float(timed[-1]) if timed else seconds, usage.ru_utime + usage.ru_stime, peak)
