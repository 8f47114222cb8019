"""A dbt variable of a run is declared, looks as declared, and gets into SQL as a literal alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk import DAG, Param

from include.dbt import variables as dbt_vars
from include.dbt.project import PROJECT_DIR
from include.errors import ConfigError
from include.orchestrate import dbt_tasks, parameters
from tests.include.orchestrate.test_parameters import asked

HOSTILE = [
    "10 minutes' from pg_authid; drop table marts.fct_sales; --",
    "1 hour\n; select 1",
    "1 hour\n",
    "1 hour'",
    "1 hour\\",
    "$$1 hour$$",
    "{{ env_var('DBT_ENV_SECRET_PASSWORD') }}",
    "1 hour; copy (select 1) to program 'id'",
    "",
]


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a declaration into a dbt_project.yml, or vars.yml, of the test's own."""

    def write(declared: Any, file: str = "dbt_project.yml") -> None:
        (tmp_path / "dbt_project.yml").write_text("name: elt")
        (tmp_path / file).write_text(yaml.safe_dump({"vars": {"form": declared}}))
        monkeypatch.setattr(dbt_vars, "PROJECT_DIR", tmp_path)

    return write


@pytest.mark.parametrize("value", HOSTILE)
def test_text_that_would_be_sql_is_refused_before_anything_runs(value: str) -> None:
    given = {"settling_time": value}
    with pytest.raises(ConfigError, match="parameter dbt_vars: settling_time is .* which is not .*pattern"):
        parameters.check(asked(dbt_vars=given))
    with pytest.raises(ValueError):
        Param({}, **dbt_vars.schema()).resolve(given)


@pytest.mark.parametrize("value", [10, None, True, ["1 hour"], {"a": "1 hour"}])
def test_another_type_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"is not \{.*\(type\)"):
        dbt_vars.check({"settling_time": value})


def test_what_is_as_declared_passes() -> None:
    dbt_vars.check({"settling_time": "2 hours"})
    assert Param({}, **dbt_vars.schema()).resolve({"settling_time": "2 hours"}) == {"settling_time": "2 hours"}
    parameters.check(asked(dbt_vars={}))
    parameters.check(asked())


def test_an_undeclared_variable_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="'surprise' is not declared; a run may set settling_time, further"):
        parameters.check(asked(dbt_vars={"surprise": 1}))


def test_a_task_that_is_cleared_looks_for_itself() -> None:
    """A person may change the parameters of a run before he clears one of its tasks."""
    with DAG("elt_pipeline", params={"dbt_vars": {}}):
        task = dbt_tasks.DbtRun(task_id="run", profile_config=None, project_dir=str(PROJECT_DIR), select="x")
    with pytest.raises(dbt_tasks.AirflowFailException, match="settling_time is"):
        task.execute({"params": {"dbt_vars": {"settling_time": HOSTILE[0]}}})


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({"type": "string"}, "lets every text pass; add a `pattern:` or an `enum:`"),
        ({}, "says nothing of its values"),
        ("text", "says nothing of its values"),
        ({"type": "strnig"}, "is no JSON schema"),
        ({"type": "string", "pattern": "("}, "is no JSON schema"),
    ],
)
def test_a_wrong_declaration_fails_alone_when_it_is_used(declare: Any, declared: Any, problem: str) -> None:
    declare({"wrong": declared, "right": {"type": "integer", "maximum": 9}})
    assert list(dbt_vars.schema()["properties"]) == ["right"]
    dbt_vars.check({"right": 9})
    with pytest.raises(ConfigError, match=f"vars: form: wrong:` {re.escape(problem)}"):
        dbt_vars.check({"wrong": "x"})


def test_variables_may_have_a_file_of_their_own(declare: Any) -> None:
    declare({"right": {"type": "integer"}, "wrong": {}}, file="vars.yml")
    assert list(dbt_vars.schema()["properties"]) == ["right"]
    with pytest.raises(ConfigError, match="^vars.yml: `vars: form: wrong:` says nothing of its values"):
        dbt_vars.check({"wrong": "x"})
    with pytest.raises(ConfigError, match="'other' is not declared; .* below `vars: form:` in vars.yml"):
        dbt_vars.check({"other": "x"})


@pytest.mark.parametrize("value", ["long", ["a"], 1, None])
def test_a_project_may_have_a_variable_of_that_name_for_itself(declare: Any, value: Any) -> None:
    declare(value)
    assert dbt_vars.schema()["properties"] == {}
    with pytest.raises(ConfigError, match="'form' is not declared; a run may set none"):
        dbt_vars.check({"form": "short"})


def test_dbt_is_the_one_to_say_that_a_file_is_no_yaml(declare: Any, tmp_path: Path) -> None:
    declare({})
    (tmp_path / "dbt_project.yml").write_text("name: [")
    assert dbt_vars.schema()["properties"] == {}


def pasted(sql: str) -> list[str]:
    """Variables that get into SQL otherwise than as a literal. In a condition or a configuration they do not."""
    text = re.sub(r"\{#.*?#\}", "", sql, flags=re.DOTALL)
    found = []
    for block in re.findall(r"\{\{.*?\}\}|\{%-?\s*(?:set|do|call|for|filter)\b.*?%\}", text, flags=re.DOTALL):
        rest = re.sub(r"\bliteral\(\s*(?:var|env_var)\([^()]*\)\s*\)|\bconfig\((?:[^()]|\([^()]*\))*\)", "", block)
        found += re.findall(r"\b(?:env_)?var\([^)]*\)", rest)
    return found


def test_no_model_pastes_a_variable_into_sql() -> None:
    files = [path for path in PROJECT_DIR.rglob("*.sql") if not {"target", "dbt_packages"} & set(path.parts)]
    assert len(files) > 15
    assert {str(path): found for path in files if (found := pasted(path.read_text()))} == {}


@pytest.mark.parametrize(
    "sql",
    [
        "select interval '{{ var(\"settling_time\") }}'",
        "select {{ var('n') }}",
        "{% set n = var('n') %} select {{ n }}",
        "{%- for each in var('names') %}{{ each }}{% endfor %}",
        "select {{ literal(var('n')) ~ var('m') }}",
    ],
)
def test_the_look_finds_what_is_pasted(sql: str) -> None:
    assert pasted(sql)


def test_the_look_lets_literals_and_conditions_pass() -> None:
    assert not pasted("{{ config(enabled=var('on')) }} {% if var('on') %} select {{ literal(var('n')) }} {% endif %}")
