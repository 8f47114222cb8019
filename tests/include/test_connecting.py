"""Whoever opens a session, psycopg for us or psycopg2 for dbt: same server, same identity, same protection."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from airflow.providers.postgres.hooks.postgres import PostgresHook
from airflow.sdk import Connection

from include.connecting import libpq_parameters, libpq_variables, profile_variables, written_parameters
from include.dbt import project as dbt_project
from include.dbt import runner as dbt_runner
from include.errors import ConfigError
from include.orchestrate.tasks import reached
from tests.conftest import Postgres, SystemPostgres
from tests.include.test_tls import Authority

URIS = {
    "plain": "postgresql://me:p%40s%2Fw@warehouse:5433/d%20b",
    "no port": "postgres://me@warehouse/db",
    "options": "postgres://me@h/db?sslmode=require&connect_timeout=5&options=-c%20role%3Dwriter",
    "nested": "postgres://me@h/db?__extra__=" + quote('{"sslmode": "require", "connect_timeout": 5}'),
    "socket": "postgres://me@%2Fvar%2Frun%2Fpostgresql/db",
    "IPv6": "postgres://me@[::1]:5433/db",
    "of the hook": "postgres://me@h/db?cursor=dictcursor&sslmode=allow",
}
OF_JSON = {
    "types": {"connect_timeout": 10, "keepalives": 1, "sslmode": "require", "sslcert": None},
    "several hosts": {"host": "a,b", "port": "5432,5433", "target_session_attrs": "read-write"},
    "name of the database": {"dbname": "other"},
    "all of TLS": dict.fromkeys(
        "sslrootcert sslcert sslkey sslcrl channel_binding ssl_min_protocol_version".split(), "x"
    ),
}
JSONS = {
    name: json.dumps({"conn_type": "postgres", "host": "h", "login": "me", "schema": "db", "port": 1, "extra": extra})
    for name, extra in OF_JSON.items()
}


def read_by_airflow(text: str) -> Connection:
    if text.startswith("{"):
        return Connection.from_json(text, conn_id="warehouse")
    return Connection.from_uri(text, conn_id="warehouse")


@pytest.mark.parametrize("text", [*URIS.values(), *JSONS.values()], ids=[*URIS, *JSONS])
def test_libpq_is_told_what_the_hook_tells_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(PostgresHook, "_create_connection", lambda hook, arguments: told.update(arguments))
    PostgresHook(connection=read_by_airflow(text)).get_conn()
    told.pop("row_factory", None)
    made = reached(read_by_airflow(text))
    assert made == {name: str(value) for name, value in told.items() if value is not None}
    assert written_parameters(text) == made, "what is read without Airflow is read as Airflow does"


def test_what_the_hook_gets_wrong() -> None:
    def made(extra: dict[str, Any], **more: Any) -> dict[str, str]:
        given = {"conn_type": "postgres", "schema": "db", "extra": extra, **more}
        return libpq_parameters(read_by_airflow(json.dumps(given)), application_name="ours")

    assert made({"keepalives": True, "sslsni": False}) == {
        "dbname": "db",
        "keepalives": "1",
        "sslsni": "0",
        "application_name": "ours",
    }
    assert made({"application_name": "theirs"})["application_name"] == "theirs"
    assert made({}, host="%2Fvar%2Frun")["host"] == "/var/run"
    assert made({}, host="[::1]")["host"] == "::1"


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ({"sslmod": "require"}, "no parameter 'sslmod'"),
        ({"sslmode": ["require"]}, r"extra 'sslmode' is \[\"require\"\]"),
    ],
)
def test_what_cannot_be_passed_on_is_refused_by_name(extra: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"connection warehouse: .*{said}"):
        libpq_parameters(Connection(conn_id="warehouse", conn_type="postgres", extra=json.dumps(extra)))


def test_a_dbt_command_gets_the_rest_in_variables_of_libpq() -> None:
    given = {"host": "h", "dbname": "d", "sslmode": "require", "options": "-c role=x", "keepalives_idle": "5"}
    assert libpq_variables(given) == {"PGOPTIONS": "-c role=x"}
    assert profile_variables(given)["DBT_SSLMODE"] == "require"
    for unsaid, name in (({"sslpassword": "x"}, "'sslpassword'"), ({"host": "a,b", "port": "1,2"}, "several")):
        with pytest.raises(ConfigError, match=name):
            libpq_variables(unsaid)


def test_dbt_names_the_database_that_libpq_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PGDATABASE", "PGUSER", "PGHOST", "PGPORT", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    assert profile_variables({"user": "me"})["DBT_DBNAME"] == "me"
    monkeypatch.setenv("PGDATABASE", "theirs")
    assert profile_variables({"user": "me"})["DBT_DBNAME"] == "theirs"
    monkeypatch.delenv("PGDATABASE")
    with pytest.raises(ConfigError, match="leaves its database to a libpq service; name it"):
        profile_variables({"service": "warehouse"})


@pytest.fixture(scope="module")
def certificates(folder: Path) -> dict[str, Path]:
    """A server's certificate and a client's, of one authority."""
    authority, home = Authority.make("ours"), folder / "certificates"
    home.mkdir()
    home.chmod(0o755)
    found = {"root": authority.write(home / "ours.crt"), "stranger": Authority.make("x").write(home / "stranger.crt")}
    found["server"], found["server_key"] = authority.issue("127.0.0.1", home)
    (home / "client").mkdir()
    found["client"], found["client_key"] = authority.issue("127.0.0.1", home / "client")
    found["client_key"].chmod(0o600)
    return found


@pytest.fixture(scope="module")
def tls(folder: Path, certificates: dict[str, Path]) -> Iterator[Postgres]:
    """A server that itself speaks TLS, asks for SCRAM, and of one role for a certificate."""
    files = {"ssl_cert_file": "server", "ssl_key_file": "server_key", "ssl_ca_file": "root"}
    settings = {"fsync": "off", "ssl": "on", **{name: str(certificates[file]) for name, file in files.items()}}
    server = SystemPostgres(folder / "tls_postgres", settings=settings)
    if server._identity:  # as root: the server runs as somebody else, who has to own its key
        os.chown(certificates["server_key"], server._identity["user"], server._identity["group"])
    certificates["server_key"].chmod(0o600)
    with server:
        access = server.data_dir / "pg_hba.conf"
        access.write_text("hostssl all warehouse 127.0.0.1/32 cert\n" + access.read_text())
        with psycopg.connect(server.superuser_dsn("postgres"), autocommit=True) as admin:
            admin.execute("select pg_reload_conf()")
            admin.execute("create role loader login password 'secret'")
            admin.execute("create role warehouse login")
            admin.execute("create role writer")
            admin.execute("grant writer to loader")
            admin.execute("grant pg_read_all_stats to loader, writer, warehouse")
        yield Postgres(server)
        server.remove()


PROJECT = "{name: elt, profile: elt, flags: {send_anonymous_usage_stats: false}}"
SEEN = """
    select s.ssl, s.version, s.client_dn, a.usename, a.application_name, current_user, a.client_addr is null,
        current_setting('work_mem')
    from pg_stat_activity a join pg_stat_ssl s using (pid) where pid = pg_backend_pid()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("project")
    (home / "profiles.yml").write_text((dbt_project.PROJECT_DIR / "profiles.yml").read_text())
    (home / "dbt_project.yml").write_text(PROJECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dbt_project, "PROJECT_DIR", home)
        patch.setattr(dbt_runner, "PROJECT_DIR", home)
        patch.setenv("DBT_TARGET_PATH", str(home / "target"))
        yield home


