"""A column that an entry leaves out or hashes after it was loaded: no clear value stays, or the run says where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from include.errors import ConfigError
from include.load import personal
from include.operate.erase import statements
from tests.conftest import Postgres
from tests.include.conftest import Pipeline

Roles = Callable[[str], psycopg.Connection]

CANARIES = ("Canary Clearwater", "canary.7f3a91@example.com", "Gone Goldfinch", "gone.5b1c@example.com")


@pytest.fixture
def people(least: Pipeline, roles: Roles) -> Iterator[Pipeline]:
    """People with canaries among them, one of them gone from the source, and what dbt has stored of all."""
    least.app.execute(
        "create table people (id int primary key, name text, email text, city text,"
        " updated_at timestamptz default now());"
        "insert into people select n, 'Person ' || n, n || '@example.com', 'Town' from generate_series(1, 200) n;"
        f"update people set name = '{CANARIES[0]}', email = '{CANARIES[1]}' where id = 7;"
        f"update people set name = '{CANARIES[2]}', email = '{CANARIES[3]}' where id = 8"
    )
    spec = least.spec("people", deletes="soft")
    least.run(spec)
    with roles("dbt_transformer") as dbt:
        dbt.execute(
            """
            create view staging.people as select id, name as full_name, email, city from raw_shop.people;
            create table snapshots.people as select * from staging.people;
            create table marts.dim_people as
                select id, full_name, lower(city) as city, email as mail from snapshots.people;
            create table dbt_test_failures.odd as select * from staging.people where id < 10;
            analyze
        """
        )
    least.app.execute("delete from people where id = 8")
    least.run(spec)
    yield least


def found(pipeline: Pipeline, roles: Roles) -> list[str]:
    """What the run would name as still holding values."""
    digests = personal.awaited(pipeline.warehouse)
    with roles("dbt_transformer") as dbt:
        return [str(each) for each in personal.holders(dbt, digests) + personal.holders(pipeline.warehouse, digests)]


def bytes_left(postgres: Postgres) -> list[str]:
    """Canaries in the files of the server's databases, after all that is dead was taken out."""
    with psycopg.connect(postgres.server.superuser_dsn("warehouse"), autocommit=True) as superuser:
        superuser.execute("analyze")  # or the statistics keep values of before
        superuser.execute("vacuum full")
        superuser.execute("checkpoint")
        row = superuser.execute("select oid from pg_database where datname = 'warehouse'").fetchone()
    assert row
    files = [path for path in (Path(postgres.server.data_dir) / "base" / str(row[0])).iterdir() if path.is_file()]
    assert len(files) > 100
    return [canary for canary in CANARIES for path in files if canary.encode() in path.read_bytes()]


def test_a_column_that_begins_to_be_left_out_leaves_nothing_behind(
    people: Pipeline, roles: Roles, postgres: Postgres
) -> None:
    assert set(bytes_left(postgres)) == set(CANARIES)  # the search can find
    spec = people.spec("people", deletes="soft", columns={"name": "omit", "email": "omit"})
    people.run(spec)
    assert people.raw("select count(*), count(name), count(email), count(city) from raw_shop.people") == [
        (200, 0, 0, 200)
    ]
    assert found(people, roles) == [
        "dbt_test_failures.odd.full_name (9 rows)",
        "dbt_test_failures.odd.email (9 rows)",
        "marts.dim_people.full_name (200 rows)",
        "marts.dim_people.mail (200 rows)",
        "snapshots.people.full_name (200 rows)",
        "snapshots.people.email (200 rows)",
    ]
    people.run(spec)  # a later run takes nothing for settled
    with roles("dbt_transformer") as dbt:
        message = personal.refusal(personal.holders(dbt, personal.awaited(people.warehouse)))
    with roles("warehouse_admin") as admin:
        for statement in message.split("(`make psql`): ")[1].split("; then clear")[0].split("; "):
            if statement.startswith("update"):
                admin.execute(statement)
    assert found(people, roles) == []
    personal.forget(people.warehouse, personal.awaited(people.warehouse))
    assert bytes_left(postgres) == []


