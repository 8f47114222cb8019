"""`columns:` leaves columns out, hashes them or reads them as text."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from include.errors import ConfigError, TerminalError, TransientError
from include.postgres.sessions import lock_table, pin, snapshot
from tests.conftest import Postgres
from tests.include.conftest import Pipeline


@pytest.fixture
def people(pipeline: Pipeline) -> Pipeline:
    pipeline.app.execute(
        "create table people (id int primary key, email text, phone varchar(20), born date,"
        " u timestamptz default now());"
        "insert into people values (1, 'a@x', '12', '2000-01-01'),"
        " (2, 'ä''s', '12', null), (3, null, null, null)"
    )
    return pipeline


def sha256(text: str, salt: str = "SALT") -> str:
    return hashlib.sha256((salt + text).encode()).hexdigest()


def test_an_omitted_column_never_reaches_the_warehouse(people: Pipeline) -> None:
    spec = people.spec("people", cursor="u", columns={"email": "omit"})
    people.run(spec)
    assert people.raw("select count(*) from pg_attribute where attname = 'email'") == [(0,)]
    people.assert_same("id, phone, born", "people", "id")


def test_a_hashed_column_keeps_null_and_joins(people: Pipeline) -> None:
    people.run(people.spec("people", cursor="u", columns={"email": "hash", "phone": "hash"}))
    people.app.execute("update people set email = 'a@y', u = now() where id = 1")
    people.run(people.spec("people", cursor="u", columns={"email": "hash", "phone": "hash"}))
    hashes = people.raw("select email, phone from raw_shop.people order by id")
    assert hashes == [(sha256("a@y"), sha256("12")), (sha256("ä's"), sha256("12")), (None, None)]


def test_a_salt_never_shows_in_statements_or_logs(people: Pipeline, postgres: Postgres) -> None:
    people.app.execute("alter database {} set log_statement = 'all'".format(people.app.info.dbname))
    people.source.close()
    connection = psycopg.connect(people.source_dsn, options="-c elt.salt=PEPPER")
    people.source = pin(connection, read_only=True)
    people.run(people.spec("people", cursor="u", columns={"email": "hash"}))
    assert people.raw("select email from raw_shop.people where id = 1") == [(sha256("a@x", "PEPPER"),)]
    log = postgres.server.log_file.read_text()
    assert "current_setting('elt.salt'" in log and "PEPPER" not in log


@pytest.mark.parametrize("options", ["", "-c elt.salt="])
def test_without_a_salt_nothing_is_hashed_unless_the_entry_says_so(people: Pipeline, options: str) -> None:
    people.source.close()
    people.source = pin(psycopg.connect(people.source_dsn, options=options), read_only=True)
    with pytest.raises(
        ConfigError, match="'email' is hashed, and the connection shop has no salt.*or write `unsalted_hash`"
    ):
        people.run(people.spec("people", cursor="u", columns={"email": "hash"}))
    assert people.raw("select to_regclass('raw_shop.people')") == [(None,)]
    people.run(people.spec("people", cursor="u", columns={"email": "unsalted_hash"}))
    assert people.raw("select email from raw_shop.people where id = 1") == [(sha256("a@x", ""),)]


def test_a_hashed_key_identifies_its_row(people: Pipeline) -> None:
    people.app.execute("delete from people where email is null")
    spec = people.spec("people", key=["email"], cursor="u", columns={"email": "hash"}, deletes="soft")
    people.run(spec)
    people.app.execute("delete from people where id = 1; update people set phone = '13', u = now()")
    result = people.run(spec)
    assert (result.rows_inserted, result.rows_updated, result.rows_deleted) == (0, 1, 1)


def test_a_column_that_begins_to_be_hashed_is_hashed_in_every_row(people: Pipeline) -> None:
    people.app.execute("update people set u = now() - interval '1 day'")
    people.run(people.spec("people", cursor="u"))
    people.run(people.spec("people", cursor="u", columns={"email": "hash"}))
    assert people.raw("select email from raw_shop.people where id = 1") == [(sha256("a@x"),)]


def test_a_type_the_warehouse_lacks_is_read_as_text(pipeline: Pipeline) -> None:
    pipeline.app.execute(
        "create type mood as enum ('sad', 'it''s');"
        "create table x (id int primary key, m mood[], r regclass, u timestamptz);"
        "insert into x values (1, array['it''s', 'sad']::mood[], 'x', now()), (2, null, null, now())"
    )
    with pytest.raises(TerminalError, match="or write `columns: {name of the column: text}`"):
        pipeline.extract(pipeline.spec("x", cursor="u", columns={"r": "text"}))
    pipeline.run(pipeline.spec("x", cursor="u", columns={"m": "text", "r": "text"}))
    assert pipeline.raw("select m, r from raw_shop.x order by id") == [("{it's,sad}", "public.x"), (None, None)]


def test_an_unknown_column_is_named(pipeline: Pipeline) -> None:
    with pytest.raises(ConfigError, match="column 'emial' does not exist; it has id, amount, updated_at"):
        pipeline.extract(pipeline.spec(columns={"emial": "hash"}))


def test_a_table_truncated_as_a_role_of_single_columns_locks_it_is_read_again(pipeline: Pipeline) -> None:
    """To the snapshot of the query that locks, the table would be empty, and every row of raw deleted."""
    pipeline.insert(1, 2)
    role = f"columns_{pipeline.app.info.dbname}"
    pipeline.app.execute(f"create role {role} login; grant select (id, updated_at) on orders to {role}")
    reader = pin(psycopg.connect(pipeline.source_dsn, options=f"-c role={role}"), read_only=True)

    def lock() -> None:
        with snapshot(reader):
            lock_table(reader, "public", "orders")

    lock()
    waiting = "select count(*) from pg_locks where not granted and pid = %s"
    with psycopg.connect(pipeline.source_dsn) as application, ThreadPoolExecutor() as pool:
        application.execute("truncate orders")
        locking = pool.submit(lock)
        while pipeline.app.execute(waiting, (reader.info.backend_pid,)).fetchone() == (0,) and not locking.done():
            pass
        application.commit()
        with pytest.raises(TransientError, match="truncated or rewritten as it was about to be read"):
            locking.result()
    reader.close()
