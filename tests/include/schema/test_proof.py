"""Views: one goes by a cursor only where the catalog proves that its rows follow from rows of one table that has it."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest

from include.errors import ConfigError, TerminalError
from include.postgres.sessions import pin
from include.schema.proof import origin, unproven
from tests.conftest import Postgres
from tests.include.conftest import Pipeline

SCHEMA = """
    set search_path = public;
    create type mood as enum ('sad', 'happy');
    create table rates (currency text primary key, rate numeric, updated_at timestamptz not null default now());
    insert into rates values ('EUR', 2);
    create table orders_of (
        id bigint primary key, amount numeric, currency text default 'EUR', note text, tags int[], mood mood,
        place regclass, at date, updated_at timestamptz not null default now()
    );
    create table parted (like orders_of) partition by range (id);
    alter table parted drop place;
    create function rate_of(wanted text) returns numeric stable language sql
        as 'select rate from public.rates where currency = wanted';
    create function liar(wanted text) returns numeric immutable language sql
        as 'select rate from public.rates where currency = wanted';
    create function sly(wanted text) returns numeric immutable language plpgsql
        as $$ begin return public.liar(wanted); end $$;
    create function clock(n bigint) returns boolean immutable language sql
        as $$ select 'today'::date > '2020-01-01' $$;
    create function cents(amount numeric) returns bigint immutable language sql as 'select (amount * 100)::bigint';
    create function twice(amount numeric) returns numeric immutable language plpgsql
        as $$ begin return public.cents(amount) / 50.0; end $$;
    create function is_rated(text, text) returns boolean stable language sql
        as 'select exists (select from public.rates where currency in ($1, $2))';
    create operator === (function = is_rated, leftarg = text, rightarg = text);
