"""A task that fails on purpose ends its log with one line of ERROR, and no stack trace."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import psycopg
import pytest
import structlog
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException
from airflow.sdk.log import configure_logging

from include.errors import TerminalError, TransientError
from include.orchestrate import failing
from tests.conftest import Postgres


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fails as Airflow's task runner does, in a task's process; the lines that go to the log."""
    before = structlog.get_config()
    left: dict[str, str] = {}

    class Instance:
        xcom_push = staticmethod(left.__setitem__)

    monkeypatch.setattr(failing, "get_current_context", lambda: {"ti": Instance})

    def fail(error: BaseException) -> tuple[dict[str, Any], dict[str, str]]:
        output = BytesIO()
        configure_logging(json_output=True, output=output, sending_to_supervisor=True)
        try:
            with failing.plainly():
                raise error
        except BaseException:
            structlog.get_logger(logger_name="task").exception("Task failed with exception")
        return json.loads(output.getvalue().splitlines()[-1]), left

    yield fail
    structlog.configure(**before)


@pytest.mark.parametrize("kind", [AirflowFailException, AirflowException, TerminalError, TransientError])
def test_what_is_raised_on_purpose_is_one_line(logged: Any, kind: type[Exception]) -> None:
    said = "shop.orders: column note is gone; run: alter table …"
    line, left = logged(kind(said))
    assert (line["event"], line["level"]) == (said, "error")
    assert not {"exception", "error_detail", "exc_info"} & line.keys()
    assert left == {"error": said}


def test_what_a_server_says_is_one_line_with_its_detail_and_hint(logged: Any, postgres: Postgres) -> None:
    with psycopg.connect(postgres.database()) as connection:
        connection.execute("create table a (id int primary key); insert into a values (1)")
        with pytest.raises(psycopg.Error) as raised:
            connection.execute("insert into a values (1)")
    line, left = logged(raised.value)
    said = 'duplicate key value violates unique constraint "a_pkey". Key (id)=(1) already exists'
    assert line["event"] == left["error"] == said and "exception" not in line


def test_a_long_one_is_not_cut_by_the_ui(logged: Any) -> None:
    said = "shop.orders: " + "a word and another, " * 20 + "the remedy"
    line, left = logged(TerminalError(said))
    assert max(map(len, line["event"].splitlines())) <= failing.WIDTH
    assert line["event"].replace("\n", " ") == said == left["error"]


def test_what_nobody_foresaw_keeps_its_stack(logged: Any) -> None:
    line, left = logged(KeyError("surprise"))
    assert line["event"] == "Task failed with exception"
    assert line["exception"][0]["frames"] and left == {}


def test_what_is_skipped_has_not_failed(logged: Any) -> None:
    _, left = logged(AirflowSkipException("not chosen"))
    assert left == {}


def test_without_an_airflow_to_tell_the_error_is_the_same() -> None:
    with pytest.raises(TerminalError, match="as it was"), failing.plainly():
        raise TerminalError("as it was")
