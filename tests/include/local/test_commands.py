"""Foreseeable trouble is one sentence and exit code 1; what a script reads stands alone on stdout."""

from __future__ import annotations

import fcntl
import inspect
import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from include.local import __main__ as commands
from include.local.environment import ROOT, Installation
from include.local.errors import LocalError
from tests.conftest import Checkout

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(folder: Path, request: pytest.FixtureRequest) -> Installation:
    return Installation(folder / request.node.name)


@pytest.fixture
def run(here: Installation) -> Iterator[Run]:
    """Runs `python -m include.local …` on `here`, and cleans it up."""
    checkout = Checkout(here)
    yield checkout.run
    checkout.run("clean")


def assert_one_sentence(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ")
    for part in parts:
        assert part in done.stderr


def test_a_dsn_is_one_line(run: Run) -> None:
    for side, role in (("source", "shop_app"), ("warehouse", "warehouse_admin")):
        done = run(f"dsn-{side}")
        assert done.returncode == 0
        assert done.stdout.startswith(f"postgresql://{role}:") and len(done.stdout.splitlines()) == 1


def test_no_password_is_in_the_process_list(here: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    def start(command: list[str], env: dict[str, str], check: bool) -> subprocess.CompletedProcess[str]:
        started.append((command, env))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(commands, "prepare", lambda here: {})
    monkeypatch.setattr(subprocess, "run", start)
    here.state.mkdir()
    (here.state / "postgres.port").write_text("5999")
    own = "postgresql://me:s%27ecret@db.example:5432/mine?sslmode=require"
    for user, password in (({}, here.secrets()["warehouse_admin"]), ({"AIRFLOW_CONN_WAREHOUSE": own}, "s'ecret")):
        monkeypatch.setattr(commands, "user_environment", lambda user=user: user)
        assert commands.psql(here, ["--command", "select 1"]) == 0
        command, environment = started.pop()
        assert environment["PGPASSWORD"] == password and "ecret" not in " ".join(map(str, command[1:]))
        assert password not in " ".join(map(str, command)) and command[1:3] == ["--command", "select 1"]
    assert "sslmode=require" in command[-1] and "host=db.example" in command[-1]
    assert "dsn-warehouse" not in inspect.getsource(commands.pipeline)  # the hint at the end of a run


def test_what_holds_data_is_closed_to_others(here: Installation) -> None:
    for folder in (here.logs, here.airflow_home):
        folder.mkdir(mode=0o755, parents=True)
    here.state.chmod(0o755)
    commands._close(here)
    modes = {folder.name: stat.S_IMODE(folder.stat().st_mode) for folder in here.state.iterdir()}
    assert modes == dict.fromkeys(("airflow", "logs", "dbt"), 0o700)
    assert stat.S_IMODE(here.state.stat().st_mode) == (0o700 if os.geteuid() else 0o711)
    (here.state / "thesis.txt").touch()
    here.state.chmod(0o755)
    commands._close(here)
    assert stat.S_IMODE(here.state.stat().st_mode) == 0o755  # others' things are in it


def test_a_second_run_is_refused(run: Run, here: Installation) -> None:
    here.state.mkdir()
    with (here.state / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in ("run", "ui", "clean"):
            assert_one_sentence(run(command), "`make run` or `make ui` is at work")


def test_a_full_disk_is_found_before_anything_is_written(here: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 10_000_000))
    with pytest.raises(LocalError, match="0.0 GB are free in .* 1.5 GB are needed"):
        commands.prepare(here)
    assert not (here.state / "postgres").exists()


def test_a_connection_lost_on_a_full_disk_says_so(here: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = commands.psycopg.OperationalError("server closed the connection\nunexpectedly")
    assert commands._sentence(here, lost) == "server closed the connection unexpectedly"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    assert "no disk space left" in commands._sentence(here, lost)


@pytest.mark.parametrize(
    ("command", "variables"),
    [
        ("shop", {"ROWS": "abc"}),
        ("shop", {"SEED": "-1"}),
        ("shop", {"AIRFLOW_CONN_SHOP": "postgresql://127.0.0.1:1/db"}),
        ("dsn-source", {"PG_PORT": "80000"}),
        ("dsn-source", {"AIRFLOW_CONN_SHOP": "mysql://h/db"}),
        ("run", {"AIRFLOW_CONN_SHOP": "postgresql://h:1/db", "AIRFLOW_CONN_WAREHOUSE": "postgresql://127.0.0.1:1/db"}),
    ],
)
def test_what_the_user_set_wrongly_is_one_sentence(run: Run, command: str, variables: dict[str, str]) -> None:
    done = run(command, **variables)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error: ")]) == 1


def test_clean_removes_what_it_made_and_nothing_else(run: Run, here: Installation) -> None:
    assert run("clean").returncode == 0
    run("dsn-source")
    stranger = here.state / "thesis.docx"
    stranger.touch()
    assert_one_sentence(run("clean"), "'thesis.docx'")
    stranger.unlink()
    assert run("clean").stdout == f"removed {here.state}\n"
    assert not here.state.exists()


def test_too_old_a_python_is_one_sentence(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    old.chmod(0o755)
    for name in ("Makefile", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    make = shutil.which("make")
    assert make
    done = subprocess.run([make, "setup"], cwd=tmp_path, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        "error: Python 3.11, 3.12 or 3.13 is needed and python3 is Python 3.9.2; name one with PYTHON=" in done.stderr
    )
    assert not (tmp_path / ".venv").exists()
