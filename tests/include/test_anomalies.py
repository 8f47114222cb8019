"""What a source can look like that would lose rows: each is refused, waited for or said, on real servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import pq, sql
from structlog.testing import capture_logs

from include.errors import ConfigError, TerminalError
from include.extract.horizon import read_horizon
from include.load import publish
from include.local.servers import EmbeddedPostgres
from include.operate import health
from include.operate.health import read_source
from include.postgres.sessions import pin
from include.state.messages import Horizon, Window, to_text
from tests.conftest import Postgres
from tests.include.conftest import Pipeline


@pytest.fixture
def standby(postgres: Postgres, folder: Path) -> Iterator[EmbeddedPostgres]:
    """A hot standby of the server, made as a person would make one."""
    primary, data_dir = postgres.server, folder / "standby"
    with (primary.data_dir / "pg_hba.conf").open("a") as file:
        file.write("local replication postgres trust\n")
    with psycopg.connect(primary.superuser_dsn("postgres"), autocommit=True) as connection:
        connection.execute("select pg_reload_conf()")
    data_dir.mkdir(mode=0o700)
    primary._make_private(data_dir)
    place = ("-h", str(primary.socket_dir), "-p", str(primary.port), "-U", "postgres")
    primary._run("pg_basebackup", "--write-recovery-conf", "--checkpoint=fast", *place, data_dir=data_dir)
    with EmbeddedPostgres(data_dir) as server:
        yield server
        server.remove()


def test_a_hot_standby_is_refused_with_the_alternative(standby: EmbeddedPostgres) -> None:
    with psycopg.connect(standby.superuser_dsn("postgres")) as connection:
        with pytest.raises(TerminalError, match="'shop' is a hot standby.* point AIRFLOW_CONN_SHOP at the primary"):
            read_horizon(pin(connection, read_only=True), "shop")


def test_a_session_that_sits_in_a_transaction_is_named_with_pid_application_and_age(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = psycopg.connect(pipeline.source_dsn, application_name="forgotten report")
    idle.execute("select 1")
    monkeypatch.setattr("include.extract.horizon.WORTH_NAMING", timedelta())
    with capture_logs() as logs:
        held_by = pipeline.horizon().held_by
    assert held_by is not None and held_by.startswith(f"pid {idle.info.backend_pid} (postgres, forgotten report), in a")
    assert any(line["log_level"] == "warning" and line.get("held_by") == held_by for line in logs)
    pipeline.app.execute("insert into orders values (1, 1)")
    pipeline.run(pipeline.spec())
    pipeline.assert_equal()
    idle.close()


def test_a_transaction_that_has_not_written_yet_holds_the_mark(pipeline: Pipeline) -> None:
    """It has no transaction number, and will still stamp its rows with its start."""
    late = psycopg.connect(pipeline.source_dsn)
    late.execute("select 1")
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(9)
    pipeline.run(spec)
    late.execute("insert into orders values (1, 1)")
    late.commit()
    pipeline.run(spec)
    pipeline.assert_equal()


def test_a_session_that_hides_its_transactions_is_refused_with_the_remedy(pipeline: Pipeline) -> None:
    """With `track_activities = off` it looks idle, and commits rows below a mark that did not wait for it."""
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(9)
    pipeline.run(spec)
    database = sql.Identifier(pipeline.app.info.dbname)
    pipeline.app.execute(sql.SQL("alter database {} set track_activities = off").format(database))
    late = psycopg.connect(pipeline.source_dsn)
    late.execute("insert into orders values (1, 1)")
    pid = late.info.backend_pid
    with pytest.raises(TerminalError, match=rf"pid {pid} \(postgres\): its track_activities is off") as raised:
        pipeline.run(spec)
    late.commit()
    remedy = str(raised.value).split("run there as superuser: ")[1].split(", and have it")[0]
    pipeline.app.execute(remedy)
    pipeline.app.execute("select pg_terminate_backend(%s, 10000)", (pid,))
    with psycopg.connect(pipeline.source_dsn) as again:
        assert again.execute("show track_activities").fetchone() == ("on",)
        pipeline.run(spec)
    pipeline.assert_equal()


def test_a_transaction_of_a_replication_session_holds_the_mark(pipeline: Pipeline) -> None:
    """`replication=database` takes plain SQL too, and no walsender shows since when it is in a transaction."""
    pipeline.insert(1)
    spec = pipeline.spec(overlap="0.001 seconds")
    first = pipeline.run(spec)
    session = pq.PGconn.connect(f"{pipeline.source_dsn}&replication=database".encode())
    for statement in (b"begin", b"insert into public.orders values (2, 2)"):
        assert session.exec_(statement).status == pq.ExecStatus.COMMAND_OK
    held_by = pipeline.horizon().held_by
    assert held_by is not None and held_by.startswith(
        f"pid {session.backend_pid} (postgres, no application name), in a"
    )
    assert pipeline.run(spec).mark == first.mark
    session.exec_(b"commit")
    session.finish()
    pipeline.run(spec)
    pipeline.assert_equal()


def test_a_session_that_replicates_does_not_hold_the_mark(pipeline: Pipeline) -> None:
    """Nor does it have to show what it does: it takes no SQL."""
    options = "replication=database&options=-ctrack_activities%3Doff"
    session = pq.PGconn.connect(f"{pipeline.source_dsn}&{options}".encode())
    [at] = pipeline.app.execute("select pg_current_wal_flush_lsn()").fetchone() or []
    assert session.exec_(f"START_REPLICATION PHYSICAL {at}".encode()).status == pq.ExecStatus.COPY_BOTH
    assert pipeline.horizon().may_advance
    session.finish()


@pytest.mark.parametrize("is_active", [False, True], ids=["idle", "active"])
def test_a_transaction_that_began_hidden_and_is_shown_since_holds_the_mark(pipeline: Pipeline, is_active: bool) -> None:
    """`track_activities` turned on in the middle of it, by SET or a reload: it has a state, and no start."""
    pipeline.insert(1, at="'2026-01-01'")
    spec = pipeline.spec(overlap="0.001 seconds")
    first = pipeline.run(spec)
    late = psycopg.connect(pipeline.source_dsn, autocommit=True)
    for statement in ("set track_activities = off", "begin", "insert into orders values (2, 2)"):
        late.execute(statement)
    late.execute("set track_activities = on")
    pipeline.app.execute("select pg_advisory_lock(1)")
    if is_active:
        late.pgconn.send_query(b"select pg_advisory_xact_lock(1)")
        waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted and pid = %s"
        while pipeline.app.execute(waits, (late.info.backend_pid,)).fetchone() != (1,):
            pass
    held_by = pipeline.horizon().held_by
    assert held_by is not None and held_by.endswith("in a transaction, since when is not shown")
    [holder] = read_source(pipeline.source, "shop").holders
    assert (holder.holder, holder.since) == (f"pid {late.info.backend_pid}", None)
    assert pipeline.run(spec).mark == first.mark
    pipeline.app.execute("select pg_advisory_unlock(1)")
    while late.pgconn.is_busy() or late.pgconn.get_result():
        late.pgconn.consume_input()
    late.execute("commit")
    pipeline.run(spec)
    pipeline.assert_equal()
    late.close()


@pytest.fixture
def unread(pipeline: Pipeline) -> Iterator[Callable[[str], psycopg.Connection]]:
    """Sends transactions as one message, and stops the server between two of them: it waits for us to read."""
    opened = []

    def send(statement: str) -> psycopg.Connection:
        state = "select wait_event = 'ClientWrite', xact_start is null from pg_stat_activity where pid = %s"
        for padding in range(len("BEGIN COMMIT") * 2):
            opened.append(client := psycopg.connect(pipeline.source_dsn, autocommit=True))
            answers = f"select repeat('x', {padding}); " + "begin; commit; " * 100_000
            client.pgconn.nonblocking = 0
            client.pgconn.send_query(f"{answers} begin; {statement}; commit".encode())
            while not (seen := pipeline.app.execute(state, (client.info.backend_pid,)).fetchone()) or not seen[0]:
                pass
            if seen[1]:
                return client
            client.close()
        raise AssertionError("no answer to a commit was the one that did not fit")

    yield send
    for each in opened:
        each.close()


def test_a_transaction_that_begins_later_in_the_same_message_holds_the_mark(
    pipeline: Pipeline, unread: Callable[[str], psycopg.Connection]
) -> None:
    """`psql -c` and drivers send several transactions at once: `now()` of each is when the message came."""
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(9)
    pipeline.run(spec)
    client = unread("insert into orders values (1, 1)")
    pipeline.run(spec)
    while client.pgconn.get_result():
        pass
    pipeline.run(spec)
    pipeline.assert_equal()


STAMPED_AT_THE_CALL = {
    "procedure": (
        """create procedure write() language plpgsql as $$ begin
            commit; perform pg_advisory_xact_lock(7); insert into orders values (1, 1, statement_timestamp());
        end $$""",
        "call write()",
    ),
    "block, and a time taken before it waits": (
        "select 1",
        """do $$ declare began timestamptz := clock_timestamp(); begin
            commit; perform pg_advisory_xact_lock(7); insert into orders values (1, 1, began);
        end $$""",
    ),
    "trigger, at the commit": (
        """create function stamp() returns trigger language plpgsql as $$ begin
            update orders set updated_at = statement_timestamp() where id = new.id; return null;
        end $$;
        create constraint trigger stamp after insert on orders deferrable initially deferred
        for each row execute function stamp();
        create procedure write() language plpgsql as $$ begin
            commit; insert into orders values (1, 1); perform pg_advisory_xact_lock(7);
        end $$""",
        "call write()",
    ),
}
"""What is made before, and what then writes order 1 in its second transaction, once lock 7 is free."""


@pytest.mark.parametrize("way", STAMPED_AT_THE_CALL)
def test_a_statement_that_commits_on_its_way_holds_the_mark_from_its_begin(pipeline: Pipeline, way: str) -> None:
    """After each inner COMMIT `xact_start` moves on; what it stamps with does not."""
    made, call = STAMPED_AT_THE_CALL[way]
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(9)
    pipeline.app.execute(made)
    pipeline.app.execute("select pg_advisory_lock(7)")
    client = psycopg.connect(pipeline.source_dsn, autocommit=True)
    client.pgconn.send_query(call.encode())
    waits = "select 1 from pg_locks where locktype = 'advisory' and not granted and pid = %s"
    while not pipeline.app.execute(waits, (client.info.backend_pid,)).fetchone():
        pass
    times = "select query_start, xact_start > query_start from pg_stat_activity where pid = %s"
    began = pipeline.app.execute(times, (client.info.backend_pid,)).fetchone()
    assert began is not None and began[1], "it has committed on its way"
    assert pipeline.run(spec).mark == began[0]
    query = health.statement("open_transactions").as_string().replace("interval '1 minute'", "interval '0'")
    [holder] = pipeline.source.execute(query).fetchall()
    assert (holder[0], holder[-1]) == (f"pid {client.info.backend_pid}", began[0]), "the page and the run say the same"
    pipeline.app.execute("select pg_advisory_unlock(7)")
    while client.pgconn.get_result():
        pass
    client.close()
    pipeline.run(spec)
    pipeline.assert_equal()


@pytest.fixture
def reader(pipeline: Pipeline) -> Iterator[Pipeline]:
    """The source read by a role that may see sessions, and nothing else."""
    name = f"reader_{pipeline.app.info.dbname}"
    pipeline.app.execute(f"create role {name}; grant pg_read_all_stats to {name}")
    pipeline.source.execute(f"set session authorization {name}")
    yield pipeline
    pipeline.source.close()
    pipeline.app.execute(f"drop owned by {name}; drop role {name}")


def test_a_role_that_may_not_read_a_table_is_refused_with_the_grant(reader: Pipeline) -> None:
    with pytest.raises(TerminalError, match='run on the source: grant select on "public"."orders" to') as raised:
        reader.extract(reader.spec())
    assert reader.raw("select count(*) from _elt.extraction") == [(0,)]
    role = f"reader_{reader.app.info.dbname}"
    reader.app.execute(f"{str(raised.value).split('run on the source: ')[1].rsplit(' to ', 1)[0]} to {role}")
    reader.run(reader.spec())


def test_a_row_level_policy_raises_instead_of_hiding_rows(reader: Pipeline) -> None:
    reader.app.execute("insert into orders values (1, 1), (2, 2)")
    reader.app.execute(f"grant select on orders to reader_{reader.app.info.dbname}")
    reader.app.execute("create policy few on orders using (id = 1); alter table orders enable row level security")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security policy"):
        reader.extract(reader.spec())
    assert reader.raw("select count(*) from _elt.load_ledger") == [(0,)]


def test_rows_on_the_mark_itself_are_read_again(pipeline: Pipeline) -> None:
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(9)
    mark = pipeline.run(spec).mark
    pipeline.app.execute("insert into orders values (1, 1, %s), (2, 2, %s)", (mark, mark))
    assert pipeline.run(spec).rows_inserted == 2


@pytest.mark.parametrize("cursor", ["infinity", "2999-01-01"])
def test_a_cursor_in_the_future_lands_and_does_not_pull_the_mark(pipeline: Pipeline, cursor: str) -> None:
    spec = pipeline.spec()
    pipeline.insert(2)
    pipeline.run(spec)
    pipeline.app.execute("insert into orders values (1, 1, %s)", (cursor,))
    with capture_logs() as logs:
        result = pipeline.run(spec)
    assert result.mark is not None and result.mark <= pipeline.horizon().read_at
    assert any(line["event"].startswith("rows carry a cursor in the future") and line["rows"] == 1 for line in logs)
    pipeline.assert_equal()
    pipeline.app.execute("update orders set amount = 2, updated_at = now()")
    pipeline.run(spec)
    pipeline.assert_equal()


def test_a_cursor_of_minus_infinity_arrives_with_the_first_load(pipeline: Pipeline) -> None:
    pipeline.app.execute("insert into orders values (1, 1, '-infinity')")
    pipeline.run(pipeline.spec())
    pipeline.assert_equal()


def test_a_reader_sees_raw_before_or_after_a_load_never_between(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = pipeline.spec(mode="full", key=[], cursor=None)
    pipeline.app.execute("insert into orders select n, n from generate_series(1, 100) n")
    pipeline.run(spec)
    pipeline.app.execute("delete from orders where id > 50")
    reader = pipeline.connect_warehouse()
    seen: list[int] = []

    def look(*_: object) -> None:
        seen.append(reader.execute("select count(*) from raw_shop.orders").fetchone()[0])

    batch = pipeline.extract(spec)
    record = publish._record
    monkeypatch.setattr(publish, "_record", lambda *given: (look(), record(*given)))
    pipeline.load(spec, batch)
    look()
    assert seen == [100, 50]


def test_a_source_clock_that_was_ahead_and_is_corrected_leaves_no_row_behind(pipeline: Pipeline) -> None:
    """What is stamped after the correction lies below the instant that the clock had shown."""
    spec = pipeline.spec(overlap="0.001 seconds")
    pipeline.insert(9)
    ahead, later = (pipeline.horizon().read_at + timedelta(seconds=seconds) for seconds in (3600, 1))
    with capture_logs() as logs:
        mark = pipeline.run(spec, horizon=Horizon(ahead, ahead)).mark
    [warning] = [line for line in logs if line["event"].startswith("the source's clock is ahead")]
    assert warning["source"] == to_text(ahead) and mark and warning["warehouse"] == to_text(mark)
    pipeline.insert(1)
    pipeline.run(spec, horizon=Horizon(later, later))
    pipeline.assert_equal()


FOREIGN = "create foreign data wrapper w; create server s foreign data wrapper w; create foreign table "
SUBSCRIBE = (
    "create subscription s connection 'COPIED' publication p"
    " with (enabled = false, create_slot = false, slot_name = none)"
)


@pytest.mark.parametrize(
    ("create", "filled"),
    [
        ("create materialized view t as table orders", "public.t is a materialized view"),
        ("create materialized view m as table orders; create view t as table m", "public.m is a materialized view"),
        (FOREIGN + "t (id bigint, updated_at timestamptz) server s", "public.t is a foreign table"),
        (
            "create table t (id bigint, updated_at timestamptz) partition by hash (id);"
            f"{FOREIGN} f partition of t for values with (modulus 1, remainder 0) server s",
            "public.f is a foreign table",
        ),
        (
            "create table r (id bigint primary key, updated_at timestamptz); create view t as table r;" + SUBSCRIBE,
            "public.r is filled by a subscription",
        ),
        (
            "create table r (id bigint primary key, updated_at timestamptz) partition by hash (id);"
            "create table t partition of r for values with (modulus 1, remainder 0);" + SUBSCRIBE,
            "public.t is filled by a subscription",
        ),
        (
            "create table c (id bigint primary key); create view t as select orders.* from orders join c using (id)",
            "public.t is a view of more than the rows of one table",
        ),
        (
            "create view t as select * from orders where updated_at < now()",
            r"public.t is a view that calls now\(\), which may .*",
        ),
    ],
    ids=[
        "materialized view",
        "view of one",
        "foreign",
        "partition",
        "subscription",
        "partition of one",
        "join",
        "clock",
    ],
)
@pytest.mark.parametrize("mode", ["incremental", "append"])
def test_a_cursor_of_rows_that_no_transaction_here_writes_is_refused(
    pipeline: Pipeline, create: str, filled: str, mode: str
) -> None:
    """They appear at a refresh, when another server's transaction or another table's row comes, or in time.

    Their cursors are some that a run has passed.
    """
    pipeline.warehouse.execute("create table public.r (id bigint); create publication p for table public.r")
    for statement in create.replace("COPIED", pipeline.warehouse_dsn).split(";"):
        pipeline.app.execute(statement)
    with pytest.raises(ConfigError, match=f"{filled}: .*add `deletes: soft`.*or set `mode: full`"):
        pipeline.extract(pipeline.spec("t", mode=mode))
    assert pipeline.raw("select count(*) from _elt.extraction") == [(0,)]


def test_a_materialized_view_whose_keys_are_compared_loses_no_row(pipeline: Pipeline) -> None:
    pipeline.insert(1)
    pipeline.app.execute("create materialized view recent as table orders")
    spec = pipeline.spec("recent", deletes="soft", overlap="0.001 seconds")
    pipeline.run(spec)
    pipeline.insert(2)
    pipeline.run(spec)
    pipeline.app.execute("refresh materialized view recent")
    assert pipeline.run(spec).rows_inserted == 1
    pipeline.assert_equal(table="recent")


@pytest.mark.parametrize(
    "how", ["alter table t attach partition u for values from (100) to (200)", "alter table u inherit t"]
)
@pytest.mark.parametrize("granted", [True, False])
def test_a_table_attached_with_older_rows_is_read(pipeline: Pipeline, how: str, granted: bool) -> None:
    """Filled beside the table, stamped below the mark, seen after it. One without older rows costs nothing."""
    attach = "attach" in how
    pipeline.app.execute(
        f"create table t (id bigint primary key, updated_at timestamptz not null) {'partition by range (id)' * attach};"
        f"create table first {'partition of t for values from (0) to (100)' if attach else '() inherits (t)'};"
        "create table u (like t including all);"
        "insert into first values (1, '2026-01-01'); insert into u values (100, '2026-01-01')"
    )
    spec = pipeline.spec("t")
    pipeline.run(spec)
    pipeline.app.execute("create role reader; grant pg_read_all_stats to reader; grant select on t to reader")
    try:
        pipeline.app.execute(how)
        if not granted:
            pipeline.source.execute("set session authorization reader")
        assert pipeline.run(spec).mode == "full"
        pipeline.source.execute("reset session authorization")
        pipeline.assert_equal("id, updated_at", "t")
        pipeline.app.execute(
            f"alter table {'t detach partition u' if attach else 'u no inherit t'};"
            f"insert into u values (101, '2026-01-01'); {how}"
        )
        assert pipeline.run(spec).mode == "full", "detached, filled and attached again"
        pipeline.assert_equal("id, updated_at", "t")
    finally:
        pipeline.source.execute("reset session authorization")
        pipeline.app.execute("drop owned by reader; drop role reader")
    pipeline.app.execute(
        "create table v partition of t for values from (200) to (300)" if attach else "create table v () inherits (t)"
    )
    assert pipeline.run(spec).mode == "incremental"


def test_a_cursor_that_rounds_needs_an_overlap_as_long(pipeline: Pipeline) -> None:
    """timestamptz(0) takes the nearest second: half a second before its transaction began."""
    pipeline.app.execute("create table t (id bigint primary key, updated_at timestamptz(0) not null default now())")
    with pytest.raises(ConfigError, match="which rounds: .* set `overlap: 1 second` or more"):
        pipeline.extract(pipeline.spec("t", overlap="0.5 seconds"))
    pipeline.run(pipeline.spec("t", overlap="1 second"))


def test_a_zone_is_refused_for_a_cursor_that_has_one(pipeline: Pipeline) -> None:
    """It moved the window by the zone's offset: what came in between was never read."""
    with pytest.raises(ConfigError, match="'updated_at' has a time zone of its own; remove `cursor_zone:`"):
        pipeline.extract(pipeline.spec(cursor_zone="Asia/Tokyo", overlap="1 hour"))


