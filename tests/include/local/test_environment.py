"""What the environment of a child process is made of."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from include.local import environment as env
from include.local.environment import Installation, libpq_uri
from include.local.errors import LocalError


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    (tmp_path / "postgres.port").write_text("5999")
    return Installation(tmp_path)


def test_each_side_has_a_role_of_its_own(here: Installation) -> None:
    made = env.connections(here, {})
    users = {name: uri.split("//")[1].split(":")[0] for name, uri in made.items()}
    assert users == {
        "AIRFLOW_CONN_SHOP": "shop_reader",
        "AIRFLOW_CONN_WAREHOUSE": "raw_loader",
        "AIRFLOW_CONN_WAREHOUSE_DBT": "dbt_transformer",
    }


def test_connections_of_the_user_win(here: Installation) -> None:
    made = env.connections(here, {"AIRFLOW_CONN_WAREHOUSE": "postgresql://me@dwh/w"})
    assert made["AIRFLOW_CONN_WAREHOUSE"] == made["AIRFLOW_CONN_WAREHOUSE_DBT"] == "postgresql://me@dwh/w"
    assert "shop_reader" in made["AIRFLOW_CONN_SHOP"]


def test_with_both_sides_given_no_server_is_needed() -> None:
    assert not env.needs_embedded_server({"AIRFLOW_CONN_SHOP": "a", "AIRFLOW_CONN_WAREHOUSE": "b"})
    assert env.needs_embedded_server({"AIRFLOW_CONN_SHOP": "a"})


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


def test_an_env_file(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# comment\n\nexport A = '1=2'\nB=\n")
    assert env.parse_env_file(path) == {"A": "1=2", "B": ""}
    path.write_text("A=1\nnonsense\n")
    with pytest.raises(LocalError, match=r"\.env line 2 is 'nonsense'; write KEY=VALUE"):
        env.parse_env_file(path)


@pytest.mark.parametrize("value", ["many", "-1", "0", "1.5"])
def test_numbers(value: str) -> None:
    assert env.number({"ROWS": "7"}, "ROWS") == 7
    assert env.number({}, "ROWS", 3) == 3
    with pytest.raises(LocalError, match="ROWS is .*; write a whole number above zero"):
        env.number({"ROWS": value}, "ROWS")


def test_connections_as_uri_and_as_json() -> None:
    assert libpq_uri("postgres://a:b@h:1/d?sslmode=require") == "postgresql://a:b@h:1/d?sslmode=require"
    given = {"conn_type": "postgres", "login": "a", "password": "p@/", "host": "h", "schema": "d"}
    assert libpq_uri(json.dumps(given)) == "postgresql://a:p%40%2F@h:5432/d"
    assert libpq_uri(json.dumps(given | {"extra": {"sslmode": "require"}})).endswith("/d?sslmode=require")
