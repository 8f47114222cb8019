"""One attempt at one task, in a forked process that may be killed at any statement.

The task functions are the product's own. Around them stand in: Airflow's context and Variables; and psycopg's
statements are wrapped, so that the moment before and the moment after each of them is a place where a fault can strike.
"""

from __future__ import annotations

import json
import os
import re
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import psycopg
import structlog
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.execution_time.context import OutletEventAccessors
from psycopg import Cursor, sql
from psycopg._connection_base import BaseConnection

from include.errors import TransientError
from include.extract import stream
from include.local.databases import WAREHOUSE
from include.orchestrate import tasks
from include.sources import Tables
from tests.drill.proxy import Proxy
from tests.drill.strikes import STRIKES, TOO_LARGE, Fault
from tests.drill.world import SIDES, SOURCE, USERS, World


@dataclass(frozen=True)
class Run:
    """One run of the pipeline as a task sees it."""

    run_id: str
    run_type: str = "scheduled"
    params: dict[str, Any] = field(default_factory=dict)
    interval: tuple[datetime, datetime] | None = None


@dataclass
class Attempt:
    """A task, what it is given, and what will happen to it."""

    world: World
    run: Run
    task: str
    table: str | None
    given: Any
    fault: Fault | None
    mutate: Callable[[], None] | None
    pipe: int = -1
    seen: dict[str, None] = field(default_factory=dict)
    sessions: dict[str, psycopg.Connection] = field(default_factory=dict)
    proxies: dict[str, Proxy] = field(default_factory=dict)
    struck: bool = False

    def tell(self, **message: Any) -> None:
        os.write(self.pipe, (json.dumps(message) + "\n").encode())

    def carry_out(self, pipe: int, log: int) -> NoReturn:
        """Run the task, tell how it ended, and end the process without a trace of the parent's objects."""
        self.pipe = pipe
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            self._stand_in()
            result = self._call()
            self.tell(ended="ok", result=result)
        except AirflowFailException as error:
            self.tell(ended="refused", message=str(error)[:500])
        except (TransientError, psycopg.OperationalError) as error:
            self.tell(ended="failed", message=f"{type(error).__name__}: {error}"[:500])
        except BaseException as error:
            if is_disk_full := TOO_LARGE in str(error):
                self.tell(struck="disk full", step="")
            self.tell(ended="failed" if is_disk_full else "unexpected", message=traceback.format_exc()[-2500:])
        finally:
            for step in self.seen:
                self.tell(step=step)
            os._exit(0)

    def _call(self) -> Any:
        if self.task == "horizon":
            return tasks.open_run.function(SOURCE)
        if self.task == "extract range":
            return tasks.extract_range.function(self.given)
        function = {"cut": tasks.cut, "extract": tasks.extract, "load": tasks.load}[self.task].function
        return function(f"{SOURCE}.{self.table}", self.given)

    def _stand_in(self) -> None:
        structlog.contextvars.bind_contextvars(run=self.run.run_id, task=self.task, pid=os.getpid())
        for side in SIDES:
            if self.fault and self.fault.kind in (f"cut {side}", f"hang {side}"):
                os.environ["ELT_STALL_MINUTES"] = "0.05"
                address = self.world.address(side)
                self.proxies[side] = Proxy(lambda: address)
            port = self.proxies[side].port if side in self.proxies else None
            os.environ[f"AIRFLOW_CONN_{side.upper()}"] = self.world.task_dsn(side, port)
        store, run, pin = self.world.store, self.run, tasks.pin
        context = {
            "run_id": run.run_id,
            "params": run.params,
            "dag_run": SimpleNamespace(
                run_type=run.run_type,
                dag_id="elt_pipeline",
                run_id=run.run_id,
                data_interval_start=run.interval and run.interval[0],
                data_interval_end=run.interval and run.interval[1],
            ),
            "ti": SimpleNamespace(
                get_dagrun_state=lambda _, run_id: store.get(f"state_{run_id}"), task=SimpleNamespace(outlets=[])
            ),
            "outlet_events": OutletEventAccessors(),
        }

        def impatient(connection: psycopg.Connection, **given: Any) -> psycopg.Connection:
            """The product waits a minute for a lock; a drill has no minute."""
            pin(connection, **given)
            connection.execute("select set_config('lock_timeout', '500ms', false)")
            self.sessions[SOURCE if connection.info.user == USERS[SOURCE] else WAREHOUSE] = connection
            return connection

        replace(tasks, "get_current_context", lambda: context)
        replace(tasks, "load_tables", lambda: Tables(self.world.specs, {}))
        replace(tasks, "pin", impatient)
        self._trace()
        if self.mutate:
            self.mutate()

    # Steps: where a fault can strike.

    def _reach(self, when: str, name: str) -> None:
        step = f"{when} {name}"
        self.seen.setdefault(step)
        if self.fault and self.fault.step == step and not self.struck:
            self.struck = True
            strike = STRIKES[self.fault.kind]
            if self.fault.delay:
                threading.Timer(self.fault.delay, strike, (self, self.fault)).start()
            else:
                strike(self, self.fault)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self._reach("before", name)
        yield
        self._reach("after", name)

    def _trace(self) -> None:
        """Make a step of every statement, COPY, begin, commit and rollback, and of setting a Variable."""
        execute, copy, command, store = Cursor.execute, Cursor.copy, BaseConnection._exec_command, self.world.store
        enter, blocks = stream._Reader.__enter__, stream._Reader.__iter__

        def traced_execute(cursor: Cursor, query: Any, *args: Any, **kwargs: Any) -> Any:
            with self._step(statement_name(cursor.connection, query)):
                return execute(cursor, query, *args, **kwargs)

        @contextmanager
        def traced_copy(cursor: Cursor, query: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            name = statement_name(cursor.connection, query)
            with self._step(name), copy(cursor, query, *args, **kwargs) as blocks:
                self._reach("inside", name)
                yield blocks
                self._reach("at the end of", name)

        def traced_enter(reader: Any) -> Any:
            with self._step(statement_name(reader._connection, reader._query)):
                return enter(reader)

        def traced_blocks(reader: Any) -> Iterator[bytes]:
            name = statement_name(reader._connection, reader._query)
            for block in blocks(reader):
                self._reach("inside", name)
                yield block
            self._reach("at the end of", name)

        def traced_command(connection: BaseConnection, query: Any, *args: Any, **kwargs: Any) -> Any:
            with self._step(statement_name(connection, query)):
                return (yield from command(connection, query, *args, **kwargs))

        def set_variable(key: str, value: str, description: str | None = None) -> None:
            with self._step("Variable.set"):
                store.set(key, value)

        replace(Cursor, "execute", traced_execute)
        replace(Cursor, "copy", traced_copy)
        replace(stream._Reader, "__enter__", traced_enter)
        replace(stream._Reader, "__iter__", traced_blocks)
        replace(BaseConnection, "_exec_command", traced_command)
        replace(tasks, "Variable", SimpleNamespace(get=store.get, set=set_variable))


def warm_up(world: World) -> None:
    """Connect once in the parent, so that no attempt has to import what connecting needs."""
    os.environ[f"AIRFLOW_CONN_{SOURCE.upper()}"] = world.task_dsn(SOURCE)
    with tasks.session(SOURCE):
        pass


def replace(owner: ModuleType | type, name: str, value: Any) -> None:
    """Monkeypatch; this process ends soon. What is not there cannot be replaced: then the drill would prove nothing."""
    getattr(owner, name)
    setattr(owner, name, value)


def statement_name(connection: psycopg.Connection, query: Any) -> str:
    """`warehouse: insert into … as old`: the side and a statement's first words, the same for every table."""
    side = SOURCE if connection.info.user == USERS[SOURCE] else WAREHOUSE
    if isinstance(query, sql.Composable):
        query = query.as_string(None)
    text = query.decode() if isinstance(query, bytes) else query
    text = re.sub(r"--[^\n]*", "", text)
    text = re.sub(r"""("[^"]*"|'[^']*')(\s*[.,]\s*("[^"]*"|'[^']*'))*""", "…", text)
    return f"{side}: {' '.join(re.sub(r'[0-9]+', 'n', text).split())[:70]}"