def seen_by_us(connection: Connection) -> tuple[Any, ...]:
    with psycopg.connect(**reached(connection, application_name="elt")) as session:  # type: ignore[arg-type]
        return tuple(map(str, session.execute(SEEN).fetchone() or ()))


def seen_by_dbt(connection: Connection) -> tuple[Any, ...]:
    parameters = reached(connection, application_name="elt")
    profile = profile_variables(parameters)
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        for name, value in profile.items():
            patch.setenv(name, value)
        manifest = dbt_project.load_manifest(profile)
        done = dbt_runner.invoke(["show", "--inline", SEEN], folder, manifest, reached=parameters)
    if not done.success:
        raise psycopg.OperationalError(str(done.exception or done.result.results[0].message))
    return tuple(map(str, done.result.results[0].agate_table.rows[0].values()))


def described(postgres: Postgres, extra: dict[str, Any], **more: Any) -> Connection:
    place = {"login": "loader", "password": "secret", "host": "127.0.0.1", "schema": "postgres"}
    given = {"conn_type": "postgres", "port": postgres.server.port, **place, **more}
    return read_by_airflow(json.dumps(given | {"extra": extra}))


def test_every_session_is_the_same_to_the_server(
    tls: Postgres, certificates: dict[str, Path], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each combination, what differs from (TLS, its version, certificate, role, name, role now, socket, memory)."""
    monkeypatch.delenv("PGSSLMODE", raising=False)
    client = {"sslcert": str(certificates["client"]), "sslkey": str(certificates["client_key"]), "sslmode": "require"}
    several = {"host": "127.0.0.1,127.0.0.1", "port": f"1,{tls.server.port}"}
    plain = ("True", "TLSv1.3", "None", "loader", "elt", "loader", "False", "4MB")
    combinations: list[tuple[Connection, dict[int, str]]] = [
        (described(tls, {}), {}),
        (described(tls, {"sslmode": "require", "connect_timeout": 10, "keepalives": True}), {}),
        (described(tls, {"sslmode": "verify-full", "sslrootcert": str(certificates["root"])}), {}),
        (described(tls, {"sslmode": "disable"}), {0: "False", 1: "None"}),
        (described(tls, {"ssl_max_protocol_version": "TLSv1.2"}), {1: "TLSv1.2"}),
        (described(tls, {"channel_binding": "require", "require_auth": "scram-sha-256"}), {}),
        (
            described(tls, client, login="warehouse", password=None),
            {2: "/CN=warehouse", 3: "warehouse", 5: "warehouse"},
        ),
        (described(tls, {"options": "-c role=writer -c work_mem=7MB"}), {5: "writer", 7: "7MB"}),
        (described(tls, {"application_name": "theirs"}), {4: "theirs"}),
        (described(tls, {"dbname": "postgres", **several}, schema="nowhere"), {}),
        (described(tls, {}, host=quote(str(tls.server.socket_dir), safe="")), {0: "False", 1: "None", 6: "True"}),
    ]
    for connection, differs in combinations:
        expected = tuple(differs.get(number, value) for number, value in enumerate(plain))
        assert seen_by_us(connection) == expected, connection.extra
        assert seen_by_dbt(connection) == expected, connection.extra


def test_what_one_session_is_refused_the_other_is(
    tls: Postgres,
    postgres: Postgres,
    certificates: dict[str, Path],
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with psycopg.connect(postgres.server.superuser_dsn("postgres"), autocommit=True) as admin:
        admin.execute("drop role if exists loader")
        admin.execute("create role loader login password 'secret'")
    stranger = {"sslmode": "verify-full", "sslrootcert": str(certificates["stranger"])}
    refused = [
        (described(postgres, {"sslmode": "require", "connect_timeout": 10}), "does not support SSL"),
        (described(tls, stranger), "certificate verify failed"),
        (described(tls, {"require_auth": "md5"}), "authentication method requirement"),
    ]
    for see in (seen_by_us, seen_by_dbt):
        for connection, said in refused:
            with pytest.raises(psycopg.OperationalError, match=said):
                see(connection)
        with monkeypatch.context() as patch:
            patch.setenv("PGSSLMODE", "require")
            assert see(described(tls, {}))[0] == "True"
            with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
                see(described(postgres, {}))
