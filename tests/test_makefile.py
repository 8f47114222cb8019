"""What a person types after `make` reaches the program as it is: neither make nor a shell runs any of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from include.local.environment import ROOT

TYPED = "a 'b \"$(touch ran) `touch ran` $${x} ; touch ran # * \\ $(shell touch ran)\ntouch ran"

STUB = f"""#!{sys.executable}
import json, os, sys
with open("called.json", "a") as file:
    print(json.dumps([sys.argv[1:], dict(os.environ)]), file=file)
"""

USED = {
    "ARGS": "test",
    "CMD": "airflow",
    "SELECT": "dbt-run",
    "VARS": "dbt-test",
    "SERVICE": "logs",
    "WORKERS": "up",
    "VOLUMES": "down",
    "FULL_REFRESH": "dbt-run",
    "PYTHON": "env",
}
"""A target of each variable that a recipe names."""

NAMES = {*USED, *re.findall(r"\b([A-Z_]{2,})=", "".join(re.findall(" ## .*", (ROOT / "Makefile").read_text())))}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The Makefile, with programs that write down how they were called."""
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    for name in (".venv/bin/python", "bin/docker", f"bin/{TYPED}"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".venv" / "ready").touch()
    return tmp_path


def make(tree: Path, *arguments: str, **environment: str) -> list[tuple[list[str], dict[str, str]]]:
    """Run make; how each program was called. What a make around this one was given is not for it."""
    path = {"PATH": f"{tree / 'bin'}:{os.environ['PATH']}", "MAKEFLAGS": ""}
    subprocess.run(
        ["make", *arguments], cwd=tree, env=os.environ | path | environment, capture_output=True, check=False
    )
    return [json.loads(line) for line in (tree / "called.json").read_text().splitlines()]


@pytest.mark.parametrize("is_argument", [True, False], ids=["argument", "environment"])
@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_is_typed_is_not_run(tree: Path, name: str, is_argument: bool) -> None:
    target = USED.get(name, "plan")
    called = make(tree, target, f"{name}={TYPED}") if is_argument else make(tree, target, **{name: TYPED})
    assert called and not list(tree.rglob("ran"))
    assert all(environment[name] == TYPED for _, environment in called)
    arguments = [argument for arguments, _ in called for argument in arguments]
    if name in ("SELECT", "VARS", "SERVICE"):
        assert TYPED in arguments
    elif name == "WORKERS":
        assert f"airflow-worker={TYPED}" in arguments
    else:
        assert not [argument for argument in arguments if "touch" in argument]


def test_a_linked_environment_is_not_emptied(tree: Path) -> None:
    elsewhere = (tree / ".venv").rename(tree / "elsewhere")
    (tree / ".venv").symlink_to(elsewhere)
    (elsewhere / "ready").unlink()
    done = subprocess.run(["make", "setup"], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode and "is a link" in done.stderr and (elsewhere / "bin" / "python").exists()
