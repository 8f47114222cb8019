"""How the page Pipeline health asks source and warehouse: nothing keeps it waiting, and a refusal is a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg
import structlog
from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException

from include.errors import TerminalError
from include.operate import health
from include.orchestrate.tasks import reached
from include.postgres import sessions

log = structlog.get_logger(__name__)

IMPATIENT = {"application_name": "elt_health", "connect_timeout": 3, "tcp_user_timeout": 3000}
"""libpq options: whoever waits for the page would sooner know that a server is away."""

UNSEEN = (psycopg.Error, AirflowException, TerminalError, ValueError)
"""A server that is away or refuses, a connection that is missing or cannot be read."""

UNREACHABLE = {
    "refused": "nothing listens there",
    "timeout": "no answer within 3 seconds",
    "translate host": "its host is not known",
    "resolve": "its host is not known",
    "password": "it refuses the password",
    "not permitted to log in": "its role may not log in",
    "does not exist": "it has no such database or role",
    "too many": "it has no connection left",
    "starting up": "it is starting",
    "shutting down": "it is stopping",
}
"""What the client's message holds, and what of it the page may say."""


def ask_source(name: str) -> health.Source:
    """How far a source lets the watermark move now, or why that is not known."""
    try:
        with look(lambda: BaseHook.get_connection(name)) as connection:
            return health.read_source(connection, name)
    except UNSEEN as error:
        return health.Source(name, problem=said(error, name))


@contextmanager
def look(named: Callable[[], Connection]) -> Iterator[psycopg.Connection]:
    """A read-only session, through the connection that is found, which waits for nothing longer than three seconds."""
    with sessions.look({**reached(named()), **IMPATIENT}) as connection:
        connection.execute("set statement_timeout to '3s'")
        yield connection


def said(error: Exception, connection: str) -> str:
    """The error for the page: what the server says of a statement. The client's own words name hosts and users."""
    log.warning("the health page could not look", exc_info=error)
    if isinstance(error, AirflowNotFoundException):
        return "the API server has no such connection, or cannot read it; its name is the one that the tasks use"
    if isinstance(error, TerminalError):
        return str(error)
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    why = next((meaning for words, meaning in UNREACHABLE.items() if words in str(error)), type(error).__name__)
    return f"cannot be asked ({why}): see that it runs, and what the connection {connection} of the API server says"
