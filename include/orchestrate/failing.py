"""How a task fails on purpose: one line of ERROR in its log, without a stack trace; the same line beside its state."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import psycopg
import structlog
from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from include.errors import PipelineError, TerminalError
from include.orchestrate.code import refuse_half

log = structlog.get_logger(__name__)

ERROR = "error"
"""XCom of a task that failed: why, as its log says it last. The page Pipeline health shows it."""

WARNING = "warning"
"""XCom of a task that succeeded and warns: of what, in one sentence. The page and the end of `make run` show it."""

MAX_CHARACTERS = 2000

WIDTH = 110
"""Characters that Airflow's UI shows of a line of a log before it cuts it, in a window of 1440 pixels."""

FORESEEN = (PipelineError, AirflowException, psycopg.Error)
"""What is raised on purpose, and what a server says: a sentence. Of anything else the stack trace is needed."""


@contextmanager
def plainly() -> Iterator[None]:
    """Run a task's work; a foreseen error of it is the last line of the task's log, and the page's.

    Airflow would add the stack to the line. It configures logging anew in each task's process, so each task says it.

    Raises:
        AirflowFailException: the code was changed since the scheduler started.
    """
    processors = structlog.get_config()["processors"]
    if _plainly not in processors:
        processors.insert(0, _plainly)
    try:
        try:
            refuse_half()
        except TerminalError as error:
            raise AirflowFailException(str(error)) from None
        yield
    except AirflowSkipException:
        raise
    except FORESEEN as error:
        _leave(error)
        raise


def _plainly(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = sys.exc_info()[1]
    if event.get("event") == "Task failed with exception" and isinstance(error, FORESEEN):
        event.pop("exc_info", None)
        event["event"] = "\n".join(textwrap.fill(line, WIDTH) for line in sentence(error).splitlines())
    return event


def sentence(error: BaseException) -> str:
    """What an error says, in one line; of a server's answer its detail and hint too, without the statement."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        parts = [error.diag.message_primary, error.diag.message_detail, error.diag.message_hint]
        return ". ".join(part.rstrip(".") for part in parts if part)
    return str(error) or type(error).__name__


def _leave(error: BaseException) -> None:
    """Keep the sentence where the page finds it, for who may clear the task. Without it the task fails as well."""
    try:
        get_current_context()["ti"].xcom_push(ERROR, sentence(error)[:MAX_CHARACTERS])
    except Exception as unkept:
        log.debug("the error is in the log alone", why=str(unkept))
