"""Tables of every build: each arrives exactly, or stops with one sentence before anything is written."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from include.errors import ConfigError, TerminalError
from tests.conftest import Postgres
from tests.include.conftest import Pipeline, between

ODD_NAMES = [
    "UPPER Case",
    'quo"te',
    "apo'strophe",
    "per%cent %s %(x)s",
    "bra{ce}s {}",
    "back\\slash",
    "semi;colon--",
    "ünïcödé 数据 😀",
    "select",
    "user",
    "old",
    "new",
    "excluded",
    "t",
    "_underscore",
    "_loaded",
    "dot.ted",
    " ",
    "x" * 63,
    "ö" * 31,
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_of_table_key_cursor_and_column(pipeline: Pipeline, name: str) -> None:
    table, key, cursor, value = (sql.Identifier(name), *(sql.Identifier(f"{n}{name[1:]}") for n in ("k", "c", "v")))
    create = "create table {} ({} int primary key, {} timestamptz not null default now(), {} text, {} int)"
    names = (table, key, cursor, value, sql.Identifier(name))
    pipeline.app.execute(sql.SQL(create).format(*names))
    pipeline.app.execute(sql.SQL("insert into {} values (1, now(), 'a', 1), (2, now(), 'b', 2)").format(table))
    spec = pipeline.spec(name, key=[f"k{name[1:]}"], cursor=f"c{name[1:]}", deletes="soft")
    pipeline.run(spec)
    pipeline.app.execute(sql.SQL("update {} set {} = 'x', {} = 3 where {} = 1").format(table, value, names[4], key))
    pipeline.app.execute(sql.SQL("delete from {} where {} = 2").format(table, key))
    assert pipeline.run(spec).rows_updated == 1
    query = sql.SQL("select {}, {}, {} from {} where _deleted_at is null")
    living = query.format(key, value, names[4], sql.Identifier("raw_shop", name))
    assert pipeline.warehouse.execute(living).fetchall() == [(1, "x", 3)]


def test_a_column_that_begins_with_an_underscore_and_is_dropped_keeps_its_values(pipeline: Pipeline) -> None:
    pipeline.app.execute("alter table orders add _note text")
    pipeline.app.execute("insert into orders values (1, 1, now(), 'a')")
    pipeline.run(pipeline.spec())
    pipeline.app.execute("alter table orders drop _note")
    pipeline.app.execute("update orders set amount = 2")
    pipeline.run(pipeline.spec())
    assert pipeline.raw("select amount, _note from raw_shop.orders") == [(2, "a")]


def test_a_composite_key(pipeline: Pipeline) -> None:
    pipeline.app.execute("create table lines (a int, b text, n int, u timestamptz default now(), primary key (b, a))")
    pipeline.app.execute("insert into lines values (1, 'x', 1), (1, 'y', 1), (2, 'x', 1)")
    spec = pipeline.spec("lines", key=["a", "b"], cursor="u")
    pipeline.run(spec)
    pipeline.app.execute("update lines set n = 2 where b = 'x'")
    assert pipeline.run(spec).rows_updated == 2
    pipeline.assert_same("a, b, n", "lines", "a, b")


def test_a_table_of_nothing_but_its_key(pipeline: Pipeline) -> None:
    pipeline.app.execute("create table tags (a int, b int, primary key (a, b))")
    pipeline.app.execute("insert into tags values (1, 1), (1, 2)")
    spec = pipeline.spec("tags", key=["a", "b"], cursor=None, mode="full", deletes="soft")
    pipeline.run(spec)
    pipeline.app.execute("insert into tags values (3, 3)")
    result = pipeline.run(spec)
    assert (result.rows_inserted, result.rows_updated) == (1, 0)
    pipeline.assert_same("a, b", "tags", "a, b")


def test_a_partitioned_table_is_read_once_from_its_root(pipeline: Pipeline) -> None:
    pipeline.app.execute(
        "create table events (id int, at date, u timestamptz default now(), primary key (id, at))"
        " partition by range (at);"
        "create table events_1 partition of events for values from ('2026-01-01') to ('2026-02-01');"
        "create table events_2 (u timestamptz default now(), gone int, at date not null, id int not null);"
        "alter table events_2 drop gone;"
        "alter table events attach partition events_2 for values from ('2026-02-01') to ('2026-03-01');"
        "insert into events select n, date '2026-01-15' + n, now() from generate_series(1, 30) n"
    )
    spec = pipeline.spec("events", key=["id", "at"], cursor="u", deletes="soft")
    assert pipeline.run(spec).rows_inserted == 30
    pipeline.app.execute("update events set at = at + 1, u = now() where id = 16")
    pipeline.run(spec)
    pipeline.assert_equal("id, at, u", "events")


def test_a_table_with_children_is_read_once_from_its_root(pipeline: Pipeline) -> None:
    pipeline.app.execute("create table special (extra int, primary key (id)) inherits (orders)")
    pipeline.app.execute("insert into orders values (1, 1); insert into special values (2, 2)")
    assert pipeline.run(pipeline.spec()).rows_inserted == 2
    pipeline.assert_equal()


def test_generated_and_identity_columns_arrive_as_plain_ones(pipeline: Pipeline) -> None:
    pipeline.app.execute(
        "create table items (id bigint generated always as identity primary key, serial serial, price numeric,"
        " stored numeric generated always as (price * 1.19) stored,"
        " virtual numeric generated always as (price * 2) virtual, u timestamptz default now())"
    )
    pipeline.app.execute("insert into items (price) values (1.50), (2)")
    spec = pipeline.spec("items", cursor="u")
    pipeline.run(spec)
    pipeline.app.execute("update items set price = 3 where id = 2")
    pipeline.run(spec)
    pipeline.assert_same("id, serial, price, stored, virtual", "items", "id")
    special = "attgenerated <> '' or attidentity <> '' or atthasdef"
    query = f"select count(*) from pg_attribute where attrelid = 'raw_shop.items'::regclass and ({special})"
    assert pipeline.raw(query) == [(0,)]


def test_a_table_without_a_key_keeps_its_duplicates(pipeline: Pipeline) -> None:
    pipeline.app.execute("create table log (what text, n json)")
    pipeline.app.execute("""insert into log values ('a', '{"x": 1}'), ('a', '{"x": 1}'), (null, null)""")
    spec = pipeline.spec("log", mode="full", key=[], cursor=None)
    for change, inserted, deleted in (
        ("select 1", 3, 0),
        ("select 1", 0, 0),
        ("insert into log values ('a', '{\"x\": 1}'), (null, null)", 2, 0),
        ("delete from log where ctid in (select min(ctid) from log group by what)", 0, 2),
        ("update log set n = '{\"x\":1}'", 3, 3),
    ):
        pipeline.app.execute(change)
        result = pipeline.run(spec)
        assert (result.rows_inserted, result.rows_deleted) == (inserted, deleted)
        pipeline.assert_equal("what, n", "log")


def test_rows_without_a_key_that_stay_are_not_written_again(pipeline: Pipeline) -> None:
    """What a person added beside them went with every run."""
    pipeline.app.execute("create table log (what text); insert into log values ('a'), ('a'), ('b')")
    spec = pipeline.spec("log", mode="full", key=[], cursor=None)
    pipeline.run(spec)
    pipeline.warehouse.execute("alter table raw_shop.log add seen_by text; update raw_shop.log set seen_by = 'me'")
    pipeline.app.execute("update log set what = 'c' where what = 'b'")
    pipeline.run(spec)
    rows = "select what, seen_by, _run_id from raw_shop.log order by 1"
    assert pipeline.raw(rows) == [("a", "me", "run_1"), ("a", "me", "run_1"), ("c", None, "run_2")]


def test_an_empty_table(pipeline: Pipeline) -> None:
    result = pipeline.run(pipeline.spec())
    assert (result.rows_extracted, result.rows_inserted) == (0, 0)
    assert pipeline.raw("select count(*) from raw_shop.orders") == [(0,)]
    assert pipeline.run(pipeline.spec()).mode == "first"


@pytest.mark.parametrize("kind", ["view", "materialized view"])
def test_a_view_in_full_mode(pipeline: Pipeline, kind: str) -> None:
    pipeline.app.execute("insert into orders values (1, 1.50), (2, 2.50)")
    pipeline.app.execute(f"create {kind} big as select id, amount from orders where amount > 2")
    spec = pipeline.spec("big", mode="full", cursor=None)
    pipeline.run(spec)
    pipeline.app.execute("update orders set amount = 3")
    if kind == "materialized view":
        pipeline.app.execute("refresh materialized view big")
    pipeline.run(spec)
    pipeline.assert_same("id, amount", "big", "id")


def test_values_of_50_megabytes(pipeline: Pipeline) -> None:
    pipeline.app.execute("create table files (id int primary key, t text, b bytea, u timestamptz default now())")
    fill = "insert into files select 1, repeat('ab\\', 50000000 / 3), decode(repeat('00ff5c', 50000000 / 3), 'hex')"
    pipeline.app.execute(fill)
    spec = pipeline.spec("files", cursor="u")
    pipeline.run(spec)
    pipeline.app.execute("update files set t = 'x' || t")
    assert pipeline.run(spec).rows_updated == 1
    digest = "select octet_length(t), md5(t), octet_length(b), md5(b) from {} files"
    assert pipeline.raw(digest.format("raw_shop.")) == pipeline.app.execute(digest.format("")).fetchall()


def wide(columns: int) -> str:
    return ", ".join(f"c{n} int" for n in range(1, columns + 1))


def test_a_table_of_1597_columns(pipeline: Pipeline) -> None:
    pipeline.app.execute(f"create table wide (id int primary key, {wide(1596)})")
    pipeline.app.execute("insert into wide (id, c1, c1596) values (1, 1, 2)")
    spec = pipeline.spec("wide", mode="full", cursor=None)
    pipeline.run(spec)
    pipeline.app.execute("update wide set c700 = 3")
    assert pipeline.run(spec).rows_updated == 1
    pipeline.assert_same("id, c1, c700, c1596", "wide", "id")


@pytest.mark.parametrize(
    ("create", "error", "message"),
    [
        (f"create table x (id int primary key, {wide(1597)})", ConfigError, "1598 columns and the 3 that loading adds"),
        ("create table x ()", ConfigError, '"public"."x" has no column in database'),
        ("create table x (id int, _loaded_at text)", ConfigError, "'_loaded_at' is a name that loading adds; rename"),
        ("create table x (id int, r regclass)", TerminalError, "column 'r' names objects of the source's own database"),
        (
            "create type e as enum ('a'); create table x (id int, v e[])",
            TerminalError,
            r"create type public.e as enum \('a'\)",
        ),
        (
            "create domain d as numeric(5,2); create table x (id int, v d[])",
            TerminalError,
            r"create domain public.d as numeric\(5,2\)",
        ),
        (
            "create type c as (a int); create table x (id int, v c)",
            TerminalError,
            r"create type public.c as \(a integer\)",
        ),
        (
            "create extension vector; create table x (id int, v vector(3))",
            TerminalError,
            "create extension vector schema public",
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_what_cannot_be_loaded_stops_before_any_write(
    pipeline: Pipeline, create: str, error: type[Exception], message: str
) -> None:
    pipeline.app.execute(create)
    with pytest.raises(error, match=message) as raised:
        pipeline.extract(pipeline.spec("x", mode="full", cursor=None))
    assert "\n" not in str(raised.value)
    assert pipeline.raw("select (select count(*) from _elt.extraction), (select count(*) from _elt.load_ledger)") == [
        (0, 0)
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("(1, 'a', '{}'), (1, 'b', '{}')", r"key \['k'\] is not unique"),
        ("(null, 'a', '{}')", "key column 'k' holds NULL"),
    ],
)
def test_a_key_that_does_not_identify_rows_changes_nothing(pipeline: Pipeline, rows: str, message: str) -> None:
    pipeline.app.execute(f"create table x (k int, v text, j json); insert into x values {rows}")
    with pytest.raises(TerminalError, match=message):
        pipeline.run(pipeline.spec("x", key=["k"], mode="full", cursor=None))
    assert pipeline.raw("select to_regclass('raw_shop.x')") == [(None,)]


def test_a_key_without_an_order_is_named(pipeline: Pipeline) -> None:
    pipeline.app.execute("""create table x (j json); insert into x values ('{}')""")
    with pytest.raises(TerminalError, match=r"key \['j'\] cannot be indexed"):
        pipeline.run(pipeline.spec("x", key=["j"], mode="full", cursor=None))
    assert pipeline.raw("select to_regclass('raw_shop.x')") == [(None,)]


@pytest.mark.parametrize("taken", ["create table {} (id int)", "create view {} as select 1 as id"])
def test_a_name_that_is_taken_in_the_warehouse(pipeline: Pipeline, taken: str) -> None:
    pipeline.warehouse.execute("create schema raw_shop")
    pipeline.warehouse.execute(taken.format("raw_shop.orders"))
    with pytest.raises(ConfigError, match='"raw_shop"."orders" in the warehouse was not made by loading'):
        pipeline.extract(pipeline.spec())


def test_a_table_named_like_the_key_of_another(pipeline: Pipeline) -> None:
    pipeline.run(pipeline.spec())
    pipeline.app.execute("create schema other; create table other.orders_pkey (id int, updated_at timestamptz)")
    with pytest.raises(ConfigError, match="was not made by loading"):
        pipeline.extract(pipeline.spec("orders_pkey", schema="other"))


@pytest.fixture
def foreign(system_postgres: Postgres) -> Iterator[Pipeline]:
    with between(system_postgres.database(), system_postgres.database()) as pipeline:
        yield pipeline


def test_a_foreign_table_in_full_mode(foreign: Pipeline) -> None:
    info = psycopg.conninfo.conninfo_to_dict(foreign.warehouse_dsn)
    with psycopg.connect(foreign.warehouse_dsn) as other:
        other.execute("create table far (id int primary key, v text); insert into far values (1, 'a'), (2, null)")
    options = ", ".join(f"{name} '{info[name]}'" for name in ("host", "port", "dbname"))
    foreign.app.execute(
        f"create extension postgres_fdw; create server other foreign data wrapper postgres_fdw options ({options});"
        "create user mapping for current_user server other options (user 'postgres', password_required 'false');"
        "create foreign table far (id int, v text) server other options (schema_name 'public')"
    )
    spec = foreign.spec("far", mode="full", cursor=None)
    foreign.run(spec)
    assert foreign.run(spec).rows_extracted == 2
    foreign.assert_same("id, v", "far", "id")