"""

OF = "select id, amount, updated_at from orders_of"

PROVEN = [
    "select id, amount, currency, note, tags, mood, at, updated_at from orders_of",
    "select id, amount, updated_at from only orders_of order by amount",
    f"{OF} where currency = 'EUR' and amount > 3 and note like 'a%' and not (note is null) and currency in ('a', 'b')",
    "select id, case when amount > 3 then 'a' else 'b' end as c, coalesce(note, 'x') as n, greatest(amount, 3) as g, "
    "array[id] as a, tags[1] as t, nullif(note, '') as e, note is distinct from 'a' as d, note collate \"C\" as k, "
    "amount::int as i, id::text as s, amount > 2 is true as b, tags::text[] as ts, updated_at from orders_of",
    "select id, updated_at::date as day, date_trunc('month', updated_at) as month, updated_at + '1 day' as next, "
    "to_char(updated_at, 'TMMonth') as name, "
    "extract(year from updated_at) as y, 'a' || amount as x, concat(note, mood) as both, mood::text as m, "
    "to_jsonb(tags) as j, updated_at from orders_of "
    "where updated_at > '2020-01-01' and at >= updated_at - '1 day'::interval",
    "select id, cents(amount) as c, twice(amount) as t, updated_at from orders_of",
    "select id, updated_at as seen, created.updated_at from orders_of as created",
    'select id, updated_at, note as "{SUBLINK :funcid 1" from orders_of as "{QUERY :rtekind 1 :varattno 0 "',
    "select * from parted",
    f"{OF} where id between 1 and 9",
]

MORE = "is a view of more than the rows of one table"
CALLS = "is a view that calls"

UNPROVEN = [
    (f"{OF} where currency in (select currency from rates)", MORE),
    (f"{OF} o where exists (select from rates where rates.currency = o.currency)", MORE),
    ("select id, (select max(rate) from rates) as r, updated_at from orders_of", MORE),
    ("select id, array(select rate from rates) as r, updated_at from orders_of", MORE),
    ("select orders_of.*, rate from orders_of join rates using (currency)", MORE),
    ("select orders_of.* from orders_of, rates", MORE),
    ("select orders_of.* from orders_of left join rates using (currency)", MORE),
    ("select o.* from orders_of o, lateral (select rate from rates where currency = o.currency) r", MORE),
    (f"with r as (select * from rates) {OF} where currency = 'EUR'", MORE),
    (f"{OF} union all {OF}", MORE),
    ("select distinct id, updated_at from orders_of", MORE),
    ("select id, max(updated_at) as updated_at from orders_of group by id", MORE),
    ("select max(id) as id, max(updated_at) as updated_at from orders_of", MORE),
    ("select id, row_number() over () as n, updated_at from orders_of", MORE),
    (f"{OF} limit 10", MORE),
    (f"{OF} order by id offset 1", MORE),
    (f"{OF} for update skip locked", MORE),
    (f"{OF} tablesample system (50)", MORE),
    ("select id, unnest(tags) as tag, updated_at from orders_of", MORE),
    ("select n as id, now() as updated_at from generate_series(1, 3) n", MORE),
    ("select 1 as id, '2026-01-01'::timestamptz as updated_at", MORE),
    ("select * from (values (1, '2026-01-01'::timestamptz)) v (id, updated_at)", MORE),
    ("select id, o.ctid::text as c, updated_at from orders_of o", MORE),
    ("select id, tableoid, updated_at from orders_of o", MORE),
    ("select id, to_jsonb(o) as whole, updated_at from orders_of o", MORE),
    ("select id, note::date as day, updated_at from orders_of", MORE),
    (f"{OF} where (note || 'now')::timestamptz < updated_at", MORE),
    ("select id, note::mood as m, updated_at from orders_of", MORE),
    ("select id, place::text as p, updated_at from orders_of", MORE),
    ("select id, current_user::text as who, updated_at from orders_of", MORE),
    (f"{OF} where at < current_date", MORE),
    (f"{OF} where at < localtimestamp", MORE),
    (f"{OF} where updated_at < now()", rf"{CALLS} now\(\), which may look at more than the row"),
    (f"{OF} where updated_at < transaction_timestamp()", CALLS),
    (f"{OF} where updated_at < statement_timestamp() - '1 day'::interval", CALLS),
    (f"{OF} where updated_at < clock_timestamp()", CALLS),
    (f"{OF} where timeofday() > ''", CALLS),
    (f"{OF} where age(at) > '1 day'", CALLS),
    (f"{OF} where to_timestamp(extract(epoch from pg_postmaster_start_time())) > updated_at", CALLS),
    (f"{OF} where random() < 0.5", CALLS),
    (f"{OF} where current_setting('elt.tenant', true) is null", CALLS),
    (f"{OF} where pg_has_role('pg_monitor', 'member')", CALLS),
    ("select id, rate_of(currency) as r, updated_at from orders_of", rf"{CALLS} public.rate_of\(text\)"),
    ("select id, liar(currency) as r, updated_at from orders_of", rf"{CALLS} public.liar\(text\)"),
    ("select id, sly(currency) as r, updated_at from orders_of", CALLS),
    (f"{OF} where clock(id)", rf"{CALLS} public.clock\(bigint\)"),
    (f"{OF} where currency === 'EUR'", rf"{CALLS} public.is_rated\(text,text\)"),
    (f"{OF} where query_to_xml('select 1', true, true, '') is null", CALLS),
    ("select id, updated_at - '1 hour'::interval as updated_at from orders_of", "is a view that computes 'updated_at'"),
    ("select id, date_trunc('day', updated_at) as updated_at from orders_of", "is a view that computes 'updated_at'"),
    ("select id, coalesce(updated_at, at) as updated_at from orders_of", "is a view that computes 'updated_at'"),
    ("select id, updated_at from public.mat", "public.mat is a materialized view"),
]


@pytest.fixture
def views(pipeline: Pipeline) -> Pipeline:
    pipeline.app.execute(SCHEMA)
    pipeline.app.execute("create materialized view mat as table orders_of")
    return pipeline


@pytest.fixture(params=["embedded", "of the system"])
def server(request: pytest.FixtureRequest) -> Postgres:
    """PostgreSQL 18, and an older one, which writes the same query down in another way."""
    return request.getfixturevalue("postgres" if request.param == "embedded" else "system_postgres")


def test_what_the_catalog_proves_and_what_not(server: Postgres) -> None:
    with psycopg.connect(server.database(), autocommit=True) as app:
        app.execute(SCHEMA)
        app.execute("create materialized view mat as table orders_of")
        source = pin(psycopg.connect(app.info.dsn), read_only=True)
        source.execute("set quote_all_identifiers = on")
        for number, query in enumerate(PROVEN):
            app.execute(f"create view proven_{number} as {query}")
            assert unproven(source, "public", f"proven_{number}", "updated_at") is None, query
        for number, (query, said) in enumerate(UNPROVEN):
            app.execute(f"create view unproven_{number} as {query}")
            for name in (f"unproven_{number}", f"above_{number}"):
                found = unproven(source, "public", name, "updated_at")
                assert found and re.search(said, found.replace('"', "")), (query, found)
                app.execute(f"create or replace view above_{number} as table unproven_{number}")
        source.close()


def test_a_cursor_is_followed_to_its_table(views: Pipeline) -> None:
    views.app.execute("create view a as select id, updated_at as seen, at as updated_at from orders_of")
    views.app.execute('create view b as select id, updated_at as old, seen as "the Cursor" from a')
    assert origin(views.source, "public", "b", "the Cursor").cursor == "updated_at"
    assert origin(views.source, "public", "b", "old").cursor == "at"
    assert unproven(views.source, "public", "b", None) is None


FILL = "insert into orders_of (id, amount, updated_at) select n, n, '2026-01-01' from generate_series(1, 2000) n"


@pytest.mark.parametrize(
    ("view", "change"),
    [
        (
            "select orders_of.id, orders_of.amount * rates.rate as euros, orders_of.updated_at "
            "from orders_of join rates using (currency)",
            "update rates set rate = 3",
        ),
        (f"{OF} where currency in (select currency from rates)", "delete from rates"),
        ("select id, rate_of(currency) as rate, updated_at from orders_of", "update rates set rate = rate / 2"),
        (
            "select id, (select count(*) from rates) as n, updated_at from orders_of",
            "insert into rates values ('USD', 1)",
        ),
        (
            f"{OF} where updated_at < now() - '1 hour'::interval",
            "update orders_of set updated_at = '2020-01-01' where id = 1",
        ),
        (
            "select id, amount, date_trunc('year', updated_at) as updated_at from orders_of",
            "update orders_of set amount = 0",
        ),
    ],
)
@pytest.mark.parametrize("advice", ["soft", "full"])
def test_the_advice_of_a_refusal_does_what_it_says(views: Pipeline, view: str, change: str, advice: str) -> None:
    """`deletes: soft` compared keys and cursors alone: a joined value that changed stayed as it was."""
    views.app.execute(FILL)
    views.app.execute(f"create view v as {view}")
    with pytest.raises(ConfigError) as refused:
        views.extract(views.spec("v"))
    assert "add `deletes: soft` to `mode: incremental`" in str(refused.value)
    assert str(refused.value).endswith("or set `mode: full`")
    spec = views.spec("v", **({"deletes": "soft"} if advice == "soft" else {"mode": "full", "deletes": "soft"}))
    columns = ", ".join(
        column
        for (column,) in views.app.execute(
            "select attname from pg_attribute where attrelid = 'v'::regclass and attnum > 0 order by attnum"
        )
    )
    views.run(spec)
    views.assert_equal(columns, "v")
    views.app.execute(change)
    views.run(spec)
    views.assert_equal(columns, "v")
    views.app.execute("update rates set rate = 7; update orders_of set amount = 1 where id = 5")
    result = views.run(spec)
    views.assert_equal(columns, "v")
    if advice == "soft":
        assert result.mode == "incremental"


def test_of_whole_rows_too_only_buckets_that_differ_are_read_again(views: Pipeline) -> None:
    views.app.execute("insert into rates select n::text, n from generate_series(1, 20000) n")
    views.app.execute(FILL.replace("2000", "20000") + "; update orders_of set currency = id::text; analyze")
    views.app.execute(
        "create view v as select orders_of.id, rate, orders_of.updated_at from orders_of join rates using (currency)"
    )
    spec = views.spec("v", deletes="soft")
    views.run(spec)
    assert views.run(spec).rows_extracted == 0
    views.app.execute("update rates set rate = -1 where currency = '77'")
    result = views.run(spec)
    assert result.rows_updated == 1 and result.rows_extracted < 2000
    views.assert_equal("id, rate, updated_at", "v")


@pytest.mark.parametrize("rows", [True, False])
def test_a_partition_attached_beneath_a_view_with_older_rows_is_read(views: Pipeline, rows: bool) -> None:
    views.app.execute(
        "create table p1 partition of parted for values from (0) to (100);"
        "create table p2 (like parted); insert into p1 (id, updated_at) values (1, '2026-01-01');"
        "create view v as select id, amount, updated_at as seen, at::timestamptz as updated_at from parted;"
        "create view w as select * from v where id > 0"
    )
    if rows:
        views.app.execute("insert into p2 (id, updated_at, at) values (100, '2026-01-01', '2100-01-01')")
    spec = views.spec("w", cursor="seen")
    views.run(spec)
    views.app.execute("alter table parted attach partition p2 for values from (100) to (200)")
    assert views.run(spec).mode == ("full" if rows else "incremental")
    views.assert_equal("id, amount, seen", "w")
    views.app.execute("insert into p2 (id, updated_at) values (101, now())")
    assert views.run(spec).mode == "incremental"
    views.assert_equal("id, amount, seen", "w")


@pytest.mark.parametrize("kind", ["stored", "virtual"])
def test_an_expression_that_is_changed_beneath_a_view_is_read_whole(pipeline: Pipeline, kind: str) -> None:
    pipeline.app.execute(f"alter table orders add gross numeric generated always as (amount * 2) {kind}")
    pipeline.app.execute("insert into orders (id, amount, updated_at) values (1, 1, '2026-01-01')")
    pipeline.app.execute(
        "create view v as select id, gross + 1 as more, updated_at from orders; create view w as table v"
    )
    spec = pipeline.spec("w")
    pipeline.run(spec)
    pipeline.app.execute("alter table orders alter gross set expression as (amount * 3)")
    assert pipeline.run(spec).mode == "full"
    pipeline.assert_equal("id, more, updated_at", "w")
    assert pipeline.run(spec).mode == "incremental"


def test_labels_that_are_renamed_beneath_a_view_are_read_whole(views: Pipeline) -> None:
    views.app.execute("insert into orders_of (id, mood, updated_at) values (1, 'sad', '2026-01-01')")
    views.app.execute("create view v as select id, mood::text as mood, updated_at from orders_of")
    spec = views.spec("v")
    views.run(spec)
    views.app.execute("alter type mood rename value 'sad' to 'down'")
    assert views.run(spec).mode == "full"
    views.assert_equal("id, mood, updated_at", "v")


@pytest.mark.parametrize(
    "replaced",
    [
        "create or replace function cents(amount numeric) returns bigint immutable language sql "
        "as 'select (amount * 1000)::bigint'",
        "create or replace function twice(amount numeric) returns numeric immutable language plpgsql "
        "as $$ begin return -amount; end $$",
    ],
)
def test_a_function_that_is_replaced_behind_a_view_is_read_whole(views: Pipeline, replaced: str) -> None:
    """Itself, or one that its body calls."""
    views.app.execute("insert into orders_of (id, amount, updated_at) values (1, 1, '2026-01-01')")
    views.app.execute("create view v as select id, twice(amount) as t, updated_at from orders_of")
    spec = views.spec("v")
    views.run(spec)
    assert views.run(spec).mode == "incremental"
    views.app.execute(replaced)
    assert views.run(spec).mode == "full"
    views.assert_equal("id, t, updated_at", "v")
    assert views.run(spec).mode == "incremental"


BORROWED = [
    (
        "create function best(wanted text) returns numeric stable language sql as 'select max(rate) from rates'",
        "rates",
    ),
    (
        "create function helper(text) returns numeric immutable language sql as 'select 1.0';"
        "create function best(wanted text) returns numeric immutable language plpgsql "
        "as $$ begin return helper(wanted); end $$",
        "helper",
    ),
    (
        "create function never(text, varchar) returns boolean immutable language sql as 'select true';"
        "create operator = (function = never, leftarg = text, rightarg = varchar);"
        "create function best(wanted text) returns numeric immutable language sql "
        "as 'select case when wanted = ''EUR''::varchar then 1.0 else 2.0 end'",
        "=",
    ),
]


@pytest.mark.parametrize(("create", "name"), BORROWED)
@pytest.mark.parametrize("extract", [{"mode": "full"}, {"deletes": "soft"}])
def test_a_function_that_borrows_its_callers_search_path_is_named_with_the_remedy(
    views: Pipeline, create: str, name: str, extract: dict[str, Any]
) -> None:
    """`relation "rates" does not exist` said no more; and another operator gave other values, green."""
    views.app.execute(FILL.replace("2000", "3"))
    views.app.execute(create)
    views.app.execute("create view v as select id, best(currency) as rate, updated_at from orders_of")
    spec = views.spec("v", **extract)
    with pytest.raises(
        TerminalError, match=re.escape(f"public.best(text), which the view calls, says {name} ")
    ) as said:
        views.run(spec)
    views.app.execute(str(said.value).split("run on the source: ")[1])
    views.run(spec)
    ordinary = views.app.execute("select id, rate from v order by id").fetchall()
    assert views.raw("select id, rate from raw_shop.v order by id") == ordinary


def test_a_function_that_names_schemas_borrows_nothing(views: Pipeline) -> None:
    views.app.execute(
        "create view v as select id, twice(amount) as t, rate_of(currency) as r, updated_at from orders_of"
    )
    views.run(views.spec("v", mode="full"))
