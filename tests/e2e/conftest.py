"""The command a person runs, `make run`, on an installation of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from include.local.environment import ROOT, Installation


@dataclass(frozen=True)
class Checkout:
    """An installation below `here.state`; commands run in it as the Makefile would run them."""

    here: Installation
    root: Path = ROOT

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run `python -m include.local …`; fails the test with its output only where the caller asserts so."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "DBT_"))}
        environment = {
            **kept,
            "ELT_STATE": str(self.here.state),
            "ROWS": "2000",
            "PYTHONPATH": str(self.root),
            **variables,
        }
        return subprocess.run(
            [sys.executable, "-m", "include.local", *command],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
        )

    def source(self) -> psycopg.Connection:
        return psycopg.connect(self.run("dsn-source").stdout.strip())

    def warehouse(self) -> psycopg.Connection:
        return psycopg.connect(self.run("dsn-warehouse").stdout.strip())


@pytest.fixture(scope="module")
def checkout(folder: Path, request: pytest.FixtureRequest):
    made = Checkout(Installation(folder / request.module.__name__.split(".")[-1]))
    yield made
    made.run("clean")
