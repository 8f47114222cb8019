"""The commands behind the Makefile: `python -m include.local <command>`."""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from include.connecting import libpq_variables
from include.errors import ConfigError
from include.local import metadata, pipeline, ui
from include.local.databases import ADMIN, WAREHOUSE, provision, require_tables
from include.local.environment import (
    Installation,
    entered,
    environment,
    installation,
    libpq_uri,
    number,
    parameters_of,
    user_environment,
    write_shell_file,
)
from include.local.errors import LocalError
from include.local.progress import Console
from include.local.sample import SAMPLE, Sample
from include.local.servers import HIGHEST_PORT

NEEDED_BYTES = 1_500_000_000
FULL_BYTES = 20_000_000
"""With less than this left, the disk is what ended a connection or a write."""

MADE_HERE = ("airflow", "bench", "credentials", "dbt", "env", "logs", "postgres", "run.lock", "server.lock")
"""How the names of what lies in a state folder begin."""

Command = Callable[[Installation, list[str]], int | None]


def main() -> int:
    """Run one command; foreseeable trouble is one sentence on stderr and exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m include.local")
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        return COMMANDS[given.command](installation(), given.arguments) or 0
    except (LocalError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
    except (psycopg.OperationalError, OSError) as error:
        print(f"error: {_sentence(installation(), error)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("\nInterrupted. Nothing is lost: the same command goes on from here.", file=sys.stderr)
        return 130
    return 1


def prepare(here: Installation) -> dict[str, str]:
    """Start and provision the embedded server; the children's environment."""
    user = user_environment()
    _close(here)
    _check_disk(here)
    port = number(user, "PG_PORT", highest=HIGHEST_PORT)
    with _lock(here, "server", wait=True):
        server = here.server(port).start()
        computed = environment(here, user, _ui_port(user))
        with entered(computed):
            provision(server, here.secrets())
    write_shell_file(here, computed)
    return computed


def run(here: Installation, _: list[str]) -> int:
    """Bring the sample up to date where there is one, and run the pipeline once."""
    here.state.mkdir(parents=True, exist_ok=True)
    with _lock(here, "run") as lock:
        console = Console()
        with console.waiting("databases are started"):
            computed = prepare(here)
        console.step("databases ready")
        if SAMPLE and (own := user_environment().get(SAMPLE.variable)):
            require_tables(libpq_uri(own), SAMPLE.name)
        elif SAMPLE:
            with console.waiting("the sample is brought up to date"):
                advanced = _advance(here, SAMPLE)
            console.step(advanced)
        with console.waiting("Airflow's metadata is brought up to date"):
            pipeline.migrate(here, computed)
        with psycopg.connect(here.metadata, autocommit=True) as database:
            metadata.end_interrupted_runs(database)
            console.step("Airflow ready; starting elt_pipeline")
            try:
                return 0 if pipeline.run_dag(here, database, computed, console, lock) else 1
            finally:
                metadata.end_interrupted_runs(database)


def serve_ui(here: Installation, _: list[str]) -> None:
    """Airflow's UI and scheduler, until Ctrl-C."""
    here.state.mkdir(parents=True, exist_ok=True)
    with _lock(here, "run") as lock:
        console = Console()
        with console.waiting("databases and Airflow's metadata are brought up to date"):
            computed = prepare(here)
            pipeline.migrate(here, computed)
        with psycopg.connect(here.metadata, autocommit=True) as database:
            metadata.end_interrupted_runs(database)
        ui.serve(here, computed, _ui_port(user_environment()), lock, console)


def advance(sample: Sample) -> Command:
    """A command that makes the sample, or changes a slice of it."""

    def command(here: Installation, _: list[str]) -> None:
        if user_environment().get(sample.variable):
            raise LocalError(f"{sample.variable} names a database of your own, which is never written; unset it")
        prepare(here)
        print(_advance(here, sample))

    return command


def stop(here: Installation, _: list[str]) -> None:
    """Stop the embedded server."""
    here.server().stop()


def clean(here: Installation, _: list[str]) -> None:
    """Stop the embedded server and remove all local state."""
    if not here.state.exists():
        print(f"{here.state} does not exist: nothing to remove")
        return
    if foreign := _foreign(here):
        raise LocalError(f"{here.state} also holds {foreign[0]!r}, which is not from here; move it away first")
    with _lock(here, "run"):
        here.server().remove()
        shutil.rmtree(here.state)
    print(f"removed {here.state}")


def _foreign(here: Installation) -> list[str]:
    return [path.name for path in here.state.iterdir() if not path.name.startswith(MADE_HERE)]


