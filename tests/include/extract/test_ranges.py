"""Tables in ranges on real servers: each row in exactly one, whatever is written, retried or killed in between."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql

from include.errors import ConfigError, TerminalError
from include.extract import ranges, table
from include.postgres.catalog import source_columns
from include.schema.rows import rows_of
from include.sources import TableSpec
from include.state import extractions
from include.state.messages import Batch, Part, Window
from tests.conftest import Postgres
from tests.include.conftest import Pipeline, between

ROWS = 1000
DIE = "select pg_terminate_backend(pg_backend_pid())"


@pytest.fixture
def spec(pipeline: Pipeline) -> TableSpec:
    """A thousand orders, to be read in five ranges."""
    pipeline.fill(ROWS)
    return pipeline.spec(rows_per_range=200)


def cut_in(pipeline: Pipeline, spec: TableSpec, number: int, **asked: Any) -> list[Part]:
    parts = pipeline.cut(spec, **asked)
    assert len(parts) == number
    return parts


def read_all(pipeline: Pipeline, spec: TableSpec, parts: list[Part]) -> list[Batch]:
    return [pipeline.read(spec, part) for part in parts]


def recorded(pipeline: Pipeline) -> list[tuple[int, int | None]]:
    return pipeline.raw("select number, rows_extracted from _elt.extraction_range order by number")


def test_ranges_together_are_the_table_and_become_raw(pipeline: Pipeline, spec: TableSpec) -> None:
    batches = read_all(pipeline, spec, cut_in(pipeline, spec, 5))
    assert all(100 < batch.rows_extracted < 300 for batch in batches)
    result = pipeline.load(spec, *batches)
    assert (result.mode, result.rows_extracted, result.rows_inserted) == ("first", ROWS, ROWS)
    pipeline.assert_equal()
    assert pipeline.raw("select conname from pg_constraint where conrelid = 'raw_shop.orders'::regclass")
    assert (pipeline.staging_tables(), recorded(pipeline)) == ([], [])
    assert pipeline.cut(spec)[0].ranges == 1, "a run from the watermark reads in one piece"


@pytest.mark.parametrize(
    ("columns", "key", "value"),
    [
        ("id int", ["id"], "n - 500"),
        ("id uuid", ["id"], "md5(n::text)::uuid"),
        ("id varchar(20)", ["id"], "md5(n::text)::varchar(20)"),
        ("id char(9)", ["id"], "'k' || n"),
        ("id bytea", ["id"], "decode(md5(n::text), 'hex')"),
        ("id timestamptz", ["id"], "'2026-03-29 00:00+00'::timestamptz + n * interval '1.000001 minutes'"),
        ("id numeric", ["id"], "case n when 1 then 'NaN' when 2 then '-Infinity' else (n - 500) / 7.0 end"),
        ("id float8", ["id"], "case n when 1 then 'NaN' when 2 then '-Infinity' else (n - 500) / 7.0 end"),
        ('tenant text, "my Id" int', ["tenant", "my Id"], "'t' || n % 2, n"),
        ("a int, b uuid, c date", ["a", "b", "c"], "1, md5((n / 9)::text)::uuid, '2026-01-01'::date + n"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_row_is_in_exactly_one_range(pipeline: Pipeline, columns: str, key: list[str], value: str) -> None:
    check_that_every_row_is_read_once(pipeline, columns, key, value)


def test_ranges_follow_a_collation_that_the_warehouse_lacks(system_postgres: Postgres, postgres: Postgres) -> None:
    """Of ICU, in which `a`, `A` and `á` follow an order of its own."""
    letters = "(array['a', 'A', 'á', 'ß', 'z', '_', ''''])[n % 7 + 1] || n"
    with between(system_postgres.database(), postgres.database()) as pipeline:
        pipeline.app.execute("create collation odd (provider = icu, locale = 'und-u-ks-level2', deterministic = false)")
        check_that_every_row_is_read_once(pipeline, "id text collate odd", ["id"], letters)


def check_that_every_row_is_read_once(pipeline: Pipeline, columns: str, key: list[str], value: str) -> None:
    quoted = ", ".join(f'"{name}"' for name in key)
    pipeline.app.execute(f"create table things ({columns}, primary key ({quoted}))")
    pipeline.app.execute(f"insert into things select {value} from generate_series(1, {ROWS}) n order by random()")
    pipeline.app.execute("analyze things")
    spec = pipeline.spec("things", key=key, cursor=None, mode="full", rows_per_range=100)
    batches = read_all(pipeline, spec, cut_in(pipeline, spec, 10))
    assert sum(batch.rows_extracted for batch in batches) == ROWS
    assert min(batch.rows_extracted for batch in batches) > 0
    pipeline.load(spec, *batches)
    pipeline.assert_same(quoted, "things", ", ".join(f'"{name}"::text collate "C"' for name in key))


def test_an_index_on_the_key_serves_a_range(pipeline: Pipeline, spec: TableSpec) -> None:
    columns = source_columns(pipeline.source, spec)
    query = rows_of(spec, columns, ranges.in_range(spec, columns, ["300"], ["310"]))
    assert "orders_pkey" in str(pipeline.source.execute(sql.SQL("explain {}").format(query)).fetchall())


@pytest.mark.parametrize(("rows", "frozen"), [(0, [True]), (200, [True]), (ROWS, [False, False])])
def test_a_small_table_is_one_range_and_takes_the_fast_path(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, rows: int, frozen: list[bool]
) -> None:
    """FREEZE needs a table that the same transaction has created, which ranges cannot share."""
    seen: list[bool] = []
    real = table.stream
    monkeypatch.setattr(table, "stream", lambda *_, freeze: (seen.append(freeze), real(*_, freeze=freeze))[1])
    pipeline.fill(rows)
    spec = pipeline.spec(rows_per_range=500)
    parts = cut_in(pipeline, spec, len(frozen))
    assert len(pipeline.staging_tables()) == (len(parts) > 1)
    pipeline.load(spec, *read_all(pipeline, spec, parts))
    assert seen == frozen
    pipeline.assert_equal()


def test_no_range_is_lost_from_the_bounds_of_any_sample(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample may be too small for as many ranges, or empty; the ranges are the whole table all the same."""
    pipeline.fill(20_000)
    monkeypatch.setattr(ranges, "SAMPLED_ROWS", 1)
    for seed in range(5):
        spec = pipeline.spec("orders", rows_per_range=random.Random(seed).choice((400, 2000, 9000)))
        batches = read_all(pipeline, spec, pipeline.cut(spec))
        assert sum(batch.rows_extracted for batch in batches) == 20_000


