"""The schemas that an administrator makes for a project, and how they reach the script that does."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
import yaml

from include.dbt import project as dbt_project
from include.dbt import schemas
from tests.conftest import Postgres
from tests.projects import project

FILES = {
    "models/sources.yml": """
sources:
  - {name: shop, schema: raw_shop, tables: [{name: orders, config: {meta: {extract: {mode: full}}}}]}
  - {name: stripe, schema: fivetran, tables: [{name: charges}]}
""",
    "models/marts/fct.sql": "{{ config(schema='the marts & us') }} select * from {{ source('stripe', 'charges') }}",
    "dbt_project.yml": "{name: elt, profile: elt, on-run-start: select 1}",
}


@pytest.fixture(scope="module", autouse=True)
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with project(tmp_path_factory.mktemp("schemas"), FILES):
        yield


def test_they_are_those_that_something_is_made_in_and_where_hooks_are_the_profiles_own() -> None:
    profile = yaml.safe_load((dbt_project.PROJECT_DIR / "profiles.yml").read_text())[dbt_project.PROFILE]
    own = profile["outputs"][profile["target"]]["schema"]
    assert schemas.wanted() == {"elt.raw_schemas": ["raw_shop"], "elt.dbt_schemas": [own, f"{own}_the marts & us"]}


def test_any_name_reaches_the_server_in_its_options(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", schemas.as_options())
    with psycopg.connect(postgres.database()) as connection:
        row = connection.execute("select current_setting('elt.dbt_schemas'), current_setting('elt.raw_schemas')")
        assert row.fetchone() == ("analytics,analytics_the marts & us", "raw_shop")
