"""What the page Pipeline health shows, read from real servers."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg

from include.operate import health
from include.postgres.sessions import pin
from include.state.messages import to_text
from tests.include.conftest import Pipeline


def read(pipeline: Pipeline, variable: str | None = None, loads: int = 1, **extract: Any) -> health.Table:
    with psycopg.connect(pipeline.warehouse_dsn) as connection:
        session, spec = pin(connection, read_only=True), pipeline.spec(**extract)
        return health.read_tables(session, [spec], {spec.watermark_key: variable}, loads)[0]


def test_before_the_first_run_there_is_nothing_to_show(pipeline: Pipeline) -> None:
    spec = pipeline.spec()
    assert health.read_tables(pipeline.warehouse, [spec], {}) == [health.Table(spec)]
    assert health.read_history(pipeline.warehouse, spec) == []
    assert health.committed_before(pipeline.warehouse, ["run_1"]) == {}


def test_a_table_is_shown_as_its_last_loads_left_it(pipeline: Pipeline) -> None:
    pipeline.insert(1, 2)
    pipeline.run(pipeline.spec())
    pipeline.insert(3)
    result = pipeline.run(pipeline.spec())
    found = read(pipeline, loads=5)
    assert result.mark is not None
    assert found.mark == found.settled == result.mark
    assert found.lag is not None and timedelta() < found.lag < timedelta(minutes=1)
    assert [(load.run_id, load.mode, load.rows_inserted) for load in found.loads] == [
        ("run_2", "incremental", 1),
        ("run_1", "first", 2),
    ]
    assert found.loads[0].bytes_extracted > 0 and found.loads[0].took > timedelta()
    assert (found.gaps, found.extractions) == ([], [])
    assert len(read(pipeline).loads) == 1


def test_the_variable_is_judged_by_the_rule_of_the_next_run(pipeline: Pipeline) -> None:
    pipeline.insert(1)
    mark = pipeline.run(pipeline.spec()).mark
    assert mark is not None
    pipeline.warehouse.execute("update _elt.load_ledger set watermark_published_at = now()")
    assert read(pipeline, to_text(mark)).difference is None
    assert read(pipeline, mark.isoformat().replace("+00:00", "Z")).difference is None
    assert read(pipeline, None).difference == "the ledger decides"
    assert "reads again from 2020-01-01T00:00:00" in str(read(pipeline, "2020-01-01T00:00:00Z").difference)
    assert "airflow variables delete watermark__shop__orders" in str(read(pipeline, "tomorrow").difference)


def test_a_table_that_is_read_whole_has_no_watermark_but_a_lag(pipeline: Pipeline) -> None:
    pipeline.insert(1)
    pipeline.run(pipeline.spec(mode="full"))
    found = read(pipeline, mode="full")
    assert found.mark is None and found.difference is None and found.lag is not None


def test_gaps_and_extractions_under_way_are_shown(pipeline: Pipeline) -> None:
    pipeline.insert(1, at="'2026-01-01'")
    pipeline.run(pipeline.spec())
    pipeline.warehouse.execute("update _elt.load_ledger set window_start = '2026-02-01'")
    pipeline.insert(2)
    pipeline.extract(pipeline.spec(), run_id="staged")
    found = read(pipeline)
    assert [(gap.lower, gap.upper.isoformat()) for gap in found.gaps] == [(None, "2026-02-01T00:00:00+00:00")]
    assert [(one.run_id, one.ranges, one.ranges_staged, one.rows_staged) for one in found.extractions] == [
        ("staged", 1, 1, 1)
    ]


def test_who_holds_the_watermark_back_is_named_from_the_first_second_on(pipeline: Pipeline) -> None:
    assert health.read_source(pipeline.source, "shop").holders == []
    with psycopg.connect(pipeline.source_dsn, application_name="a <clerk>") as clerk:
        clerk.execute("select 1")
        found = health.read_source(pipeline.source, "shop")
        assert [(one.holder, one.application_name, one.state) for one in found.holders] == [
            (f"pid {clerk.info.backend_pid}", "a <clerk>", "idle in transaction")
        ]
        assert found.horizon == found.holders[0].since and found.problem is None
    assert health.read_source(pipeline.source, "shop").holders == []


def test_a_prepared_transaction_is_named_at_once(pipeline: Pipeline) -> None:
    with psycopg.connect(pipeline.source_dsn) as writer:
        writer.execute("insert into orders values (1, 1)")
        writer.execute("prepare transaction 'half done'")
    (one,) = health.read_source(pipeline.source, "shop").holders
    pipeline.app.execute("rollback prepared 'half done'")
    assert one.holder == "prepared transaction 'half done'" and "commit prepared" in str(one.state)


def test_without_the_privilege_to_see_it_says_so(pipeline: Pipeline) -> None:
    pipeline.app.execute("drop role if exists blind")
    pipeline.app.execute("create role blind login")
    with psycopg.connect(pipeline.source_dsn, autocommit=True) as connection:
        connection.execute("set role blind")
        found = health.read_source(connection, "shop")
    pipeline.app.execute("drop role blind")
    assert "grant pg_read_all_stats" in str(found.problem) and found.horizon is None


def test_what_a_role_may_not_ask_of_the_source_is_named(pipeline: Pipeline) -> None:
    assert health.read_source(pipeline.source, "shop").not_known == []
    pipeline.app.execute("revoke execute on function pg_control_system() from public; drop role if exists curious")
    pipeline.app.execute("create role curious in role pg_read_all_stats")
    with psycopg.connect(pipeline.source_dsn, autocommit=True) as connection:
        connection.execute("set role curious")
        (said,) = health.read_source(pin(connection, read_only=True), "shop").not_known
    pipeline.app.execute("drop role curious")
    assert said == "pg_control_system(): nothing tells a source that was built anew from one that restarted"


def test_only_runs_that_read_up_to_their_horizon_have_a_latency(pipeline: Pipeline) -> None:
    spec, window = pipeline.spec(), health.watermark.Window("window", None, None, mark=None)
    pipeline.insert(1)
    horizon = pipeline.horizon()
    pipeline.run(spec, horizon=horizon)
    pipeline.run(spec, window=window, run_id="backfill")
    found = health.committed_before(pipeline.warehouse, ["run_1", "backfill", "none"])
    assert found == {"run_1": {"shop": horizon.at}}


def test_a_table_is_as_old_as_its_newest_load(pipeline: Pipeline) -> None:
    pipeline.insert(1)
    pipeline.run(pipeline.spec())
    pipeline.warehouse.execute("update _elt.load_ledger set loaded_at = now() - interval '12 days'")
    age = read(pipeline).age
    assert age is not None and timedelta(days=12) <= age < timedelta(days=12, minutes=1)


def test_freshness_is_judged_by_what_the_source_declares() -> None:
    declared = {"warn_after": {"count": 36, "period": "hour"}, "error_after": {"count": 3, "period": "day"}}
    limits = health.Limits.from_dbt(declared | {"filter": None})
    ages = (timedelta(hours=36), timedelta(hours=36, seconds=1), timedelta(hours=72, seconds=1))
    assert [limits.kind(age) for age in ages] == [None, "due", "stale"]
    assert (limits.of("due"), limits.of("stale")) == (timedelta(hours=36), timedelta(hours=72))
    for nothing in (None, {}, {"warn_after": {"count": None, "period": None}, "error_after": None}):
        assert health.Limits.from_dbt(nothing).kind(timedelta(days=999)) is None


def test_failing_rows_come_as_text_and_from_dbts_schema_alone(pipeline: Pipeline) -> None:
    pipeline.warehouse.execute("create schema dbt_test_failures; create table public.secret as select 1")
    pipeline.warehouse.execute(
        'create table dbt_test_failures."a ""test""" as '
        "select n as id, case n when 1 then repeat('x', 500) end as \"é\", "
        "'infinity'::timestamptz as at from generate_series(1, 21) n"
    )
    found = health.read_failing_rows(pipeline.warehouse, 'a "test"')
    assert found.columns == ["id", "é", "at"] and len(found.rows) == 20 and not found.is_all
    assert found.rows[0] == ("1", "x" * 200, "infinity") and found.rows[1][1] is None
    assert health.read_failing_rows(pipeline.warehouse, "secret") == health.FailingRows("secret")
    assert health.read_failing_rows(pipeline.warehouse, 'x" union select * from public.secret --').columns == ()