def test_more_ranges_than_the_limit_are_not_made(pipeline: Pipeline) -> None:
    assert ranges.count_for(pipeline.spec(rows_per_range=10), 10**9) == ranges.MOST_RANGES


def test_what_is_written_between_ranges_is_there_after_the_next_run(pipeline: Pipeline, spec: TableSpec) -> None:
    """Keys that move to ranges read before or still to be read, new rows, deletes, a late commit, a reload."""
    spec = spec.model_copy(update={"deletes": "soft"})
    late = psycopg.connect(pipeline.source_dsn)
    late.execute("update orders set amount = -1, updated_at = now() where id in (1, 999)")
    parts = cut_in(pipeline, spec, 5)
    batches = []
    for number, part in enumerate(parts):
        batches.append(pipeline.read(spec, part))
        pipeline.app.execute(f"insert into orders values (-{number}), ({ROWS} + 1 + {number}), (2000 + {number})")
        pipeline.app.execute("update orders set amount = amount + 1, updated_at = now() where id % 100 = 7")
        pipeline.app.execute(f"update orders set id = 3000 + id, updated_at = now() where id = 10 + {number}")
        pipeline.app.execute(f"update orders set id = id - 5000, updated_at = now() where id = 900 + {number}")
        pipeline.app.execute(f"delete from orders where id in (20 + {number}, 950 + {number})")
    late.commit()
    pipeline.app.execute("create temp table kept as table orders; truncate orders")
    pipeline.app.execute("insert into orders select * from kept where id <> 30")
    first = pipeline.load(spec, *batches)
    assert first.mark == parts[0].mark
    [rest] = pipeline.cut(spec)
    pipeline.load(spec, pipeline.read(spec, rest))
    pipeline.assert_equal()


