"""The source is another server, or an earlier one, than a run or the ledger believes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from include.errors import TransientError
from include.local.servers import EmbeddedPostgres
from include.operate.plan import plan_table
from include.operate.reconcile import reconcile
from include.postgres.server import PARTS, Server, server_of
from include.postgres.sessions import pin
from include.sources import TableSpec
from tests import clusters
from tests.conftest import Postgres, SystemPostgres, system_programs
from tests.include.conftest import Pipeline, between

ROWS = 2_000
SCRIPT = """
    create table orders (id bigint primary key, amount numeric, updated_at timestamptz not null default now());
    create table events (id bigint primary key, amount numeric, updated_at timestamptz not null default now());
    create table notes (id bigint, amount numeric, updated_at timestamptz not null default now());
    create table whole (id bigint primary key, amount numeric, updated_at timestamptz not null default now());
"""
# Nothing writes the log out but a commit that asks for it, and what `clusters.lose` stops.
SETTINGS = {"fsync": "off", "bgwriter_lru_maxpages": "0", "shared_buffers": "32MB"}
TABLES = ("orders", "events", "notes", "whole")
KINDS = {"embedded": EmbeddedPostgres, "system": SystemPostgres}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[EmbeddedPostgres]:
    """Both ends of the versions at hand."""
    if request.param == "system":
        system_programs()
    return KINDS[request.param]


def new_cluster(kind: type[EmbeddedPostgres], folder: Path, name: str) -> EmbeddedPostgres:
    """With an empty database of the name that all have."""
    server = clusters.new_cluster(kind, folder, name, SETTINGS)
    with clusters.admin(server, "postgres") as connection:
        connection.execute(f"create database {clusters.DATABASE}")
    return server


def move_to(pipeline: Pipeline, server: EmbeddedPostgres) -> None:
    """The source's address leads to another server from now on."""
    for connection in (pipeline.app, pipeline.source):
        connection.close()
    pipeline.source_dsn = server.superuser_dsn(clusters.DATABASE)
    pipeline.app, pipeline.source = clusters.admin(server), pipeline.connect_source()


@pytest.fixture(scope="module")
def templates(folder: Path) -> dict[type[EmbeddedPostgres], EmbeddedPostgres]:
    """Clusters that were made once, of each kind that a test asked for: to copy one takes a tenth of the time."""
    return {}


@pytest.fixture
def primary(
    kind: type[EmbeddedPostgres], folder: Path, templates: dict[type[EmbeddedPostgres], EmbeddedPostgres]
) -> Iterator[EmbeddedPostgres]:
    if kind not in templates:
        templates[kind] = new_cluster(kind, folder, "template")
        templates[kind].stop()
    server = kind(clusters.place(folder, "primary"), clusters.free_port())
    subprocess.run(["cp", "-a", templates[kind].data_dir, server.data_dir], check=True)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def standby(kind: type[EmbeddedPostgres], primary: EmbeddedPostgres, folder: Path) -> Iterator[EmbeddedPostgres]:
    server = clusters.new_standby(kind, primary, folder, "standby")
    yield server
    server.remove()


@pytest.fixture
def pipeline(primary: EmbeddedPostgres, postgres: Postgres) -> Iterator[Pipeline]:
    """With four tables of old rows in the source, read once."""
    with between(primary.superuser_dsn(clusters.DATABASE), postgres.database()) as made:
        made.app.execute(SCRIPT)
        fill(made, 0)
        for spec in specs(made):
            made.run(spec)
        yield made


def fill(pipeline: Pipeline, amount: int) -> None:
    for table in TABLES:
        pipeline.app.execute(
            f"insert into {table} select n, n + {amount}, '2026-01-01'::timestamptz + n * interval '1 second' "
            f"from generate_series(1, {ROWS}) n"
        )
        pipeline.app.execute(f"analyze {table}")


def specs(pipeline: Pipeline, **extract: object) -> list[TableSpec]:
    """Every mode, with deletes ignored."""
    return [
        pipeline.spec("orders", **extract),
        pipeline.spec("events", mode="append"),
        pipeline.spec("notes", mode="full", key=[], cursor=None),
        pipeline.spec("whole", mode="full", cursor=None),
    ]