def test_a_transaction_of_another_database_does_not_hold_the_mark(pipeline: Pipeline) -> None:
    with psycopg.connect(pipeline.warehouse_dsn) as elsewhere:
        elsewhere.execute("select now()")
        horizon = pipeline.horizon()
    assert horizon.at == horizon.read_at


def test_a_cursor_without_a_zone_is_compared_in_the_declared_one(pipeline: Pipeline) -> None:
    """Writers stamp local time. The hour that comes twice in autumn is covered by the overlap."""
    pipeline.app.execute("create table local_times (id int primary key, updated_at timestamp not null)")
    pipeline.app.execute("set timezone to 'Europe/Berlin'")
    spec = pipeline.spec("local_times", cursor_zone="Europe/Berlin", overlap="1 hour")
    pipeline.app.execute("insert into local_times values (1, now() - interval '3 days'), (2, now())")
    pipeline.run(spec)
    pipeline.app.execute("insert into local_times values (3, now() - interval '30 minutes'), (4, now())")
    assert pipeline.run(spec).rows_inserted == 2
    pipeline.assert_equal("id, updated_at", "local_times")
    day = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
    window = Window("window", day - timedelta(days=1), day + timedelta(days=2), None)
    assert pipeline.extract(spec, window=window).rows_extracted == 1
