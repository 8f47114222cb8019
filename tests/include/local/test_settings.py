"""Whose value a variable has: the shell's, the `.env` file's, another project's, or our own shell file's."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from include.local import environment as module
from include.local.environment import (
    Installation,
    environment,
    libpq_uri,
    parse_env_file,
    user_environment,
    write_shell_file,
)
from include.local.errors import LocalError

OWN = "postgresql://me:pw@db.example:5432/mine"


@pytest.fixture
def here(folder: Path, request: pytest.FixtureRequest) -> Installation:
    state = folder / request.node.name
    state.mkdir()
    (state / "postgres.port").write_text("54321")
    return Installation(state)


def test_env_file(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text('# comment\n\nA=1\nexport B = two words \nC=\'q="x\'\nD=""\nE=ends"\n')
    assert parse_env_file(path) == {"A": "1", "B": "two words", "C": 'q="x', "D": "", "E": 'ends"'}
    path.write_text("A=1\nnonsense\n")
    with pytest.raises(LocalError, match="line 2 is 'nonsense'; write KEY=VALUE"):
        parse_env_file(path)


def test_the_shell_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("ROWS=1\nSEED=2\n")
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("ROWS", "3")
    assert (user_environment()["ROWS"], user_environment()["SEED"]) == ("3", "2")


def test_another_projects_airflow_is_left_alone(here: Installation) -> None:
    theirs = {name: "/theirs" for name in module.PLACES}
    made = environment(here, theirs | {"AIRFLOW__CORE__PARALLELISM": "16", "PATH": "/bin"})
    assert not [name for name in module.PLACES if made[name] == "/theirs"]
    assert made["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{here.metadata}"
    assert made["AIRFLOW__CORE__PARALLELISM"] == "16"
    assert made["PATH"].endswith("/.venv/bin:/bin")


def test_variables_of_a_sourced_shell_file_are_not_the_users_own(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_shell_file(here, environment(here, user_environment()))
    script = f". {shlex.quote(str(path))} && env -0"
    printed = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    sourced = dict(line.split("=", 1) for line in printed.split("\0") if line)
    assert "shop_reader" in sourced["AIRFLOW_CONN_SHOP"]
    for name, value in sourced.items():
        monkeypatch.setenv(name, value)
    assert "AIRFLOW_CONN_SHOP" not in user_environment()
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", OWN)
    assert user_environment()["AIRFLOW_CONN_SHOP"] == OWN


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        (OWN, OWN),
        ("postgres://h/db", "postgresql://h/db"),
        (
            OWN + "?sslmode=require&cursor=dictcursor&__extra__=%7B%22connect_timeout%22%3A+5%7D",
            OWN + "?sslmode=require&connect_timeout=5",
        ),
        (
            json.dumps({"conn_type": "postgres", "host": "h", "schema": "d b", "login": "me@x", "password": "p@s/w"}),
            "postgresql://me%40x:p%40s%2Fw@h:5432/d%20b",
        ),
        (
            json.dumps(
                {"conn_type": "postgres", "host": "h", "port": 1, "schema": "d", "extra": '{"sslmode":"allow"}'}
            ),
            "postgresql://@h:1/d?sslmode=allow",
        ),
    ],
)
def test_airflow_connections_as_libpq_uris(connection: str, expected: str) -> None:
    assert libpq_uri(connection) == expected


@pytest.mark.parametrize("connection", ["{bad", '{"conn_type": "postgres", "host": "h"}', "mysql://h/db", "h", "[1]"])
def test_what_is_no_postgres_connection_is_one_sentence(connection: str) -> None:
    with pytest.raises(LocalError, match="no PostgreSQL connection: write postgresql://"):
        libpq_uri(connection)
