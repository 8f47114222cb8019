"""dbt in this process, asked once a task: what it would do again each time is done once, or not at all.

Importing dbt takes a second; this module is imported where dbt is about to run, and before forks.

What is replaced below is dbt-core 1.12's. Each says when it may go.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import CodeType
from typing import TYPE_CHECKING, Any

import dbt.mp_context
import psycopg2
from dbt.adapters.exceptions import FailedToConnectError
from dbt.adapters.factory import reset_adapters
from dbt.adapters.postgres.connections import PostgresConnectionManager
from dbt.artifacts.schemas.results import RunStatus
from dbt.cli.main import dbtRunner, dbtRunnerResult
from dbt.graph import NodeSelector, SelectionSpec, parse_difference
from dbt.task.run import RunTask
from dbt_common.behavior_flags import BehaviorFlagRendered
from dbt_common.clients.jinja import MacroFuzzEnvironment
from dbt_common.events.base_types import EventLevel
from dbt_common.events.event_manager import EventManager
from dbt_common.tests import enable_test_caching

from include import retries
from include.dbt_project import PROFILE, PROJECT_DIR, TARGET

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

LEAN = ("--threads", "1", "--no-use-colors", "--no-write-json", "--no-populate-cache", "--log-level-file", "none")
"""One node needs one thread, and nobody reads dbt's own log and artifacts of it."""


_only: ContextVar[str | None] = ContextVar("only", default=None)


def invoke(command: list[str], folder: str, manifest: Manifest | None, only: str | None = None) -> dbtRunnerResult:
    """Run a dbt command on the project in this process; what it writes goes below `folder`.

    Args:
        only: dbt's unique id of the one node to run, if the command's own selection holds it; None: all that it holds.
    """
    places = ["--project-dir", str(PROJECT_DIR), "--profiles-dir", str(PROJECT_DIR), "--profile", PROFILE]
    places += ["--target", TARGET, "--target-path", str(Path(folder) / "target"), "--log-path", folder]
    _finals.clear()
    token = _only.set(only)
    try:
        return dbtRunner(manifest=manifest).invoke([*command, *places, *LEAN])
    finally:
        _only.reset(token)
        reset_adapters()  # or the next invocation in this process finds this one's connections


def may_pass() -> bool:
    """Whether the last invocation failed at its database in a way that another attempt may not meet."""
    return not all(_finals)


_finals: list[bool] = []
"""Of each error that the database gave the invocation, whether it is final."""

_exception_handler = PostgresConnectionManager.exception_handler
_open = PostgresConnectionManager.open.__func__


@contextmanager
def _judge_errors(manager: PostgresConnectionManager, query: str) -> Iterator[None]:
    """dbt makes a text of what the server says, in the server's language, and drops its SQLSTATE.

    Unnecessary once its results carry that.
    """
    with _exception_handler(manager, query):
        try:
            yield
        except psycopg2.Error as error:
            _finals.append(retries.is_final(error))
            raise


def _open_or_judge(manager: type[PostgresConnectionManager], connection: Any) -> Any:
    try:
        return _open(manager, connection)
    except FailedToConnectError:
        names = ("host", "port", "user", "password", "sslmode", "sslcert", "sslkey", "sslrootcert", "connect_timeout")
        given = {name: getattr(connection.credentials, name) for name in names} | {
            "dbname": connection.credentials.database
        }
        _finals.append(retries.is_refused({name: value for name, value in given.items() if value not in (None, "")}))
        raise


PostgresConnectionManager.exception_handler = _judge_errors
PostgresConnectionManager.open = classmethod(_open_or_judge)
_get_selected = NodeSelector.get_selected


def _get_selected_alone(selector: NodeSelector, spec: SelectionSpec, *rest: Any, **more: Any) -> set[str]:
    """dbt selects by name, path or `fqn:`, which is a prefix and not unique, but by no unique id.

    Unnecessary once it has such a method.
    """
    only = _only.get()
    if only is None:
        return _get_selected(selector, spec, *rest, **more)
    selected = {only} & set(selector.graph.nodes())
    if selected and spec != parse_difference(None, None):  # without a person's selection it is everything
        selected &= _get_selected(selector, spec, *rest, **more)
    return selector.filter_selection(selected)


NodeSelector.get_selected = _get_selected_alone

# A task's process ends without cleaning up. Locks of this kind end with it; those of dbt's own kind, which is for
# processes that dbt never starts, would be reported as leaked in the last line of every task's log. Unnecessary once
# dbt makes no such lock in a run of one thread.
dbt.mp_context._MP_CONTEXT = multiprocessing.get_context("fork")

# dbt's own switch to keep what depends on nothing but a text or the installed packages: parsed macros, plugins.
enable_test_caching()

# dbt would walk the whole call stack, source lines and all, to name the module that declared each of its flags.
# Unnecessary once its flags carry their `source`.
BehaviorFlagRendered._default_source = staticmethod(lambda: "dbt")


_compile = MacroFuzzEnvironment.compile
_compiled: dict[tuple[type, str], CodeType] = {}


def _compile_once(environment: MacroFuzzEnvironment, source: str) -> CodeType:
    """dbt makes an environment for each text it renders, the profile's entries for instance, and so keeps none.

    Unnecessary once it keeps compiled templates.
    """
    key = type(environment), source
    if key not in _compiled:
        _compiled[key] = _compile(environment, source)
    return _compiled[key]


MacroFuzzEnvironment.compile = _compile_once

_run_hooks = RunTask.safe_run_hooks


def _run_hooks_if_any(task: RunTask, adapter: Any, hook_type: Any, extra_context: dict[str, Any]) -> RunStatus:
    """dbt opens a connection before and after each node, before it looks whether the project has hooks.

    Unnecessary once it looks first.
    """
    return (
        _run_hooks(task, adapter, hook_type, extra_context) if task.get_hooks_by_type(hook_type) else RunStatus.Success
    )


RunTask.safe_run_hooks = _run_hooks_if_any

_create_schemas = RunTask.create_schemas
_created: set[tuple[str, int, Any]] = set()


def _create_schemas_once(task: RunTask, adapter: Any, required: set[Any]) -> None:
    """dbt asks for all schemas of the database before each invocation; here once for a schema, as `dbt build` does.

    Unnecessary once an invocation can be told that its schemas exist.
    """
    place = adapter.config.credentials.host, adapter.config.credentials.port
    if missing := {schema for schema in required if (*place, schema) not in _created}:
        _create_schemas(task, adapter, missing)
        _created.update((*place, schema) for schema in missing)


RunTask.create_schemas = _create_schemas_once

_fire_event = EventManager.fire_event
_UNSEEN = {EventLevel.DEBUG, EventLevel.TEST}


def _fire_if_seen(manager: EventManager, event: Any, level: EventLevel | None = None, *rest: Any, **more: Any) -> None:
    """dbt writes out fifty events of each node, looking for secrets in them, before it drops them for their level.

    Unnecessary once it looks at the level first.
    """
    if (level or event.level_tag()) not in _UNSEEN or any(logger.level in _UNSEEN for logger in manager.loggers):
        _fire_event(manager, event, level, *rest, **more)


EventManager.fire_event = _fire_if_seen
