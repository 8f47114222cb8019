"""`python -m include.orchestrate.commands plan | reconcile | rewind | erase | onboard`.

Wherever Airflow's own command line works: with the same connections and Variables."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import available_timezones

import psycopg
import structlog
from airflow.models import Variable
from airflow.sdk.exceptions import AirflowNotFoundException

from include.dbt.project import PROJECT_DIR, target_dir
from include.errors import ConfigError, PipelineError
from include.onboard import look
from include.onboard.choose import Asked
from include.onboard.names import slug
from include.onboard.write import write
from include.operate.erase import statements
from include.operate.plan import Plan
from include.orchestrate import maintenance
from include.orchestrate.dbt_tasks import marts
from include.orchestrate.tasks import WAREHOUSE, session, spec_of
from include.postgres.sessions import Connection
from include.sources import Tables, load_tables

VARIABLES = "table to key repair source schema tables include exclude cursor_zone preview".split()
"""Options that may come as environment variables, in capitals."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; trouble is said on stderr, with exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m include.orchestrate.commands")
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("--table", help="source.table; every table where it is missing")
    parser.add_argument("--to", help="rewind: an ISO instant, the id of a past run, or `beginning`")
    parser.add_argument("--key", help="erase: the values of the person's key, quoted as in a shell")
    parser.add_argument("--repair", action="store_true", help="reconcile: read again what differs")
    parser.add_argument("--source", help="onboard: the connection to the tables' database")
    parser.add_argument("--schema", help="onboard: the schema that TABLES are in; public where it is missing")
    parser.add_argument("--tables", help="onboard: their names, quoted as a shell would")
    parser.add_argument("--include", help="onboard: patterns such as `sales.* *_log`, instead of all tables")
    parser.add_argument("--exclude", help="onboard: patterns of what stays out")
    parser.add_argument("--cursor-zone", help="onboard: time zone of stamps that have none, such as UTC")
    parser.add_argument("--preview", action="store_true", help="onboard: show everything, write nothing")
    # The Makefile hands everything on in the environment, where no shell reads it.
    parser.set_defaults(**{name: os.environ.get(name.upper(), "") for name in VARIABLES})
    given = parser.parse_args(arguments)
    try:
        return COMMANDS[given.command](given)
    except (PipelineError, psycopg.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def plan(given: argparse.Namespace) -> int:
    """What the next run would do; 1 if it would stop."""
    chosen = _chosen(given)
    plans = maintenance.plan(list(chosen.specs.values()), Variable)
    plans += [Plan(broken.name, problems=[broken.sentence]) for broken in chosen.problems.values()]
    print("\n\n".join(map(str, plans)))
    return 1 if any(each.problems for each in plans) else 0


def reconcile(given: argparse.Namespace) -> int:
    """Compare each chosen table, going on after a failure; exit code 1 if any differs."""
    run_id, failed = f"make_{datetime.now(UTC):%Y%m%dT%H%M%S.%f}", 0
    chosen = _chosen(given)
    for broken in chosen.problems.values():
        failed = 1
        print(f"error: {broken.sentence}", file=sys.stderr)
    for spec in chosen.specs.values():
        try:
            text, is_repaired = maintenance.check(spec, run_id, may_repair=given.repair)
            print(text + ("\nbuild what depends on it: make run, or trigger elt_pipeline" if is_repaired else ""))
        except (PipelineError, psycopg.Error) as error:
            failed = 1
            print(f"error: {error}", file=sys.stderr)
    return failed


def rewind(given: argparse.Namespace) -> int:
    """Set one table's watermark back."""
    if not given.table or not given.to:
        raise ConfigError("say which table and where to: make rewind TABLE=erp.orders TO=beginning")
    print(maintenance.rewind(spec_of(given.table), given.to, Variable))
    return 0


def erase(given: argparse.Namespace) -> int:
    """Print the statements that take a person out; run none."""
    if not given.table or not given.key:
        raise ConfigError('say which table, and his key there: make erase TABLE=erp.customers KEY="7"')
    with session(WAREHOUSE, read_only=True) as loader, marts() as dbt:
        print("\n".join(statements(loader, dbt, spec_of(given.table), shlex.split(given.key))))
    return 0


def onboard(given: argparse.Namespace) -> int:
    """Bring tables of a source database into the dbt project, or the project up to the database."""
    asked = _asked(given)
    try:
        with session(asked.source, read_only=True) as source, session(WAREHOUSE) as warehouse:
            asked = replace(asked, transformer=_transformer(warehouse))
            print(f"Looking at {source.info.dbname}, and trying what would be written in a copy", flush=True)
            found = look(source, warehouse, asked, load_tables(), PROJECT_DIR.parent)
    except AirflowNotFoundException as error:
        name = asked.source if asked.source in str(error) else WAREHOUSE
        variable = f"AIRFLOW_CONN_{name.upper()}"
        raise ConfigError(f"no connection is called {name!r}; set {variable} in .env or the environment") from None
    if given.preview:
        print(found.details + "\n" + found.summary + "\nNothing was written: PREVIEW=1.")
        return 0
    write(found.made.files)
    kept = target_dir() / f"onboard_{asked.source}.txt"
    write({kept: found.details})
    print(f"{found.summary}\nWrote {len(found.made.files)} files; all that there is to say of each table is in {kept}.")
    if found.made.files:
        files = " and ".join(f"deploy/grants/{asked.source}.{server}.sql" for server in ("source", "warehouse"))
        print(f"Next: run {files}, each on its server, then `make run`.")
    return 0


def _asked(given: argparse.Namespace) -> Asked:
    if slug(given.source) != given.source or len(given.source) > 40:
        raise ConfigError("write SOURCE=name: small letters, digits and _, 40 at most")
    if given.cursor_zone and given.cursor_zone not in available_timezones():
        raise ConfigError(f"CURSOR_ZONE={given.cursor_zone!r} is no time zone; write an IANA name such as UTC")
    return Asked(
        given.source,
        tables=_names("TABLES", given.tables),
        schema=given.schema or "public",
        include=_names("INCLUDE", given.include),
        exclude=_names("EXCLUDE", given.exclude),
        zone=given.cursor_zone or None,
    )


def _names(variable: str, typed: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(typed))
    except ValueError as error:
        raise ConfigError(f"{variable}={typed!r}: {error}; quote names as for a shell") from None


def _transformer(warehouse: Connection) -> str:
    """The role that runs dbt."""
    try:
        with session(f"{WAREHOUSE}_dbt") as dbt:
            return dbt.info.user
    except AirflowNotFoundException:
        return warehouse.info.user


def _chosen(given: argparse.Namespace) -> Tables:
    return Tables({given.table: spec_of(given.table)}, {}) if given.table else load_tables()


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "erase": erase,
    "onboard": onboard,
    "plan": plan,
    "reconcile": reconcile,
    "rewind": rewind,
}

if __name__ == "__main__":
    # Outside a task the SDK looks for connections in the environment alone, unless it is told that it is at home.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    sys.exit(main())
