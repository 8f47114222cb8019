"""What is tried again: by SQLSTATE, whatever language the server speaks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import psycopg2
import pytest
from airflow.sdk.exceptions import AirflowFailException

from include import retries
from include.orchestrate import tasks
from include.orchestrate.dbt_tasks import marts
from tests.conftest import Postgres

PASSES = {
    "08006": "Verbindung verloren",
    "25006": "kann INSERT nicht in einer Nur-Lesen-Transaktion ausführen",
    "40001": "kann Zugriff nicht serialisieren",
    "40P01": "Verklemmung (Deadlock) entdeckt",
    "53100": "kein Speicherplatz mehr",
    "53300": "tut mir leid, schon zu viele Verbindungen",
    "55P03": "storniere Anfrage wegen Zeitüberschreitung einer Sperre",
    "57014": "storniere Anfrage wegen Zeitüberschreitung",
    "57P01": "Verbindung wird abgebrochen aufgrund von Anweisung des Administrators",
    "57P03": "das Datenbanksystem startet",
    "58030": "konnte Datei nicht schreiben",
    "XX000": "tuple concurrently updated",
}
STAYS = {
    "22012": "Division durch Null",
    "23505": "doppelter Schlüsselwert",
    "28000": "kein pg_hba.conf-Eintrag",
    "28P01": "Passwort-Authentifizierung fehlgeschlagen",
    "3D000": "Datenbank existiert nicht",
    "42501": "keine Berechtigung; connection refused, canceling statement",
    "42P01": "Relation existiert nicht",
    "54000": "Zeile ist zu groß",
    "57P04": "Datenbank wurde gelöscht",
    "P0001": "could not connect to server",
}
ALL = [
    *((state, said, False) for state, said in PASSES.items()),
    *((state, said, True) for state, said in STAYS.items()),
]


@pytest.mark.parametrize(("state", "said", "is_final"), ALL)
@pytest.mark.parametrize("driver", [psycopg, psycopg2])
def test_the_sqlstate_decides_for_either_driver(
    postgres: Postgres, driver: Any, state: str, said: str, is_final: bool
) -> None:
    with driver.connect(postgres.server.superuser_dsn("postgres")) as connection:
        with pytest.raises(driver.Error) as raised:
            connection.cursor().execute(f"do $$ begin raise exception '{said}' using errcode = '{state}'; end $$")
        connection.rollback()
    assert retries.is_final(raised.value) == is_final


def test_what_another_session_made_at_the_same_time_is_tried_again(postgres: Postgres) -> None:
    """Two runs that make one schema: the catalog's own index refuses the second."""
    dsn = postgres.database()
    with psycopg.connect(dsn) as one, psycopg.connect(dsn) as other:
        one.execute("create schema s")
        error: list[psycopg.Error] = []

        def make() -> None:
            with suppress(psycopg.Error):
                try:
                    other.execute("create schema s")
                except psycopg.Error as raised:
                    error.append(raised)

        thread = threading.Thread(target=make)
        thread.start()
        with psycopg.connect(dsn, autocommit=True) as look:
            while not look.execute("select 1 from pg_locks where not granted").fetchone():
                pass
        one.commit()
        thread.join()
    assert error[0].sqlstate == "23505" and not retries.is_final(error[0])


Answer = Callable[[bytes], bytes]


@pytest.fixture
def server() -> Iterator[Callable[[Answer | None], dict[str, Any]]]:
    """Makes a server that gives one answer to whatever comes, or hangs up (None); returns how to connect to it."""
    listeners: list[socket.socket] = []

    def serve(answer: Answer | None) -> dict[str, Any]:
        listeners.append(listener := socket.create_server(("127.0.0.1", 0)))

        def accept() -> None:
            with suppress(OSError):
                while True:
                    with listener.accept()[0] as client:
                        while (asked := client.recv(1000)) and answer and (said := answer(asked)):
                            client.sendall(said)

        threading.Thread(target=accept, daemon=True).start()
        return {"host": "127.0.0.1", "port": listener.getsockname()[1], "user": "u", "dbname": "d"}

    yield serve
    for each in listeners:
        each.close()


def refusal(state: str, said: str) -> Answer:
    """An ErrorResponse as a server in German sends it."""
    fields = f"SFATAL\0VFATAL\0C{state}\0M{said}\0\0".encode()
    message = b"E" + (len(fields) + 4).to_bytes(4, "big") + fields
    return lambda asked: b"N" if asked[4:8] == bytes.fromhex("04d2162f") else message


@pytest.mark.parametrize(("state", "said", "is_final"), ALL)
def test_a_refused_connection_is_tried_again_by_its_sqlstate(
    server: Callable[..., dict[str, Any]], state: str, said: str, is_final: bool
) -> None:
    assert retries.is_refused(server(refusal(state, said))) == is_final


def test_nobody_there_is_tried_again(server: Callable[..., dict[str, Any]]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert not retries.is_refused({"host": "127.0.0.1", "port": port, "dbname": "d"})
    assert not retries.is_refused({"host": "nobody.invalid", "dbname": "d"})
    assert not retries.is_refused(server(None))
    assert not retries.is_refused(server(lambda asked: b"")), "hung up after it was asked"


def test_who_speaks_another_protocol_is_not(server: Callable[..., dict[str, Any]]) -> None:
    assert retries.is_refused(server(lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    assert retries.is_refused(server(lambda _: b"N") | {"sslmode": "require"}), "no encryption there"


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("postgresql://elt_retries:wrong@127.0.0.1:PORT/postgres", "password authentication failed"),
        ("postgresql://elt_retries:right@127.0.0.1:PORT/nowhere", 'database "nowhere" does not exist'),
        ("postgresql://elt_retries:right@127.0.0.1:PORT/postgres?sslmode=verify-full&sslrootcert=/nowhere", "SSL"),
    ],
)
def test_a_task_that_cannot_get_in_fails_at_once(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, uri: str, said: str
) -> None:
    with psycopg.connect(postgres.server.superuser_dsn("postgres")) as connection:
        connection.execute("drop role if exists elt_retries; create role elt_retries login password 'right'")
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", uri.replace("PORT", str(postgres.server.port)))
    with pytest.raises(AirflowFailException, match=f"(?s)connection 'shop': .*{said}"):
        with tasks.no_retry_for_terminal_errors(), tasks.session("shop"):
            pytest.fail("it got in")


def test_a_report_that_cannot_get_in_fails_at_once(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = f"postgresql://elt_nobody:wrong@127.0.0.1:{postgres.server.port}/postgres"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE_DBT", nobody)
    with pytest.raises(AirflowFailException, match="password authentication failed"):
        with tasks.no_retry_for_terminal_errors(), marts():
            pytest.fail("it got in")


def test_a_server_that_is_down_is_tried_again(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", f"postgresql://u:p@127.0.0.1:{port}/postgres")
    with pytest.raises(psycopg.OperationalError):
        with tasks.no_retry_for_terminal_errors(), tasks.session("shop"):
            pytest.fail("it got in")
