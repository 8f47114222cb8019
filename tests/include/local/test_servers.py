"""The embedded server through the accidents of a laptop."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from include.local.errors import LocalError
from include.local.servers import HOST, EmbeddedPostgres

Make = Callable[..., EmbeddedPostgres]


@pytest.fixture
def make(folder: Path, request: pytest.FixtureRequest) -> Iterator[Make]:
    """Makes server objects on one directory, as separate commands would; the server is removed at the end."""
    place = folder / request.node.name / "it's a folder" / "postgres"
    place.parent.mkdir(parents=True)

    def made(port: int | None = None) -> EmbeddedPostgres:
        return EmbeddedPostgres(place, port)

    yield made
    made().remove()


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server((HOST, 0)) as other:
        yield other.getsockname()[1]


def postmaster(server: EmbeddedPostgres) -> int:
    return int((server.data_dir / "postmaster.pid").read_text().split()[0])


def write(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.superuser_dsn("postgres")) as connection:
        connection.execute("create table if not exists kept as select 1 as value")


def assert_kept(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.superuser_dsn("postgres")) as connection:
        assert connection.execute("select value from kept").fetchall() == [(1,)]


def test_it_comes_back_after_kill_9(make: Make) -> None:
    write(make().start())
    for _ in range(3):
        os.kill(postmaster(make()), signal.SIGKILL)
        assert_kept(make().start())


def test_an_interrupted_initdb_is_begun_again(make: Make) -> None:
    half = make().data_dir.with_name("postgres.new")
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    assert make().start().is_running()


def test_another_process_with_the_dead_servers_number_is_not_the_server(make: Make) -> None:
    server = make().start()
    write(server)
    os.kill(postmaster(server), signal.SIGKILL)
    for path in (server.data_dir / "postmaster.pid", *server.socket_dir.glob(".s.PGSQL.*.lock")):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    assert not server.is_running()
    assert_kept(make().start())


def test_a_demanded_port_that_is_taken_is_one_sentence(make: Make, taken_port: int) -> None:
    with pytest.raises(
        LocalError, match=f"port {taken_port} is in use by another program; choose another with PG_PORT="
    ):
        make(taken_port).start()


def test_a_remembered_port_that_is_taken_is_replaced_and_said(
    make: Make, taken_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    server = make()
    remembered = server.data_dir.parent / "postgres.port"
    remembered.write_text(str(taken_port))
    with remembered.open() as read_meanwhile:
        assert server.start().port != taken_port
        assert read_meanwhile.read() == str(taken_port)
    out, err = capsys.readouterr()
    assert out == "" and f"port {taken_port} is in use" in err and str(server.port) in err


def test_a_running_server_is_not_moved_to_another_port(make: Make) -> None:
    port = make().start().port
    assert make(port).start().port == make().start().port == port
    with pytest.raises(LocalError, match=rf"runs on port {port}; `make stop`"):
        make(port + 1).start()


def test_what_the_server_says_names_its_log(make: Make) -> None:
    server = make().start()
    server.stop()
    with (server.data_dir / "postgresql.conf").open("a") as file:
        file.write("work_mem = nonsense\n")
    with pytest.raises(LocalError, match=r"postgresql\.conf.*its log is .*server\.log"):
        make().start()


def test_only_as_root_its_data_leaves_a_directory_closed_to_others(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    """PostgreSQL refuses to run as root, and the user it then runs as cannot enter."""
    given = make().data_dir
    given.parent.chmod(0o700)
    write(make().start())
    out, err = capsys.readouterr()
    found = make().data_dir
    assert (found != given) == (os.geteuid() == 0)
    assert out == "" and (found == given or str(found.parent) in err)
    assert_kept(make().start())
    make().remove()
    assert not found.exists()