def _close(here: Installation) -> None:
    """Make the folders of what holds data, or may quote it, their owner's alone.

    Those of root, as which PostgreSQL does not run, its own user has to pass through; a folder that holds other things
    as well stays as it is.
    """
    for folder in (here.state, here.airflow_home, here.logs, here.state / "dbt"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder != here.state:
            folder.chmod(0o700)
        elif not _foreign(here):
            folder.chmod(0o700 if os.geteuid() else 0o711)


def dsn(role: str, database: str, connection: str) -> Command:
    """A command that prints the libpq URI of one side, as the user's own connection or as `role`."""

    def command(here: Installation, _: list[str]) -> None:
        prepare(here)
        own = user_environment().get(connection)
        print(libpq_uri(own) if own else here.server().dsn(role, here.secrets()[role], database))

    return command


def psql(here: Installation, arguments: list[str]) -> int:
    """A shell on the warehouse, in the client that came with the server."""
    prepare(here)
    own = user_environment().get("AIRFLOW_CONN_WAREHOUSE")
    uri = libpq_uri(own) if own else here.server().dsn(ADMIN, here.secrets()[ADMIN], WAREHOUSE)
    # An argument would show the password in the process list.
    place = conninfo_to_dict(uri)
    password = {"PGPASSWORD": str(place.pop("password", ""))}
    command = [str(here.server().psql), *arguments, make_conninfo("", **place)]
    return subprocess.run(command, env=os.environ | password, check=False).returncode


def execute(here: Installation, arguments: list[str]) -> int:
    """Run a program, such as `airflow`, `dbt` or `python`, in the environment of the installation.

    `@CMD` among the arguments stands for the words of that variable, quoted as for a shell, which never sees them.
    """
    try:
        typed = shlex.split(os.environ.get("CMD", ""))
    except ValueError as error:
        raise LocalError(f"CMD={os.environ['CMD']!r}: {error}; quote its words as for a shell") from None
    words = [word for each in arguments for word in (typed if each == "@CMD" else [each])]
    computed = prepare(here)
    if arguments[0] in ("airflow", "python"):
        pipeline.migrate(here, computed)
    if arguments[0] in ("dbt", "sqlfluff"):
        computed |= libpq_variables(parameters_of(computed["AIRFLOW_CONN_WAREHOUSE_DBT"]))
    return subprocess.run(words, env=computed, check=False).returncode


def _advance(here: Installation, sample: Sample) -> str:
    user = user_environment()
    rows, seed = number(user, "ROWS", 200_000), number(user, "SEED", 42)
    with psycopg.connect(here.server().dsn(sample.owner, here.secrets()[sample.owner], sample.name)) as connection:
        return import_module(sample.advance).advance(connection, rows, seed)


def _ui_port(user: dict[str, str]) -> int:
    return number(user, "UI_PORT", 8080, HIGHEST_PORT) or 8080


def _check_disk(here: Installation) -> None:
    here.state.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(here.state).free
    if free < NEEDED_BYTES:
        raise LocalError(
            f"{free / 1e9:.1f} GB are free in {here.state}, {NEEDED_BYTES / 1e9:.1f} GB are needed; "
            "free some, or set ELT_STATE to a folder on another disk"
        )


def _sentence(here: Installation, error: Exception) -> str:
    """What happened, in one line. A full disk shows as a server that hung up, as often as not."""
    folder = next(path for path in (here.state, *here.state.parents) if path.exists())
    if getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(folder).free < FULL_BYTES:
        return f"no disk space left in {folder}; free some and run the same command again"
    if isinstance(error, OSError):
        return f"{error.strerror}: {error.filename or ''}"
    return " ".join(str(error).split())


@contextmanager
def _lock(here: Installation, name: str, wait: bool = False) -> Iterator[int]:
    """Hold a lock of the installation; yields its descriptor, for children that are to hold it after our death."""
    with (here.state / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise LocalError(
                "`make run` or `make ui` is at work on this checkout; wait, stop it, or trigger the DAG in its UI"
            ) from None
        yield file.fileno()


COMMANDS: dict[str, Command] = {
    "run": run,
    "ui": serve_ui,
    "stop": stop,
    "clean": clean,
    "exec": execute,
    "psql": psql,
    "dsn-warehouse": dsn(ADMIN, WAREHOUSE, "AIRFLOW_CONN_WAREHOUSE"),
}
if SAMPLE:
    COMMANDS |= {SAMPLE.name: advance(SAMPLE), "dsn-source": dsn(SAMPLE.owner, SAMPLE.name, SAMPLE.variable)}

if __name__ == "__main__":
    sys.exit(main())
