"""A session has what its connection asks for and what we pin, whatever role, database or pooler say, or is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from airflow.sdk import Connection
from psycopg import sql

from include.connecting import profile_variables
from include.errors import StalledError, TerminalError
from include.extract.stream import stream
from include.orchestrate import tasks
from include.postgres.sessions import asked_settings
from include.sql import statement
from tests.conftest import PgBouncer, Postgres
from tests.drill.proxy import Proxy
from tests.include.conftest import Pipeline, between

ODD = {
    "datestyle": "German",
    "intervalstyle": "iso_8601",
    "timezone": "Asia/Tokyo",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "xmlbinary": "hex",
    "xmloption": "document",
    "array_nulls": "off",
    "backslash_quote": "off",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "transform_null_equals": "on",
    "default_text_search_config": "pg_catalog.german",
    "gin_fuzzy_search_limit": "1",
    "exit_on_error": "on",
    "search_path": "elsewhere",
    "row_security": "on",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "default_transaction_read_only": "on",
    "statement_timeout": "99s",
    "lock_timeout": "99s",
    "idle_session_timeout": "99s",
    "idle_in_transaction_session_timeout": "99s",
    "transaction_timeout": "99s",
    "synchronous_commit": "off",
}
"""What a role's or a database's defaults may say."""

CHANGES_NO_ROW = (
    "Query Tuning",
    "Reporting and Logging",
    "Resource Usage",
    "Replication",
    "Statistics",
    "Vacuuming",
    "Write-Ahead Log",
    "Developer Options",
    "Lock Management",
    "Connections and Authentication / Authentication",
    "Client Connection Defaults / Shared Library Preloading",
)
"""Categories of settings of which none makes another value or row of a result, but those that are pinned anyway."""

CHANGES_NO_ROW_EITHER = {
    *("check_function_bodies", "client_min_messages", "createrole_self_grant", "icu_validation_level"),
    *("default_table_access_method", "default_tablespace", "default_toast_compression", "temp_tablespaces"),
    *("gin_pending_list_limit", "escape_string_warning", "synchronize_seqscans"),
    *("client_connection_check_interval", "tcp_user_timeout", "ssl_renegotiation_limit"),
    *("transaction_deferrable", "transaction_isolation", "transaction_read_only"),  # each transaction's own
}


def test_every_setting_that_a_result_depends_on_is_pinned(postgres: Postgres) -> None:
    """A later version's new settings are to be looked at, too."""
    text = statement("pin_session").as_string()
    with psycopg.connect(postgres.database()) as connection:
        found = connection.execute("select lower(name), category from pg_settings where context = 'user'").fetchall()
    names = {name for name, category in found if not category.startswith(CHANGES_NO_ROW)} - CHANGES_NO_ROW_EITHER
    assert names and {name for name in names if f"('{name}', " not in text} == set()


def test_what_a_role_or_database_sets_changes_nothing(postgres: Postgres) -> None:
    dsn = postgres.database()
    name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]))
    pinned = "select name, setting from pg_settings where name = any (%s) order by 1"
    with between(dsn, postgres.database()) as pipeline:
        wanted = pipeline.source.execute(pinned, (list(ODD),)).fetchall()
        pipeline.app.execute("create table orders (id int primary key, amount numeric, updated_at timestamptz)")
        pipeline.app.execute("create view late as select * from orders where updated_at < now()")
        pipeline.insert(1)
        for setting, value in ODD.items():
            pipeline.app.execute(sql.SQL("alter database {} set {} = {}").format(name, sql.Identifier(setting), value))
        odd = pipeline.beside()
        assert odd.source.execute(pinned, (list(ODD),)).fetchall() == wanted
        odd.run(pipeline.spec())
        pipeline.assert_equal()
        with pytest.raises(TerminalError, match=r"is a view that calls now\(\)"):
            odd.run(pipeline.spec("late"))


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ("", {}),
        (
            "-c elt.salt=a -celt.Pepper=b=c --lock-timeout=5",
            {"elt.salt": "a", "elt.pepper": "b=c", "lock_timeout": "5"},
        ),
        (r"-c elt.salt=two\ words\\ -c elt.salt=last\=", {"elt.salt": "last="}),
        (r"  -e -c elt.salt=two\ words\\ ", {"elt.salt": "two words\\"}),
    ],
)
def test_options_are_read_as_the_server_reads_them(options: str, asked: dict[str, str]) -> None:
    assert asked_settings(options) == asked