def test_a_retry_after_a_lost_answer_stages_nothing_twice(pipeline: Pipeline, spec: TableSpec) -> None:
    """Killed after its commit and before it could say so: the retry finds its rows and gives the same answer."""
    parts = cut_in(pipeline, spec, 5)
    batches = read_all(pipeline, spec, parts)
    pipeline.app.execute("insert into orders values (-1)")
    assert read_all(pipeline.beside(), spec, parts) == batches
    pipeline.load(spec, *batches)
    assert pipeline.raw("select count(*) from raw_shop.orders") == [(ROWS,)]


def test_a_retry_of_a_single_range_stages_nothing_twice(pipeline: Pipeline) -> None:
    pipeline.fill(10)
    spec = pipeline.spec(rows_per_range=500)
    [part] = pipeline.cut(spec)
    assert pipeline.read(spec, part) == pipeline.beside().read(spec, part)


@pytest.mark.parametrize("rows_per_range", [200, 5000])
def test_of_two_attempts_at_once_one_waits_and_takes_the_others_answer(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch, spec: TableSpec, rows_per_range: int
) -> None:
    spec = spec.model_copy(update={"rows_per_range": rows_per_range})
    parts = pipeline.cut(spec)
    waiting = "select 1 from pg_stat_activity where wait_event_type = 'Lock' and pid = %s"
    other, record = pipeline.beside(), extractions.record
    with ThreadPoolExecutor(1) as beside, monkeypatch.context() as patch:

        def slow(*args: Any) -> None:
            """Between the rows and the commit the other attempt comes, and has to wait."""
            patch.undo()
            answers.append(beside.submit(other.read, spec, parts[-1]))
            with pipeline.connect_warehouse() as looking:
                while looking.execute(waiting, (other.warehouse.info.backend_pid,)).fetchone() is None:
                    assert not answers[0].done()
            record(*args)

        answers: list[Any] = []
        patch.setattr(extractions, "record", slow)
        first = pipeline.read(spec, parts[-1])
        assert answers[0].result() == first
    pipeline.load(spec, *read_all(pipeline, spec, parts[:-1]), first)
    pipeline.assert_equal()


def test_a_range_that_fails_is_read_again_alone(pipeline: Pipeline, spec: TableSpec) -> None:
    parts = cut_in(pipeline, spec, 5)
    batches = [pipeline.read(spec, part) for part in parts if part.number != 2]
    broken = pipeline.beside()
    with pytest.raises(psycopg.OperationalError):
        broken.source.execute(DIE)
    with pytest.raises(psycopg.OperationalError):
        broken.read(spec, parts[2])
    with pytest.raises(TerminalError, match="clear the table's cut task"):
        pipeline.load(spec, *batches)
    before = pipeline.raw("select number, snapshot_xmax from _elt.extraction_range where number <> 2 order by 1")
    batches.append(pipeline.read(spec, parts[2]))
    assert before == pipeline.raw(
        "select number, snapshot_xmax from _elt.extraction_range where number <> 2 order by 1"
    )
    pipeline.load(spec, *batches)
    pipeline.assert_equal()


def test_rows_of_an_attempt_that_died_are_not_loaded(pipeline: Pipeline, monkeypatch, spec: TableSpec) -> None:
    parts = cut_in(pipeline, spec, 5)
    dies = pipeline.beside()
    with monkeypatch.context() as patch, pytest.raises(psycopg.OperationalError):
        patch.setattr(extractions, "record", lambda connection, *_: connection.execute(DIE))
        dies.read(spec, parts[0])
    pipeline.load(spec, *read_all(pipeline, spec, parts))
    pipeline.assert_equal()


