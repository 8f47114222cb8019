"""The environment of a child process, and whose value a variable in it has."""

from __future__ import annotations

import json
import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from include.local import environment as env
from include.local.environment import Installation, libpq_uri
from include.local.errors import LocalError

OWN = "postgresql://me:pw@db.example:5432/mine"


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    (tmp_path / "postgres.port").write_text("5999")
    return Installation(tmp_path)


def test_each_side_has_a_role_of_its_own(here: Installation) -> None:
    made = env.connections(here, {})
    users = {name: uri.split("//")[1].split(":")[0] for name, uri in made.items()}
    assert users == {
        "AIRFLOW_CONN_SHOP": "shop_reader",  # sample shop
        "AIRFLOW_CONN_WAREHOUSE": "raw_loader",
        "AIRFLOW_CONN_WAREHOUSE_DBT": "dbt_transformer",
    }


def test_connections_of_the_user_win(here: Installation) -> None:
    made = env.connections(here, {"AIRFLOW_CONN_WAREHOUSE": "postgresql://me@dwh/w"})
    assert made["AIRFLOW_CONN_WAREHOUSE"] == made["AIRFLOW_CONN_WAREHOUSE_DBT"] == "postgresql://me@dwh/w"


def test_secrets_are_made_once_and_readable_by_their_owner_alone(here: Installation) -> None:
    assert here.secrets() == here.secrets()
    assert stat.S_IMODE((here.state / "credentials.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(env.write_shell_file(here, {"A": "b c"}).stat().st_mode) == 0o600
    assert "export A='b c'\n" in (here.state / "env").read_text()


def test_nothing_is_reported_home_and_nothing_shown_that_should_not_be(here: Installation) -> None:
    made = env.environment(here, {})
    assert made["AIRFLOW__CORE__LOAD_EXAMPLES"] == made["AIRFLOW__API__EXPOSE_CONFIG"] == "False"
    assert made["AIRFLOW__COSMOS__ENABLE_TELEMETRY"] == made["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] == "False"
    assert made["DBT_SEND_ANONYMOUS_USAGE_STATS"] == "false"


@pytest.mark.parametrize("value", ["many", "-1", "0", "1.5"])
def test_numbers(value: str) -> None:
    assert env.number({"ROWS": "7"}, "ROWS") == 7
    assert env.number({}, "ROWS", 3) == 3
    with pytest.raises(LocalError, match="ROWS is .*; write a whole number above zero"):
        env.number({"ROWS": value}, "ROWS")


def test_the_shell_wins_over_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("ROWS=1\nSEED=2\n")
    monkeypatch.setattr(env, "ROOT", tmp_path)
    monkeypatch.setenv("ROWS", "3")
    assert (env.user_environment()["ROWS"], env.user_environment()["SEED"]) == ("3", "2")


def test_another_projects_airflow_is_left_alone(here: Installation) -> None:
    theirs = {name: "/theirs" for name in env.PLACES}
    made = env.environment(here, theirs | {"AIRFLOW__CORE__PARALLELISM": "16", "PATH": "/bin"})
    assert not [name for name in env.PLACES if made[name] == "/theirs"]
    assert made["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == here.metadata.replace("postgresql", "postgresql+psycopg2")
    assert made["AIRFLOW__CORE__PARALLELISM"] == "16"
    assert made["PATH"].endswith("/.venv/bin:/bin")


def test_loopback_goes_through_no_proxy(here: Installation) -> None:
    made = env.environment(here, {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "intern.example"})
    assert made["NO_PROXY"] == made["no_proxy"] == "intern.example,127.0.0.1,localhost"
    assert env.environment(here, {})["no_proxy"] == "127.0.0.1,localhost"


def test_variables_of_a_sourced_shell_file_are_not_the_users_own(
    here: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = env.write_shell_file(here, env.environment(here, env.user_environment()))
    script = f". {shlex.quote(str(path))} && env -0"
    printed = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    sourced = dict(line.split("=", 1) for line in printed.split("\0") if line)
    assert "raw_loader" in sourced["AIRFLOW_CONN_WAREHOUSE"]
    for name, value in sourced.items():
        monkeypatch.setenv(name, value)
    assert "AIRFLOW_CONN_WAREHOUSE" not in env.user_environment()
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", OWN)
    assert env.user_environment()["AIRFLOW_CONN_WAREHOUSE"] == OWN


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        (OWN, OWN),
        ("postgres://h/db", "postgresql://h/db"),
        (
            OWN + "?sslmode=require&cursor=dictcursor&__extra__=%7B%22connect_timeout%22%3A+5%7D",
            OWN + "?connect_timeout=5",
        ),
        (
            json.dumps({"conn_type": "postgres", "host": "h", "schema": "d b", "login": "me@x", "password": "p@s/w"}),
            "postgresql://me%40x:p%40s%2Fw@h/d%20b",
        ),
        (
            json.dumps(
                {"conn_type": "postgres", "host": "h", "port": 1, "schema": "d", "extra": '{"sslmode":"allow"}'}
            ),
            "postgresql://h:1/d?sslmode=allow",
        ),
        (
            json.dumps({"conn_type": "postgres", "host": "h", "schema": "d", "extra": {"sslmode": "allow"}}),
            "postgresql://h/d?sslmode=allow",
        ),
    ],
)
def test_airflow_connections_as_libpq_uris(connection: str, expected: str) -> None:
    assert libpq_uri(connection) == expected


@pytest.mark.parametrize("connection", ["{bad", '{"conn_type": "postgres", "host": "h"}', "mysql://h/db", "h", "[1]"])
def test_what_is_no_postgres_connection_is_one_sentence(connection: str) -> None:
    with pytest.raises(LocalError, match="no PostgreSQL connection: write postgresql://"):
        libpq_uri(connection)