def test_a_column_that_begins_to_be_hashed_leaves_no_clear_value(people: Pipeline, roles: Roles) -> None:
    people.run(people.spec("people", deletes="soft", columns={"email": "hash"}))
    rows = people.raw("select id, email ~ '^[0-9a-f]{64}$' from raw_shop.people where id in (7, 8) order by id")
    assert rows == [(7, True), (8, None)]  # the salt that would hash what is gone stays with the source
    assert [each for each in found(people, roles) if "email" in each or "mail" in each] == found(people, roles) != []


def test_incremental_models_learn_of_emptied_rows(people: Pipeline) -> None:
    [(before,)] = people.raw("select max(_loaded_at) from raw_shop.people")
    people.run(people.spec("people", deletes="soft", columns={"name": "omit"}))
    [(least_stamp,)] = people.raw("select min(_loaded_at) from raw_shop.people")
    assert least_stamp > before


def test_a_key_that_begins_to_be_hashed_takes_its_clear_rows_along(people: Pipeline) -> None:
    spec = people.spec("people", key=["email"], mode="full", columns={"email": "hash"})
    people.warehouse.execute("alter table raw_shop.people drop constraint people_pkey, add primary key (email)")
    people.run(spec)
    counts = "select count(*), count(*) filter (where email !~ '^[0-9a-f]{64}$') from raw_shop.people"
    assert people.raw(counts) == [(199, 0)]


def test_what_is_staged_by_another_run_is_found(people: Pipeline, roles: Roles) -> None:
    staged = people.extract(people.spec("people", mode="full"))
    people.run(people.spec("people", deletes="soft", columns={"name": "omit"}))
    assert f"_elt.staging_{staged.extraction_id}.name (199 rows)" in found(people, roles)


def test_nothing_is_looked_for_where_no_entry_changed(people: Pipeline, roles: Roles) -> None:
    people.run(people.spec("people", deletes="soft"))
    assert personal.awaited(people.warehouse) == [] == found(people, roles)
    people.run(people.spec("people", deletes="soft", columns={"city": "text"}))
    assert personal.awaited(people.warehouse) == []


def test_a_person_is_taken_out_by_the_statements_that_are_printed(
    people: Pipeline, roles: Roles, postgres: Postgres
) -> None:
    spec = people.spec("people", deletes="soft")
    people.warehouse.execute("create table raw_shop.letters (id int, to_email text)")
    people.warehouse.execute(f"insert into raw_shop.letters values (1, '{CANARIES[1]}'), (2, '9@example.com')")
    with roles("dbt_transformer") as dbt:
        lines = statements(people.warehouse, dbt, spec, ["7"])
    source, warehouse = "\n".join(lines).split("-- 2. ")
    people.app.execute(source)
    with roles("warehouse_admin") as admin:
        for line in warehouse.splitlines():
            if line.startswith("delete"):
                admin.execute(line.split(" -- ")[0])
    people.run(spec)
    assert set(bytes_left(postgres)) == set(CANARIES[2:])  # the other stays
    for table, rows in (("raw_shop.people", 199), ("snapshots.people", 199), ("raw_shop.letters", 1)):
        with roles("warehouse_admin") as admin:
            assert admin.execute(f"select count(*) from {table}").fetchone() == (rows,)


def test_a_person_who_is_not_there_is_one_sentence(people: Pipeline) -> None:
    with pytest.raises(ConfigError, match="shop.people: raw has no row with this key"):
        statements(people.warehouse, people.warehouse, people.spec("people"), ["777"])
    with pytest.raises(ConfigError, match="with the value of each of"):
        statements(people.warehouse, people.warehouse, people.spec("people"), ["7", "8"])


def test_what_is_printed_is_quoted(people: Pipeline) -> None:
    people.app.execute("update people set name = 'it''s; drop table x; --', updated_at = now() where id = 9")
    people.run(people.spec("people"))
    people.warehouse.execute("create table raw_shop.names as select name from raw_shop.people")
    lines = statements(people.warehouse, people.warehouse, people.spec("people"), ["9"])
    assert any("names" in line and "'it''s; drop table x; --'" in line for line in lines)
    key = "9' or true --"
    with pytest.raises(ConfigError, match="no row with this key"):
        statements(people.warehouse, people.warehouse, people.spec("people"), [key])
