"""`python -m include.commands plan | reconcile | rewind | onboard`, wherever Airflow's own command line works: with the
same connections and Variables."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime

import psycopg
import structlog
from airflow.models import Variable
from airflow.sdk.exceptions import AirflowNotFoundException

from include import maintenance
from include.dbt_project import PROJECT_DIR
from include.errors import ConfigError, PipelineError
from include.onboard.shape import read_table, slug
from include.onboard.write import files_for, write
from include.plan import Plan
from include.sources import Tables, load_tables
from include.tasks import session, spec_of


def main(arguments: list[str] | None = None) -> int:
    """Run one command; trouble is said on stderr, with exit code 1."""
    parser = argparse.ArgumentParser(prog="python -m include.commands")
    parser.add_argument("command", choices=sorted(COMMANDS))
    parser.add_argument("--table", help="source.table; every table where it is missing")
    parser.add_argument("--to", help="rewind: an ISO instant, the id of a past run, or `beginning`")
    parser.add_argument("--repair", action="store_true", help="reconcile: read again what differs")
    parser.add_argument("--source", default="", help="onboard: the connection to the tables' database")
    parser.add_argument("--schema", default="public", help="onboard: the schema they are in")
    parser.add_argument("--tables", nargs="*", default=[], help="onboard: their names")
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
        raise ConfigError("say which table and where to: make rewind TABLE=shop.orders TO=beginning")
    print(maintenance.rewind(spec_of(given.table), given.to, Variable))
    return 0


def onboard(given: argparse.Namespace) -> int:
    """Add tables of a source database to the dbt project; everything is written, or nothing."""
    source, root = given.source, PROJECT_DIR.parent
    if not given.tables or slug(source) != source:
        raise ConfigError('write SOURCE=name (small letters, digits and _) and TABLES="a b"')
    try:
        with session(source, read_only=True) as connection:
            tables = [read_table(connection, source, given.schema, name) for name in dict.fromkeys(given.tables)]
            files = files_for(tables, list(load_tables().specs.values()), connection, root)
    except AirflowNotFoundException:
        variable = f"AIRFLOW_CONN_{source.upper()}"
        raise ConfigError(f"no connection is called {source!r}; set {variable} in .env or the environment") from None
    write(files)
    print("\n".join(f"wrote {path.relative_to(root)}" for path in files))
    for table in tables:
        for remark in table.remarks:
            print(f"look at {table.source}.{table.name}: {remark}")
    print(f"Next: run deploy/grants/{source}.sql on both servers, then `make run`.")
    return 0


def _chosen(given: argparse.Namespace) -> Tables:
    return Tables({given.table: spec_of(given.table)}, {}) if given.table else load_tables()


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
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
