"""What reading promises where the source is unusual: one test for each anomaly."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from structlog.testing import capture_logs

from include.batch import Window
from include.errors import TerminalError
from include.extract.horizon import WORTH_NAMING, read_horizon
from include.local.servers import EmbeddedPostgres
from include.sessions import pin
from tests.conftest import Postgres
from tests.include.conftest import Pipeline


@pytest.fixture
def standby(postgres: Postgres, folder: Path) -> Iterator[EmbeddedPostgres]:
    """A hot standby of the test server, made and started as an administrator would."""
    primary = postgres.server
    access = primary.data_dir / "pg_hba.conf"
    access.write_text("local replication postgres trust\n" + access.read_text())
    with psycopg.connect(primary.superuser_dsn("postgres"), autocommit=True) as connection:
        connection.execute("select pg_reload_conf()")
    server = EmbeddedPostgres(folder / "standby" / "data")
    server._make_private(server.data_dir.parent)
    command = [server._program("pg_basebackup"), "-D", server.data_dir, "-h", primary.socket_dir, "-U", "postgres"]
    command += ["-p", str(primary.port), "-R", "-X", "stream", "-c", "fast"]
    subprocess.run(command, check=True, capture_output=True, cwd="/", **server._identity)
    with server:
        yield server
        server.remove()


def test_a_hot_standby_is_refused_with_the_alternative(standby: EmbeddedPostgres) -> None:
    """It shows none of the primary's open transactions: its clock would be taken for a horizon."""
    with psycopg.connect(standby.superuser_dsn("postgres")) as connection:
        with pytest.raises(TerminalError, match="hot standby.*point AIRFLOW_CONN_SHOP at the primary"):
            read_horizon(pin(connection, read_only=True), "shop")


def test_a_row_level_policy_raises_instead_of_hiding_rows(pipeline: Pipeline) -> None:
    reader = f"reader_{pipeline.app.info.dbname}"
    pipeline.app.execute("insert into orders values (1, 1), (2, 2)")
    pipeline.app.execute(f"create role {reader}; grant select on orders to {reader}")
    pipeline.app.execute("alter table orders enable row level security; create policy half on orders using (id = 1)")
    pipeline.source.execute(f"set role {reader}")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        pipeline.extract(pipeline.spec(), horizon=pipeline.beside().horizon())
    assert pipeline.raw("select to_regclass('raw_shop.orders') is null") == [(True,)]


def test_a_missing_privilege_is_refused_with_the_grant(pipeline: Pipeline) -> None:
    reader = f"reader_{pipeline.app.info.dbname}"
    pipeline.app.execute(f"create role {reader}")
    pipeline.source.execute(f"set role {reader}")
    with pytest.raises(TerminalError, match='run on the source: grant select on "public"."orders" to'):
        pipeline.extract(pipeline.spec(), horizon=pipeline.beside().horizon())


def test_an_idle_transaction_holds_the_mark_and_is_named(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.extract.horizon.WORTH_NAMING", timedelta(0))
    assert WORTH_NAMING == timedelta(minutes=1)
    with psycopg.connect(pipeline.source_dsn + "&application_name=till") as idle:
        began = idle.execute("select now()").fetchone()[0]  # type: ignore[index]
        with capture_logs() as logs:
            horizon = pipeline.horizon()
        assert horizon.at == began
        assert horizon.held_by and f"pid {idle.info.backend_pid}" in horizon.held_by and "till" in horizon.held_by
        assert any("holds the watermark back" in entry["event"] for entry in logs)
        pipeline.app.execute("insert into orders values (1, 1)")
        assert pipeline.run(pipeline.spec()).rows_inserted == 1, "rows land although the mark waits"


def test_a_transaction_of_another_database_does_not_hold_the_mark(pipeline: Pipeline) -> None:
    with psycopg.connect(pipeline.warehouse_dsn) as elsewhere:
        elsewhere.execute("select now()")
        horizon = pipeline.horizon()
    assert horizon.at == horizon.read_at


@pytest.mark.parametrize("cursor", ["'infinity'", "now() + interval '1 year'"])
def test_a_cursor_in_the_future_lands_and_the_mark_stays_at_the_horizon(pipeline: Pipeline, cursor: str) -> None:
    pipeline.run(pipeline.spec())
    pipeline.app.execute(f"insert into orders values (1, 1, {cursor})")
    with capture_logs() as logs:
        result = pipeline.run(pipeline.spec())
    pipeline.assert_equal()
    assert result.mark is not None and result.mark <= pipeline.horizon().at
    assert [entry["rows"] for entry in logs if "cursor in the future" in entry["event"]] == [1]


def test_a_cursor_at_the_beginning_of_time_is_read_by_the_first_load(pipeline: Pipeline) -> None:
    pipeline.app.execute("insert into orders values (1, 1, '-infinity'), (2, 2, '4713-01-01 BC')")
    pipeline.run(pipeline.spec())
    pipeline.assert_equal()


def test_ties_on_the_mark_are_read(pipeline: Pipeline) -> None:
    """Two rows of one instant, the second of which commits after a run whose mark is that instant."""
    first = pipeline.run(pipeline.spec(overlap="1 second"))
    assert first.mark is not None
    pipeline.app.execute("insert into orders values (1, 1, %s), (2, 2, %s)", (first.mark, first.mark))
    pipeline.run(pipeline.spec())
    pipeline.assert_equal()


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
