"""The drill's own oracle has to be able to fail."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from include.sources import TableSpec
from tests.conftest import Postgres
from tests.drill import invariants
from tests.drill.attempt import statement_name
from tests.drill.proxy import Front, Proxy
from tests.drill.world import HERE

MARK = datetime(2026, 3, 1, 12, tzinfo=UTC)
SOURCE = [b"1\t0\t1.0\n", b"1\t1\t-1.0\n"]


def spec(**extract: Any) -> TableSpec:
    given = {"identifier": "t", "key": ["pair", "half"], "cursor": "updated_at"} | extract
    return TableSpec(source="shop", table="t", **given)


def test_equal_dumps_are_equal() -> None:
    assert invariants.differences(spec(), SOURCE, list(SOURCE)) == []


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (SOURCE[:1], "1 of 2 rows of the source are not in raw"),
        ([b"1\t0\t1.00\n", SOURCE[1]], "1 of 2 rows of the source are not in raw, 1 of raw not in the source"),
        ([*SOURCE, SOURCE[1]], "raw has a key twice"),
    ],
)
def test_a_row_that_is_missing_or_spelled_differently_or_there_twice_is_found(raw: list[bytes], problem: str) -> None:
    assert problem in invariants.differences(spec(), SOURCE, raw)[0]


def test_a_row_that_is_gone_from_the_source_may_stay_only_where_deletes_are_ignored() -> None:
    raw = [*SOURCE, b"2\t0\t5\n"]
    assert invariants.differences(spec(), SOURCE, raw) == []
    assert "1 of raw not in the source" in invariants.differences(spec(deletes="soft"), SOURCE, raw)[0]


def test_a_table_without_a_key_is_compared_with_its_duplicates() -> None:
    keyless = spec(key=[], cursor=None, mode="full")
    assert invariants.differences(keyless, SOURCE + SOURCE, SOURCE) != []


@pytest.mark.parametrize("raw", [{}, {b"1/0": 6}])
def test_a_row_committed_before_a_green_run_has_to_be_there(raw: dict[bytes, int]) -> None:
    promised = {b"1/0": 7}
    assert "a green run lost 1 rows" in invariants.lost_rows("t", promised, promised, raw)[0]
    assert invariants.lost_rows("t", promised, promised, {b"1/0": 8}) == []
    assert invariants.lost_rows("t", promised, {}, raw) == [], "deleted meanwhile"


def test_the_variable_may_not_be_above_the_ledger_nor_the_mark_go_back() -> None:
    later = MARK + timedelta(microseconds=1)
    assert invariants.mark_problems("t", MARK.isoformat(), [MARK, later], None) == []
    assert "above the ledger" in invariants.mark_problems("t", later.isoformat(), [MARK], None)[0]
    assert "above the ledger's nothing" in invariants.mark_problems("t", MARK.isoformat(), [], None)[0]
    assert invariants.mark_problems("t", later.isoformat(), [MARK], later.isoformat()) == [], "a person raised it"
    assert "went back" in invariants.mark_problems("t", None, [later, MARK], None)[0]


@pytest.fixture
def raw(postgres: Postgres) -> psycopg.Connection:
    """A warehouse under watch with two rows in raw, a pair."""
    connection = psycopg.connect(postgres.database(), autocommit=True)
    connection.execute((HERE / "sql" / "warehouse.sql").read_text())
    connection.execute(
        "create schema raw_shop; create table raw_shop.t (pair int, version int, amount int, _deleted_at date)"
    )
    connection.execute("insert into raw_shop.t values (1, 5, 10), (1, 5, -10)")
    return connection


@pytest.mark.parametrize(("version", "noted"), [(4, 2), (5, 0), (6, 0)])
def test_a_version_that_goes_back_is_noted(raw: psycopg.Connection, version: int, noted: int) -> None:
    raw.execute("update raw_shop.t set version = %s", (version,))
    assert raw.execute("select count(*) from drill.regressions").fetchone() == (noted,)


def test_half_of_a_pair_is_seen(raw: psycopg.Connection) -> None:
    broken = sql.SQL(invariants.BROKEN_PAIRS).format(sql.Identifier("raw_shop", "t"), sql.SQL(invariants.LIVE))
    assert raw.execute(broken).fetchone() == (None,)
    raw.execute("update raw_shop.t set amount = 11 where amount = 10")
    assert raw.execute(broken).fetchone() == ([1],)


def test_a_row_that_the_source_lost_is_a_phantom_unless_it_came_again() -> None:
    lost, raw = {b"1/0", b"2/0", b"3/0"}, {b"1/0": 4, b"2/0": 5, b"9/0": 1}
    (said,) = invariants.phantoms(spec(), lost, {b"2/0": 6}, raw)
    assert said == "raw shows 1 rows of t that the source had lost: 1/0"
    assert invariants.phantoms(spec(), lost, {b"1/0": 7, b"2/0": 6}, raw) == []


def test_a_step_has_one_name_for_every_table(raw: psycopg.Connection) -> None:
    names = {statement_name(raw, sql.SQL("copy {} from stdin").format(sql.Identifier("s", t))) for t in ("a", "b")}
    assert names == {"warehouse: copy … from stdin"}


def test_the_proxy_cuts_after_so_many_bytes() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=lambda: server.accept()[0].sendall(b"x" * 1000), daemon=True).start()
    proxy = Proxy(lambda: server.getsockname()[1])
    proxy.cut(after_bytes=300)
    with socket.create_connection(("127.0.0.1", proxy.port)) as client:
        received = b""
        with suppress(ConnectionResetError):
            while block := client.recv(1000):
                received += block
    assert len(received) <= 300


def test_a_front_leads_each_connection_to_the_server_of_its_moment() -> None:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    for name, server in zip((b"one", b"two"), servers):
        threading.Thread(target=_greet, args=(server, name), daemon=True).start()
    front = Front(servers[0].getsockname()[1])
    try:
        said = []
        for port in (*(server.getsockname()[1] for server in servers), 0):
            front.lead_to(port)
            with socket.create_connection(("127.0.0.1", front.port)) as client:
                said.append(client.recv(10))
        assert said == [b"one", b"two", b""]
    finally:
        front.close()


def _greet(server: socket.socket, name: bytes) -> None:
    with server.accept()[0] as client:
        client.sendall(name)