def test_a_shape_that_changed_since_the_cut_stops_the_range(pipeline: Pipeline, spec: TableSpec) -> None:
    parts = cut_in(pipeline, spec, 5)
    pipeline.read(spec, parts[0])
    pipeline.app.execute("alter table orders add column note text")
    with pytest.raises(TerminalError, match="columns .* changed .* clear the table's cut task"):
        pipeline.read(spec, parts[1])
    again = cut_in(pipeline, spec, 5)
    pipeline.load(spec, *read_all(pipeline, spec, again))
    pipeline.assert_equal("id, amount, updated_at, note")


def test_a_cleared_cut_leaves_the_answers_of_before_out(pipeline: Pipeline, spec: TableSpec) -> None:
    """Airflow may still hand over what ranges of the earlier cut returned."""
    old = read_all(pipeline, spec, cut_in(pipeline, spec, 5, run_id="r1"))
    wider = spec.model_copy(update={"rows_per_range": 500})
    new = read_all(pipeline, wider, cut_in(pipeline, wider, 2, run_id="r1"))
    pipeline.load(wider, *old, *new)
    pipeline.assert_equal()
    extractions.discard_leftovers(pipeline.warehouse, spec, lambda run_id: True)
    assert (pipeline.staging_tables(), recorded(pipeline)) == ([], [])


def test_a_range_that_is_cleared_after_the_load_says_what_to_clear(pipeline: Pipeline, spec: TableSpec) -> None:
    parts = cut_in(pipeline, spec, 5)
    batches = read_all(pipeline, spec, parts)
    result = pipeline.load(spec, *batches)
    with pytest.raises(TerminalError, match="is loaded, .* clear its cut task"):
        pipeline.read(spec, parts[3])
    assert pipeline.load(spec, *batches) == result
    pipeline.assert_equal()


def test_leftovers_of_dead_runs_are_removed_with_their_ranges(pipeline: Pipeline, spec: TableSpec) -> None:
    parts = cut_in(pipeline, spec, 5, run_id="dead")
    pipeline.read(spec, parts[0])
    extractions.discard_leftovers(pipeline.warehouse, spec, lambda run_id: run_id == "dead")
    assert (pipeline.staging_tables(), recorded(pipeline)) == ([], [])
    with pytest.raises(TerminalError, match="a later attempt has taken over"):
        pipeline.read(spec, parts[1])
    assert pipeline.staging_tables() == []


def test_full_mode_in_ranges_marks_rows_that_are_gone(pipeline: Pipeline, spec: TableSpec) -> None:
    spec = pipeline.spec(mode="full", deletes="soft", cursor=None, rows_per_range=200)
    pipeline.load(spec, *read_all(pipeline, spec, pipeline.cut(spec)))
    pipeline.app.execute("delete from orders where id in (1, 500, 1000)")
    result = pipeline.load(spec, *read_all(pipeline, spec, cut_in(pipeline, spec, 5)))
    assert (result.rows_deleted, result.rows_updated, result.rows_inserted) == (3, 0, 0)
    assert pipeline.raw("select id from raw_shop.orders where _deleted_at is not null order by id") == [
        (1,), (500,), (1000,),
    ]  # fmt: skip
    pipeline.assert_equal()


def overlap(pipeline: Pipeline, spec: TableSpec) -> tuple[list[Batch], Batch]:
    """A full refresh in ranges, and in the middle of it a run whose horizon lies there too.

    Order 1 changes after its range was read and before that run, order 1000 after that run and before its range.
    """
    pipeline.load(spec, *read_all(pipeline, spec, pipeline.cut(spec)))
    whole = Window("full", None, None, pipeline.horizon().at)
    parts = cut_in(pipeline, spec, 5, run_id="ranges", window=whole)
    batches = read_all(pipeline, spec, parts[:2])
    pipeline.app.execute("update orders set amount = 111, updated_at = now() where id in (1, 1000)")
    pipeline.app.execute("select pg_sleep(0.01)")
    beside = pipeline.beside()
    [part] = beside.cut(spec, run_id="between")
    between = beside.read(spec, part)
    pipeline.app.execute("update orders set amount = 222, updated_at = now() where id = 1000")
    return batches + read_all(pipeline, spec, parts[2:]), between