def change(connection: psycopg.Connection, *ids: int) -> None:
    """New rows in every table, and the first of the old ones changed where its mode follows."""
    for table in TABLES:
        for number in ids:
            connection.execute(f"insert into {table} values ({number}, {number})")
        if table != "events":
            connection.execute(f"update {table} set amount = -1, updated_at = now() where id = 1")


def run_all(pipeline: Pipeline) -> int:
    """A run of all tables; rows that it read of those that go by a cursor."""
    results = [pipeline.run(spec) for spec in specs(pipeline)]
    return sum(result.rows_extracted for result in results[:2])


def assert_equal(pipeline: Pipeline) -> None:
    for table in TABLES:
        pipeline.assert_equal(table=table)


def test_a_lagging_standby_in_mid_run_is_refused_whoever_meets_it(
    pipeline: Pipeline, primary: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    """The horizon was read on the primary: through a name that leads to both, fifty rows were passed for good."""
    spec, ranged = pipeline.spec(), pipeline.spec("whole", mode="full", cursor=None, rows_per_range=500)
    clusters.catch_up(primary, standby)
    with clusters.admin(standby) as connection:
        connection.execute("select pg_wal_replay_pause()")
    pipeline.insert(*range(ROWS + 1, ROWS + 51))
    horizon, parts = pipeline.horizon(), pipeline.cut(ranged)
    before = pipeline.raw("select max(mark), count(*) from _elt.load_ledger")
    move_to(pipeline, standby)
    for read in (
        lambda: pipeline.extract(spec, horizon=horizon),
        lambda: pipeline.cut(ranged, horizon=horizon),
        lambda: pipeline.read(ranged, parts[1]),
        lambda: reconcile(pipeline.source, pipeline.warehouse, spec),
    ):
        with pytest.raises(TransientError, match="source 'shop' is a standby here"):
            read()
    assert "is a standby here" in str(plan_table(pipeline.source, pipeline.warehouse, spec, horizon, None).problems)
    assert pipeline.raw("select max(mark), count(*) from _elt.load_ledger") == before
    move_to(pipeline, primary)
    assert pipeline.run(spec, horizon=horizon).rows_inserted == 50
    pipeline.load(ranged, *(pipeline.read(ranged, part) for part in parts))
    pipeline.assert_equal(table="whole")
    pipeline.assert_equal()


def test_a_standby_that_was_promoted_in_mid_run_is_another_server(
    pipeline: Pipeline, primary: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    spec, ranged = pipeline.spec(), pipeline.spec("whole", mode="full", cursor=None, rows_per_range=500)
    clusters.catch_up(primary, standby)
    horizon, parts = pipeline.horizon(), pipeline.cut(ranged)
    clusters.cut_off(standby)
    clusters.promote(standby)
    move_to(pipeline, standby)
    with pytest.raises(TransientError, match=r"another server \(.*timeline 2.*\(.*timeline 1.*clear shop.horizon"):
        pipeline.extract(spec, horizon=horizon)
    with pytest.raises(TransientError, match="another server"):
        pipeline.read(ranged, parts[0])
    # For good: the next run begins on it.
    assert pipeline.run(spec).rows_updated == 0
    pipeline.assert_equal()


@pytest.mark.parametrize("withheld", [False, True], ids=["all_is_known", "nothing_is_known"])
def test_what_a_promoted_standby_never_had_is_mended(
    pipeline: Pipeline, primary: EmbeddedPostgres, standby: EmbeddedPostgres, withheld: bool
) -> None:
    """Phantom rows and versions go, whatever `deletes` says; what was deleted before is kept as ever."""
    if withheld:
        for functions, *_ in PARTS.values():
            for name in functions:
                pipeline.app.execute(f"revoke execute on function {name} from public")
        pipeline.app.execute("create role reader login in role pg_read_all_data, pg_read_all_stats")
        move_to(pipeline, primary)
        pipeline.source.execute("set role reader")
        with capture_logs() as logs:
            pipeline.horizon()
        assert "nothing tells a source that was built anew" in str(logs)
    pipeline.app.execute("delete from orders where id = 7; delete from whole where id = 7")
    run_all(pipeline)
    clusters.catch_up(primary, standby)
    clusters.cut_off(standby)
    change(pipeline.app, 9001, 9002, 9003)
    run_all(pipeline)
    clusters.promote(standby)
    move_to(pipeline, standby)
    if withheld:
        pipeline.source.execute("set role reader")
    for table in TABLES:
        pipeline.app.execute(f"insert into {table} values (9002, 5)")
    with capture_logs() as logs:
        read = run_all(pipeline)
    assert ("its log went back" if withheld else "it is on timeline 2 and was on 1") in str(logs)
    assert read < ROWS, "hashes agree nearly everywhere: no reason to read all"
    if not withheld:
        assert pipeline.raw("select id from raw_shop.orders where _deleted_at is not null order by 1") == [
            (9001,),
            (9003,),
        ]
        assert pipeline.raw("select _deleted_at from raw_shop.orders where id = 7") == [(None,)]
        assert pipeline.raw("select _deleted_at from raw_shop.whole where id = 7") == [(None,)]
    pipeline.warehouse.execute("delete from raw_shop.orders where id = 7; delete from raw_shop.whole where id = 7")
    assert_equal(pipeline)
    # The sequence of keys went back as well: an append table's lost key comes again with another row.
    pipeline.app.execute("insert into events values (9003, 6)")
    with capture_logs() as logs:
        run_all(pipeline)
    assert "every row is compared" not in str(logs)
    pipeline.assert_equal(table="events")


def test_what_a_crash_took_after_it_was_read_is_mended(pipeline: Pipeline, primary: EmbeddedPostgres) -> None:
    """`synchronous_commit = off` in the source: read within the moment before the disk had it."""
    clusters.lose(primary, lambda connection: change(connection, 9001, 9002), lambda: run_all(pipeline))
    move_to(pipeline, primary)
    assert pipeline.app.execute("select count(*) from orders").fetchone() == (ROWS,), "the crash lost nothing"
    # Numbers and log are far beyond by the time of the next run.
    for _ in range(20):
        pipeline.app.execute("insert into orders values (-1, 0); delete from orders where id = -1")
    pipeline.app.execute("insert into events values (9002, 5)")
    run_all(pipeline)
    assert_equal(pipeline)


def test_a_quiet_restart_takes_no_row_away(pipeline: Pipeline, primary: EmbeddedPostgres) -> None:
    """Nothing can have been lost: every row is compared, and what `deletes: ignore` keeps is kept."""
    pipeline.app.execute("delete from orders where id = 7")
    pipeline.app.execute("checkpoint")
    run_all(pipeline)
    primary.stop()
    primary.start()
    move_to(pipeline, primary)
    with capture_logs() as logs:
        result = pipeline.run(pipeline.spec())
    assert "it was started anew" in str(logs)
    assert (result.rows_deleted, result.rows_updated, result.rows_inserted) == (0, 0, 0)
    assert pipeline.raw("select count(*) from raw_shop.orders where _deleted_at is null") == [(ROWS,)]


def test_a_disk_put_back_to_an_earlier_state_is_noticed_when_its_log_is_far_ahead_again(
    pipeline: Pipeline, primary: EmbeddedPostgres, folder: Path
) -> None:
    """Cluster and timeline are the same, and the numbers are larger than those of the loads that saw what is gone."""
    kept = folder / "kept"
    primary.stop()
    shutil.copytree(primary.data_dir, kept)
    primary.start()
    move_to(pipeline, primary)
    pipeline.app.execute("update orders set amount = -7, updated_at = now() where id < 5")
    run_all(pipeline)
    primary.stop()
    shutil.copytree(kept, primary.data_dir, dirs_exist_ok=True)
    shutil.rmtree(kept)
    primary.start()
    move_to(pipeline, primary)
    for _ in range(50):
        pipeline.app.execute("update orders set amount = 8, updated_at = now() where id = 8")
    run_all(pipeline)
    assert_equal(pipeline)


def test_a_source_made_anew_by_the_same_script_is_another_one(
    kind: type[EmbeddedPostgres], pipeline: Pipeline, folder: Path
) -> None:
    """The OIDs repeat, so it looks like the same tables; every row is another."""
    was = pipeline.app.execute("select 'orders'::regclass::oid").fetchone()
    rebuilt = new_cluster(kind, folder, "rebuilt")
    try:
        move_to(pipeline, rebuilt)
        pipeline.app.execute(SCRIPT)
        assert pipeline.app.execute("select 'orders'::regclass::oid").fetchone() == was
        for table in TABLES:
            pipeline.app.execute(
                f"insert into {table} select n, -n, '2025-01-01'::timestamptz from generate_series(1, 100) n"
            )
        with capture_logs() as logs:
            run_all(pipeline)
        assert "it is another one" in str(logs)
        assert_equal(pipeline)
    finally:
        for connection in (pipeline.app, pipeline.source):
            connection.close()
        rebuilt.remove()


def test_what_was_read_before_a_failover_does_not_replace_what_was_read_after(
    pipeline: Pipeline, primary: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    """The lost version has the larger transaction number."""
    spec = pipeline.spec()
    clusters.catch_up(primary, standby)
    clusters.cut_off(standby)
    change(pipeline.app, 9001)
    for _ in range(20):
        pipeline.app.execute("update orders set amount = -2, updated_at = now() where id = 2")
    slow = pipeline.extract(spec, run_id="slow")
    clusters.promote(standby)
    move_to(pipeline, standby)
    pipeline.app.execute("update orders set amount = 3, updated_at = now() where id = 2")
    fast = pipeline.extract(spec, run_id="fast")
    assert fast.snapshot_xmax < slow.snapshot_xmax
    pipeline.load(spec, fast)
    pipeline.load(spec, slow)
    pipeline.run(spec)
    pipeline.assert_equal()


def test_a_backfill_does_not_stand_for_the_comparison(pipeline: Pipeline, primary: EmbeddedPostgres) -> None:
    spec = pipeline.spec()
    clusters.lose(primary, lambda connection: change(connection, 9001), lambda: pipeline.run(spec))
    move_to(pipeline, primary)
    day = replace(pipeline.extract(spec).window, mode="window", mark=None)
    pipeline.run(spec, window=day)
    assert pipeline.raw("select is_of_one_server from _elt.load_ledger order by load_id desc limit 1") == [(False,)]
    pipeline.run(spec)
    pipeline.assert_equal()


def test_ranges_of_before_and_after_a_crash_are_compared_by_the_next_run(
    pipeline: Pipeline, primary: EmbeddedPostgres
) -> None:
    ranged = pipeline.spec("whole", mode="full", cursor=None, rows_per_range=500)
    parts = pipeline.cut(ranged)
    read = []
    clusters.lose(
        primary,
        lambda connection: connection.execute("insert into whole values (-5, 1)"),
        lambda: read.append(pipeline.read(ranged, parts[0])),
    )
    move_to(pipeline, primary)
    pipeline.load(ranged, *read, *(pipeline.read(ranged, part) for part in parts[1:]))
    pipeline.run(pipeline.spec("whole", mode="full", cursor=None))
    pipeline.assert_equal(table="whole")


BEFORE = Server("1", 5, 2, "2026-01-01", "0/2000", 100, None, is_durable=True)


@pytest.mark.parametrize(
    ("now", "said", "lost"),
    [
        ({"position": "0/2001", "next_xid": 101}, None, False),
        ({"system": "2"}, "another one", True),
        ({"database": 6}, "another one", True),
        ({"next_xid": 99}, "went back", True),
        ({"position": "0/1FFF"}, "went back", True),
        ({"started_at": "2026-01-02"}, "started anew", False),
        ({"timeline": 3}, "timeline 3", True),
        ({"timeline": 3, "recovered_to": "0/2000", "next_xid": 90}, "timeline 3", False),
        ({"timeline": 3, "recovered_to": "0/1FFF"}, "timeline 3", True),
        ({"timeline": 4, "recovered_to": "0/2000"}, "timeline 4", True),
        ({"system": None, "timeline": None, "started_at": None, "position": None}, None, False),
    ],
)
def test_what_a_server_says_against_what_was_seen_of_it(now: dict[str, object], said: str | None, lost: bool) -> None:
    server = replace(BEFORE, **now)  # type: ignore[arg-type]
    assert said in str(server.contradicts(BEFORE)) if said else server.contradicts(BEFORE) is None
    assert server.may_have_lost(BEFORE) is lost


def test_a_restart_may_have_lost_what_was_not_on_disk_when_it_was_read() -> None:
    assert replace(BEFORE, started_at="2026-01-02").may_have_lost(replace(BEFORE, is_durable=False))


def test_an_ordinary_session_knows_all(postgres: Postgres) -> None:
    with psycopg.connect(postgres.database()) as connection:
        server = server_of(pin(connection, read_only=True))
    assert server.unknown == [] and server.timeline == 1 and server.recovered_to is None
