"""The safe horizon: how far the watermark may move without leaving a row behind.

A transaction stamps its rows when it begins and shows them when it commits. The horizon is therefore the start of the
oldest transaction still open, read before the snapshot that reads rows; see docs/decisions.md for the measurement.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import structlog
from psycopg import sql
from psycopg.rows import namedtuple_row

from include.errors import TerminalError
from include.postgres.server import server_of
from include.postgres.sessions import Connection
from include.sql import statement
from include.state.messages import Horizon, to_text

log = structlog.get_logger(__name__)

WORTH_NAMING = timedelta(minutes=1)


def read_horizon(connection: Connection, source: str) -> Horizon:
    """Read the horizon of a source database, in a transaction of its own.

    Args:
        connection: A pinned session on the source, in autocommit mode.
        source: Name of the dbt source, for messages.

    Raises:
        TerminalError: a hot standby, a role that cannot see other sessions, or a session that does not show its
            transactions: "sees nobody" is not "nobody is there".
    """
    with connection.cursor(row_factory=namedtuple_row) as cursor:
        row = cursor.execute(statement("horizon")).fetchone()
    if row.in_recovery:
        raise TerminalError(
            f"source {source!r} is a hot standby, which does not show the primary's open transactions: "
            f"point AIRFLOW_CONN_{source.upper()} at the primary"
        )
    if not row.sees_all_sessions:
        role = connection.info.user
        raise TerminalError(
            f"role {role!r} cannot see the open transactions of source {source!r}; "
            f'run there as superuser: grant pg_read_all_stats to "{role}"'
        )
    if row.hidden_pid:
        database = sql.Identifier(connection.info.dbname).as_string()
        raise TerminalError(
            f"source {source!r} does not show the transactions of pid {row.hidden_pid} ({row.hidden_role}): its "
            f"track_activities is off; run there as superuser: alter role {row.hidden_role} in database {database} set "
            "track_activities = on, and have it connect again"
        )
    # After the horizon: whoever is promoted in between is told from the server that it was read on.
    server = server_of(connection)
    if server.unknown:
        log.warning("the role may not ask the source who it is", source=source, not_known=server.unknown)
    say = log.bind(source=source, horizon=to_text(row.at))
    holder = _holder(row)
    if row.has_prepared:
        say.warning("a prepared transaction is open: rows are read, the watermark stays (see pg_prepared_xacts)")
    elif row.undated_pid:
        say.warning("an open transaction does not show its start: rows are read, the watermark stays", held_by=holder)
    elif holder:
        say.warning("an open transaction holds the watermark back; rows still land", held_by=holder)
    else:
        say.info("horizon read")
    may_advance = not row.has_prepared and not row.undated_pid
    return Horizon(row.at, row.read_at, may_advance=may_advance, held_by=holder, server=server)


def _holder(row: Any) -> str | None:
    if row.undated_pid:
        return f"{_session(row.undated_pid, row.undated_role, row.undated_application)}, since when is not shown"
    age = row.read_at - row.at
    if row.pid is None or age < WORTH_NAMING:
        return None
    return f"{_session(row.pid, row.usename, row.application_name)} for {age}"


def _session(pid: int, role: str, application: str) -> str:
    return f"pid {pid} ({role}, {application or 'no application name'}), in a transaction"
