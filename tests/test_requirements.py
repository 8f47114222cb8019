"""What users install: pinned, hashed, and the same in all files."""

from __future__ import annotations

import re

from include.local.environment import ROOT

LOCK = (ROOT / "requirements.lock").read_text()


def test_the_lock_holds_every_named_package_at_its_version() -> None:
    files = [ROOT / name for name in ("requirements.txt", "requirements-dev.txt")]
    named = [pin for file in files for pin in re.findall(r"^[a-z0-9-]+==\S+$", file.read_text(), re.MULTILINE)]
    assert len(named) > 15
    for pin in named:
        assert re.search(
            rf"^{re.escape(pin)}( ;| \\)", LOCK, re.MULTILINE
        ), f"{pin} is not in the lock: run `make lock`"


def test_every_locked_package_is_hashed() -> None:
    entries = re.split(r"\n(?=[a-z0-9])", LOCK)
    assert all("--hash=sha256:" in entry for entry in entries if "==" in entry.splitlines()[0])


def test_no_registry_is_named() -> None:
    assert "://" not in LOCK
