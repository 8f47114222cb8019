"""The embedded server through the accidents of a laptop, and what its roles may not do."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from include.local.databases import ROLES, provision
from include.local.errors import LocalError
from include.local.servers import EmbeddedPostgres


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(folder / "accidents", settings={"fsync": "off"})
    yield made.start()
    made.remove()


@pytest.fixture(scope="module")
def provisioned(server: EmbeddedPostgres) -> EmbeddedPostgres:
    for _ in range(2):  # rerunnable
        provision(server, dict.fromkeys(ROLES, "secret"))
    with psycopg.connect(server.dsn("shop_app", "secret", "shop")) as connection:
        connection.execute("create table if not exists things (id int primary key)")
    with psycopg.connect(server.dsn("raw_loader", "secret", "warehouse")) as connection:
        connection.execute("create table if not exists raw_shop.things (id int)")
    with psycopg.connect(server.dsn("dbt_transformer", "secret", "warehouse")) as connection:
        connection.execute("create table if not exists marts.things (id int)")
    return server


def test_starting_twice_is_harmless(server: EmbeddedPostgres) -> None:
    port = server.port
    assert server.start().port == port
    assert server.is_running()


def test_it_starts_again_after_kill_9(server: EmbeddedPostgres) -> None:
    pid = int((server.data_dir / "postmaster.pid").read_text().splitlines()[0])
    os.kill(pid, signal.SIGKILL)
    while server.is_running():
        pass
    server.start()
    with psycopg.connect(server.superuser_dsn("postgres")) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_an_interrupted_initdb_is_begun_again(folder: Path) -> None:
    half = folder / "half"
    (folder / "half.new").mkdir()
    (folder / "half.new" / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(half, settings={"fsync": "off"}) as made:
        assert made.is_running()
    made.remove()


def test_a_taken_port_is_one_sentence_or_another_port(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(LocalError, match=f"port {port} is in use by another program; choose another with PG_PORT="):
            EmbeddedPostgres(folder / "taken", port=port).start()
        (folder / "taken.port").write_text(str(port))
        with (folder / "taken.port").open() as read_meanwhile, EmbeddedPostgres(folder / "taken") as made:
            assert made.port != port
            assert read_meanwhile.read() == str(port)
        made.remove()


def test_superusers_come_through_the_socket_alone(server: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="rejects connection"):
        psycopg.connect(server.dsn("postgres", "", "postgres"))


def test_a_password_is_needed(provisioned: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(provisioned.dsn("shop_reader", "wrong", "shop"))


@pytest.mark.parametrize(
    ("role", "database", "statement"),
    [
        ("shop_reader", "shop", "insert into things values (1)"),
        ("shop_reader", "shop", "create table mine (id int)"),
        ("shop_reader", "shop", "create temporary table mine (id int)"),
        ("raw_loader", "warehouse", "select * from marts.things"),
        ("raw_loader", "warehouse", "create table marts.mine (id int)"),
        ("dbt_transformer", "warehouse", "insert into raw_shop.things values (1)"),
        ("dbt_transformer", "warehouse", "drop table raw_shop.things"),
        ("bi_reader", "warehouse", "select * from raw_shop.things"),
        ("bi_reader", "warehouse", "insert into marts.things values (1)"),
        ("bi_reader", "warehouse", "create schema mine"),
    ],
)
def test_what_a_role_must_not_do_fails(provisioned: EmbeddedPostgres, role: str, database: str, statement: str) -> None:
    with psycopg.connect(provisioned.dsn(role, "secret", database)) as connection:
        connection.read_only = False
        with pytest.raises(errors.InsufficientPrivilege):
            connection.execute(statement)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("role", "database", "statement"),
    [
        ("shop_reader", "shop", "select * from things"),
        ("dbt_transformer", "warehouse", "select * from raw_shop.things"),
        ("bi_reader", "warehouse", "select * from marts.things"),
        ("warehouse_admin", "warehouse", "update raw_shop.things set id = 1"),
    ],
)
def test_what_a_role_needs_works(provisioned: EmbeddedPostgres, role: str, database: str, statement: str) -> None:
    with psycopg.connect(provisioned.dsn(role, "secret", database)) as connection:
        connection.execute(statement)  # type: ignore[arg-type]


@pytest.mark.parametrize("database", ["shop", "warehouse"])
def test_nobody_enters_the_other_database(provisioned: EmbeddedPostgres, database: str) -> None:
    strangers = {"shop": ("raw_loader", "dbt_transformer", "bi_reader"), "warehouse": ("shop_reader", "shop_app")}
    for role in strangers[database]:
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(provisioned.dsn(role, "secret", database))