def changed(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    return pipeline.raw("select id, amount from raw_shop.orders where id in (1, 1000) order by id")


def test_a_run_in_the_middle_of_ranges_that_loads_first_keeps_its_rows(pipeline: Pipeline) -> None:
    pipeline.fill(ROWS)
    spec = pipeline.spec(overlap="0.001 seconds", rows_per_range=200)
    of_ranges, between = overlap(pipeline, spec)
    pipeline.load(spec, between)
    pipeline.load(spec, *of_ranges)
    assert changed(pipeline) == [(1, 111), (1000, 111)]
    [rest] = pipeline.cut(spec)
    pipeline.load(spec, pipeline.read(spec, rest))
    pipeline.assert_equal()


def test_a_run_in_the_middle_of_ranges_that_loads_last_has_to_read_again(pipeline: Pipeline) -> None:
    """It is newer than the range of order 1, and older than that of order 1000."""
    pipeline.fill(ROWS)
    spec = pipeline.spec(overlap="0.001 seconds", rows_per_range=200)
    of_ranges, between = overlap(pipeline, spec)
    pipeline.load(spec, *of_ranges)
    with pytest.raises(TerminalError, match="run ranges read it in ranges at the same time; clear .* cut task"):
        pipeline.load(spec, between)
    assert changed(pipeline) == [(1, 1), (1000, 222)]
    [again] = pipeline.cut(spec, run_id="between")
    pipeline.load(spec, pipeline.read(spec, again))
    pipeline.assert_equal()


def test_the_ledger_has_the_oldest_and_the_newest_snapshot_of_the_ranges(pipeline: Pipeline, spec: TableSpec) -> None:
    parts = cut_in(pipeline, spec, 5)
    batches = []
    for part in parts:
        batches.append(pipeline.read(spec, part))
        pipeline.app.execute("update orders set amount = amount + 1 where id = 1")
    pipeline.load(spec, *batches)
    found = pipeline.raw("select oldest_xmax, snapshot_xmax from _elt.load_ledger")
    assert found == [(batches[0].snapshot_xmax, batches[-1].snapshot_xmax)]
    assert batches[0].place < batches[-1].place


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ("alter table orders drop constraint orders_pkey, alter id drop not null", "key column 'id' lacks a NOT NULL"),
        ("alter table orders alter id type json using to_json(id)", "key column 'id' is json"),
        ("alter table orders rename to o; create view orders as table o", "it is no table"),
    ],
)
def test_what_cannot_be_cut_is_refused(pipeline: Pipeline, spec: TableSpec, change: str, problem: str) -> None:
    if "json" in change:
        pipeline.app.execute("alter table orders drop constraint orders_pkey")
    pipeline.app.execute(change)
    with pytest.raises(ConfigError, match=f"{problem}.*remove `rows_per_range:`"):
        pipeline.cut(spec)
    assert pipeline.raw("select count(*) from _elt.extraction") == [(0,)]


@pytest.mark.parametrize("reason", [{"key": [], "mode": "full"}, {"columns": {"id": "hash"}}])
def test_ranges_need_a_key_as_it_is(pipeline: Pipeline, reason: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="rows_per_range needs a `key:`"):
        pipeline.spec(**{"rows_per_range": 10} | reason)


def test_bounds_stay_in_the_warehouse(pipeline: Pipeline) -> None:
    """Keys are rows of the source: XComs, which anyone who sees the UI can read, carry none."""
    pipeline.app.execute("create table people (email text primary key)")
    pipeline.app.execute(f"insert into people select n || '@example.com' from generate_series(1, {ROWS}) n")
    spec = pipeline.spec("people", key=["email"], cursor=None, mode="full", rows_per_range=200)
    parts = pipeline.cut(spec)
    batches = read_all(pipeline, spec, parts)
    assert len(parts) > 1 and "example.com" not in str([each.to_json() for each in (*parts, *batches)])
    assert "example.com" in str(pipeline.raw("select lower_key from _elt.extraction_range where number = 1"))
