"""What users install: pinned, hashed, and the same in all files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from include.local.environment import ROOT

TOOLS = sorted([*(ROOT / "benchmarks" / "requirements").glob("*.in"), *(ROOT / ".ci").glob("*.in")])
LOCKS = {
    ROOT / "requirements.lock": [ROOT / "requirements.txt", ROOT / "requirements-dev.txt"],
    **{named.with_suffix(".txt"): [named] for named in TOOLS},
}
"""Each with the files that name what has to be in it."""

UV = Path(sys.executable).with_name("uv")

PIN = re.compile(r"^([a-z0-9-]+)(?:\[.*\])?==([^\s;]+)", re.MULTILINE)


@pytest.fixture(params=LOCKS, ids=lambda path: path.name)
def lock(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_a_lock_holds_every_named_package_at_its_version(lock: Path) -> None:
    for file in LOCKS[lock]:
        named = PIN.findall(file.read_text())
        assert named, file
        missing = set(named) - set(PIN.findall(lock.read_text()))
        assert not missing, f"{missing} of {file.name} is not in {lock.name}: run `make lock`"


def test_every_locked_package_is_hashed(lock: Path) -> None:
    entries = re.split(r"\n(?=[a-z0-9])", lock.read_text())
    assert all("--hash=sha256:" in entry for entry in entries if "==" in entry.splitlines()[0])


def test_the_environment_is_the_lock_and_lacks_what_is_left_out_alone() -> None:
    """Installed without resolving: what a package asks for and does not find is named here, and nowhere else."""
    check = subprocess.run(
        [UV, "pip", "check", "--python", sys.executable], capture_output=True, text=True, check=False
    )
    missing = re.findall(r"requires `([a-z0-9-]+)[^`]*`, but it's not installed", check.stderr)
    left_out = re.findall(r"^[a-z0-9-]+", (ROOT / "requirements-excluded.txt").read_text(), re.MULTILINE)
    assert sorted(missing) == left_out, check.stderr
    assert f"Found {len(left_out)} incompatibilit" in check.stderr, check.stderr


def test_no_registry_is_named(lock: Path) -> None:
    assert "://" not in lock.read_text()
