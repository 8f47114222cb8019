"""`python -m include.compose` without a command, or with a wrong one, says how it is called."""

from __future__ import annotations

import subprocess
import sys

import pytest

from include.local.environment import ROOT


@pytest.mark.parametrize("arguments", [[], ["nope"]])
def test_a_wrong_command_is_no_traceback(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "include.compose", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "usage: python -m include.compose" in done.stderr and "Traceback" not in done.stderr