@pytest.fixture
def shop(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes the connection `shop` lead to a new database on that server, or through a pooler; returns its DSN."""

    def to(port: int | None = None, extra: dict[str, str] | None = None, name: str | None = None) -> str:
        dsn = postgres.database()
        found = psycopg.conninfo.conninfo_to_dict(dsn)
        connection = Connection(
            conn_id="shop",
            conn_type="postgres",
            host="127.0.0.1" if port else str(found["host"]),
            login="postgres",
            schema=str(found["dbname"]) if name is None else name,
            port=port or int(str(found["port"])),
            extra=json.dumps(extra or {}).replace("DATABASE", str(found["dbname"])),
        )
        monkeypatch.setenv("AIRFLOW_CONN_SHOP", connection.get_uri())
        return dsn

    return to


@pytest.mark.parametrize("cursor", ["dictcursor", "namedtuplecursor"])
def test_rows_come_as_they_do_elsewhere_whatever_cursor_a_connection_names(
    shop: Callable[..., str], cursor: str
) -> None:
    shop(extra={"cursor": cursor})
    with tasks.session("shop", read_only=True) as connection:
        assert connection.execute("select 1, 2").fetchone() == (1, 2)


def test_what_the_options_ask_for_is_there(shop: Callable[..., str]) -> None:
    """Compared as the server writes it, and where we pin something else, that counts."""
    shop(extra={"options": r"-c elt.salt=two\ words -c work_mem=65536 -c statement_timeout=90000 -c role=pg_monitor"})
    with tasks.session("shop", read_only=True) as connection:
        has = "select current_setting('elt.salt'), current_setting('work_mem'), current_user"
        assert connection.execute(has).fetchone() == ("two words", "64MB", "pg_monitor")


@pytest.fixture(scope="module")
def bouncer(folder: Path, postgres: Postgres) -> Iterator[PgBouncer]:
    with PgBouncer(folder / "pgbouncer", postgres.server) as made:
        yield made


def settings_of(bouncer: PgBouncer, pool: str, dsn: str) -> object:
    """What another client of the pool finds in its session."""
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    with psycopg.connect(bouncer.dsn(pool, str(name)), autocommit=True) as client:
        names = "default_transaction_read_only", "search_path", "row_security", "lock_timeout"
        return client.execute("select " + ", ".join(f"current_setting('{name}')" for name in names)).fetchone()


UNTOUCHED = ("off", '"$user", public', "on", "0")


@pytest.mark.parametrize("pool", ["transaction", "statement"])
@pytest.mark.parametrize("others", [0, 3])
def test_a_pooler_that_shares_servers_is_refused_and_keeps_nothing_of_ours(
    shop: Callable[..., str], bouncer: PgBouncer, pool: str, others: int
) -> None:
    dsn = shop(bouncer.ports[pool])
    name = str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"])
    clients = [psycopg.connect(bouncer.dsn(pool, name), autocommit=True) for _ in range(others)]
    for client in clients:  # so that the pool has idle servers to choose from
        client.pgconn.send_query(b"select pg_sleep(0.2)")
    for client in clients:
        while client.pgconn.get_result():
            pass
    for read_only in (True, False):
        with pytest.raises(TerminalError, match="connection 'shop': a pooler that lends its servers"):
            with tasks.session("shop", read_only=read_only):
                pytest.fail("it was not refused")
    assert settings_of(bouncer, pool, dsn) == UNTOUCHED
    for client in clients:
        client.close()


@pytest.mark.parametrize("pool", ["session", "one server"])
def test_a_pool_in_session_mode_serves(shop: Callable[..., str], bouncer: PgBouncer, pool: str) -> None:
    """Also where the session takes the last of its servers."""
    dsn = shop(bouncer.ports[pool])
    with tasks.session("shop", read_only=True) as connection:
        assert connection.execute("show search_path").fetchone() == ("pg_catalog",)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("create table t ()")
    assert settings_of(bouncer, pool, dsn) == UNTOUCHED


def test_a_salt_that_a_pooler_drops_is_refused(shop: Callable[..., str], bouncer: PgBouncer) -> None:
    """Hashes without salt would stand beside salted ones."""
    shop(bouncer.ports["session"], extra={"options": "-c elt.salt=pepper"})
    with pytest.raises(TerminalError, match="connection 'shop': .* asks for elt.salt") as raised:
        with tasks.session("shop", read_only=True):
            pytest.fail("it was not refused")
    assert "pepper" not in str(raised.value)


def test_another_database_than_the_one_asked_for_is_refused(shop: Callable[..., str], bouncer: PgBouncer) -> None:
    shop(bouncer.ports["session"], name="alias")
    with pytest.raises(TerminalError, match="asks for database 'alias' and its session is in 'postgres'"):
        with tasks.session("shop", read_only=True):
            pytest.fail("it was not refused")


def test_a_session_that_replicates_is_none_to_load_with(shop: Callable[..., str]) -> None:
    """Triggers and foreign keys would not be looked at."""
    dsn = shop()
    name = sql.Identifier(str(psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]))
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("alter database {} set session_replication_role = replica").format(name))
    with pytest.raises(TerminalError, match="session_replication_role"):
        with tasks.session("shop"):
            pytest.fail("it was not refused")


@pytest.mark.parametrize("schema", ["", "postgres"])
def test_a_database_that_is_named_in_the_extra_alone_is_everybodys(shop: Callable[..., str], schema: str) -> None:
    """The hook lets it win over the connection's schema; so does dbt's profile."""
    dsn = shop(extra={"dbname": "DATABASE"}, name=schema)
    with tasks.session("shop", read_only=True) as connection:
        database = connection.info.dbname
    assert database == psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    environment = profile_variables(tasks.reached(tasks.BaseHook.get_connection("shop")))
    assert environment["DBT_DBNAME"] == database


def test_what_a_dead_stream_leaves_on_the_server_is_ended(
    postgres: Postgres, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server waits for a client that is gone, with its locks: no limit of its own ends that."""
    proxy = Proxy(lambda: postgres.server.port)
    pipeline.app.execute("drop role if exists streamer; create role streamer login password 'streamer'")
    place = f"127.0.0.1:{proxy.port}/{pipeline.app.info.dbname}"
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", f"postgresql://streamer:streamer@{place}")
    monkeypatch.setenv("ELT_STALL_MINUTES", "0.02")
    rows = sql.SQL("select generate_series(1, 50000000)::bigint as id, repeat('x', 200) as what")
    pipeline.warehouse.execute("begin; create table public.staging (id bigint, what text)")
    staging = sql.Identifier("public", "staging")
    with pytest.raises(StalledError), tasks.session("shop", read_only=True) as source:
        pid = source.info.backend_pid
        proxy.hang(after_bytes=20_000_000)
        stream(source, rows, pipeline.warehouse, staging, ["id", "what"], "binary")
    while pipeline.app.execute("select 1 from pg_stat_activity where pid = %s", (pid,)).fetchone():
        pass
