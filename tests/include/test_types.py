"""Every type and value that has to arrive exactly, through the first load, through the upsert, and as a key."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import psycopg
import pytest

from tests.conftest import Postgres
from tests.include.conftest import Pipeline, between
from tests.include.values import CONTRIB_VALUES, NO_ORDER, TYPES, VALUES

CASES = [(type_, value) for type_, values in VALUES.items() for value in values]
# Values of types that the embedded server lacks.
CONTRIB_CASES = [(type_, value) for type_, values in CONTRIB_VALUES.items() for value in values]
KEYS = [(type_, value) for type_, value in CASES + CONTRIB_CASES if type_ not in NO_ORDER and "repeat('l" not in value]

numbers = itertools.count(1)


@pytest.fixture(scope="module")
def embedded(postgres: Postgres) -> Iterator[Pipeline]:
    with between(postgres.database(), postgres.database()) as pipeline:
        for dsn in (pipeline.source_dsn, pipeline.warehouse_dsn):
            with psycopg.connect(dsn) as connection:
                connection.execute(TYPES)
        yield pipeline


@pytest.fixture(scope="module")
def contrib(system_postgres: Postgres) -> Iterator[Pipeline]:
    with between(system_postgres.database(), system_postgres.database()) as pipeline:
        for connection in (pipeline.app, pipeline.warehouse):
            for extension in ("hstore", "citext", "ltree"):
                connection.execute(f"create extension {extension} schema public")
        yield pipeline


@pytest.fixture
def pipeline(request: pytest.FixtureRequest, type_: str) -> Pipeline:
    return request.getfixturevalue("contrib" if type_ in CONTRIB_VALUES else "embedded")


@pytest.mark.parametrize(("type_", "value"), CASES + CONTRIB_CASES)
def test_a_value_arrives_exactly(pipeline: Pipeline, type_: str, value: str) -> None:
    table = f"t_{next(numbers)}"
    pipeline.app.execute(f"create table {table} (id int primary key, v {type_}, updated_at timestamptz default now())")
    pipeline.app.execute(f"insert into {table} values (1, {value}), (2, null), (3, null)")
    spec = pipeline.spec(table)
    assert pipeline.run(spec, run_id="first").rows_inserted == 3
    pipeline.assert_same("id, v", table, "id")

    pipeline.app.execute(f"update {table} set v = null, updated_at = now() where id = 1")
    pipeline.app.execute(f"update {table} set v = {value}, updated_at = now() where id = 2")
    assert pipeline.run(spec, run_id="upsert").rows_updated == 2
    pipeline.assert_same("id, v", table, "id")
    assert pipeline.run(spec, run_id="again").rows_updated == 0


@pytest.mark.parametrize(("type_", "value"), KEYS)
def test_a_value_identifies_its_row(pipeline: Pipeline, type_: str, value: str) -> None:
    table = f"t_{next(numbers)}"
    pipeline.app.execute(f"create table {table} (v {type_} primary key, n int, updated_at timestamptz default now())")
    pipeline.app.execute(f"insert into {table} values ({value}, 1)")
    spec = pipeline.spec(table, key=["v"])
    pipeline.run(spec, run_id="first")
    pipeline.assert_same("v, n", table, "v")

    pipeline.app.execute(f"update {table} set n = 2, updated_at = now()")
    result = pipeline.run(spec, run_id="upsert")
    assert (result.rows_inserted, result.rows_updated) == (0, 1)
    pipeline.assert_same("v, n", table, "v")


def test_a_key_is_compared_as_its_type_compares(contrib: Pipeline) -> None:
    contrib.app.execute("create table names (name citext primary key, n int, updated_at timestamptz default now())")
    contrib.app.execute("insert into names values ('a', 1), ('b', 1)")
    contrib.run(contrib.spec("names", key=["name"]))
    contrib.app.execute("update names set name = 'A', updated_at = now() where name = 'a'")
    result = contrib.run(contrib.spec("names", key=["name"]))
    assert (result.rows_inserted, result.rows_updated) == (0, 1)
    contrib.assert_same("name, n", "names", "name")


@pytest.mark.parametrize("key", ["ltree", "citext"])
@pytest.mark.parametrize("mode", ["full", "incremental"])
def test_deletes_are_found_by_keys_of_any_type(contrib: Pipeline, key: str, mode: str) -> None:
    """Also where pg_catalog has no operator for the type, or one that compares otherwise than the key does."""
    table = f"t_{next(numbers)}"
    contrib.app.execute(f"create table {table} (k {key} primary key, updated_at timestamptz not null default now())")
    contrib.app.execute(f"insert into {table} select ('a.' || n)::{key}, '2026-01-01' from generate_series(1, 2000) n")
    spec = contrib.spec(table, key=["k"], mode=mode, deletes="soft")
    contrib.run(spec)
    contrib.app.execute(f"delete from {table} where k = 'a.7'")
    contrib.app.execute(f"update {table} set k = 'A.8', updated_at = now() where k = 'a.8'")
    result = contrib.run(spec)
    gone = ["a.7"] if key == "citext" else ["a.7", "a.8"]
    assert result.rows_deleted == len(gone)
    assert contrib.raw(f"select array_agg(k::text order by 1) from raw_shop.{table} where _deleted_at is not null") == [
        (gone,)
    ]
    contrib.assert_equal("k, updated_at", table)


def test_every_listed_type_is_tried_with_at_least_120_values() -> None:
    print(f"{len(CASES)} values of {len(VALUES)} types, {len(KEYS)} as keys; {len(CONTRIB_CASES)} of extensions")
    assert len(CASES) >= 120
    assert len(set(CASES)) == len(CASES)
