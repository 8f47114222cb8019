"""The stream between two servers: both forms, and no end that only looks like one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from include.errors import StalledError
from include.extract.stream import BLOCK_BYTES, copy_format, stream
from include.postgres.sessions import pin
from tests.conftest import Postgres
from tests.drill.proxy import Proxy
from tests.include.conftest import Pipeline

STAGING = sql.Identifier("public", "staging")
ENDLESS = sql.SQL("select i::bigint as id, repeat('x', 200) as what from generate_series(1, 50000000) i")

AT_ONCE = sql.SQL("select generate_series(1, 50000000)::bigint as id, repeat('x', 200) as what")
"""The same, with its first row before its last is made."""


@pytest.fixture
def staging(pipeline: Pipeline) -> Pipeline:
    """The warehouse in the middle of the transaction that created a staging table."""
    pipeline.warehouse.execute("begin; create table public.staging (id bigint, what text)")
    return pipeline


def copy(pipeline: Pipeline, rows: sql.SQL, form: str = "binary") -> tuple[int, int]:
    copied = stream(pipeline.source, rows, pipeline.warehouse, STAGING, ["id", "what"], form)  # type: ignore[arg-type]
    return copied.rows, copied.bytes


@pytest.mark.parametrize("form", ["binary", "text"])
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_every_row_arrives_and_is_counted(staging: Pipeline, form: str, count: int) -> None:
    rows = sql.SQL(f"select i::bigint as id, repeat('x', 200) as what from generate_series(1, {count}) i")
    assert copy(staging, rows, form)[0] == count
    query = "select count(*), coalesce(sum(id), 0), coalesce(min(length(what)), 200) from public.staging"
    assert staging.raw(query) == [(count, count * (count + 1) // 2, 200)]


def test_a_value_larger_than_a_block_arrives(staging: Pipeline) -> None:
    size = 3 * BLOCK_BYTES
    assert copy(staging, sql.SQL(f"select 1::bigint as id, repeat('y', {size}) as what"))[1] > size
    assert staging.raw("select length(what) from public.staging") == [(size,)]


def test_two_streams_follow_each_other_in_one_transaction(staging: Pipeline) -> None:
    for number in (1, 2):
        assert copy(staging, sql.SQL(f"select {number}::bigint as id, 'x' as what"))[0] == 1
    assert staging.raw("select id from public.staging order by 1") == [(1,), (2,)]


def test_binary_only_where_both_servers_read_it_alike() -> None:
    assert copy_format(["bigint", "numeric[]", "timestamp with time zone"]) == "binary"
    for unsure in ("public.mood", "regclass", "public.citext", "xml", "record"):
        assert copy_format(["bigint", unsure]) == "text"


def test_what_the_source_refuses_is_its_own_error(staging: Pipeline) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        copy(staging, sql.SQL("select i::bigint as id, (1 / (i - 900))::text as what from generate_series(1, 9999) i"))


def test_what_the_warehouse_refuses_is_its_own_error(staging: Pipeline) -> None:
    staging.warehouse.execute("alter table public.staging add check (id < 900)")
    with pytest.raises(psycopg.errors.CheckViolation):
        copy(staging, sql.SQL("select i::bigint as id, 'x' as what from generate_series(1, 9999) i"))


@pytest.mark.parametrize("side", ["source", "warehouse"])
def test_a_server_that_hangs_up_in_the_middle_fails_the_stream(staging: Pipeline, side: str) -> None:
    """The source's end, above all, must not be taken for the end of the rows."""
    victim = getattr(staging, side).info.backend_pid
    with psycopg.connect(staging.source_dsn if side == "source" else staging.warehouse_dsn, autocommit=True) as killer:
        ended = threading.Event()

        def kill() -> None:
            moving = "select 1 from pg_stat_progress_copy where pid = %s and bytes_processed > 10000000"
            while not ended.is_set() and killer.execute(moving, (victim,)).fetchone() is None:
                pass
            killer.execute("select pg_terminate_backend(%s)", (victim,))

        thread = threading.Thread(target=kill)
        thread.start()
        try:
            with pytest.raises(psycopg.OperationalError):
                copy(staging, ENDLESS)
        finally:
            ended.set()
            thread.join()
    assert staging.source.closed, "a session in the middle of a COPY must not be used again"


@pytest.fixture
def behind(staging: Pipeline, postgres: Postgres) -> Iterator[Callable[[str], Proxy]]:
    """Puts a proxy between us and a side.

    Reset at the end, or the server's session would wait for its client for ever, and DROP DATABASE for that session.
    """
    proxies: list[Proxy] = []

    def put(side: str) -> Proxy:
        proxy = Proxy(lambda: postgres.server.port)
        proxies.append(proxy)
        admin = psycopg.connect(staging.source_dsn, autocommit=True)
        admin.execute("drop role if exists streamer; create role streamer login superuser password 'streamer'")
        dsn: dict[str, Any] = {**conninfo_to_dict(staging.source_dsn if side == "source" else staging.warehouse_dsn)}
        dsn |= {"host": "127.0.0.1", "port": proxy.port, "user": "streamer", "password": "streamer"}
        setattr(staging, side, pin(psycopg.connect(make_conninfo(**dsn)), read_only=side == "source"))
        if side == "warehouse":
            staging.warehouse.execute("begin; create table public.staging (id bigint, what text)")
        return proxy

    yield put
    for proxy in proxies:
        proxy.cut(after_bytes=0)


@pytest.mark.parametrize(("side", "what"), [("source", "sent"), ("warehouse", "taken")])
def test_a_proxy_that_keeps_a_dead_stream_open_is_given_up(
    staging: Pipeline, behind: Callable[[str], Proxy], monkeypatch: pytest.MonkeyPatch, side: str, what: str
) -> None:
    """The poll had no limit: nothing after 150 s, and no later run came past it."""
    staging.warehouse.rollback()
    proxy = behind(side)
    if side == "source":
        staging.warehouse.execute("begin; create table public.staging (id bigint, what text)")
    monkeypatch.setenv("ELT_STALL_MINUTES", "0.02")
    pid = getattr(staging, side).info.backend_pid
    proxy.hang(after_bytes=20_000_000)
    with pytest.raises(StalledError, match=rf"the {side} \(pid {pid}, .*\) has {what} nothing for 0.02 minutes"):
        copy(staging, AT_ONCE)
    assert getattr(staging, side).closed


def test_a_source_that_sends_slowly_is_left_alone(staging: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELT_STALL_MINUTES", "0.02")
    slow = "select i::bigint as id, repeat('x', 9000) || pg_sleep(0.3) as what from generate_series(1, 8) i"
    assert copy(staging, sql.SQL(slow))[0] == 8
