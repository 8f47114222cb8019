"""One attempt at one task, in a forked process that may be killed at any statement.

The task functions are the product's own. Around them stand in: Airflow's context and Variables; and psycopg's
statements are wrapped, so that the moment before and the moment after each of them is a place where a fault can strike.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import psutil
import psycopg
import structlog
from airflow.sdk.exceptions import AirflowFailException
from psycopg import Cursor, sql
from psycopg._connection_base import BaseConnection
from psycopg.pq import ExecStatus, TransactionStatus

from include import tasks
from include.errors import TransientError
from include.extract import stream
from include.local.databases import SOURCE, WAREHOUSE
from tests.drill.proxy import Proxy
from tests.drill.world import MODELS_DIR, SIDES, USERS, World

DISK_BYTES = 16 * 1024 * 1024
"""A file of the warehouse's session that grows beyond this finds the disk full; no WAL segment is larger."""

TOO_LARGE = "File too large"
"""What the server then says, as an internal error; of a full disk it says "No space left", as an operational one."""


@dataclass(frozen=True)
class Run:
    """One run of the pipeline as a task sees it."""

    run_id: str
    run_type: str = "scheduled"
    params: dict[str, Any] = field(default_factory=dict)
    interval: tuple[datetime, datetime] | None = None


@dataclass(frozen=True)
class Fault:
    """Something to happen to one attempt.

    Attributes:
        kind: A name in `STRIKES`.
        step: Where, a name that `Attempt` reports.
        delay: Seconds; above zero the fault strikes from beside, while the attempt goes on.
    """

    kind: str
    step: str
    delay: float = 0.0


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
            if self.fault and self.fault.kind == f"cut {side}":
                self.proxies[side] = Proxy(self.world.ports[side])
            port = self.proxies[side].port if side in self.proxies else None
            os.environ[f"AIRFLOW_CONN_{side.upper()}"] = self.world.task_dsn(side, port)
        store, run, pin = self.world.store, self.run, tasks.pin
        context = {
            "run_id": run.run_id,
            "params": run.params,
            "dag_run": SimpleNamespace(run_type=run.run_type, dag_id="elt_pipeline", run_id=run.run_id),
            "ti": SimpleNamespace(get_dagrun_state=lambda _, run_id: store.get(f"state_{run_id}")),
            "data_interval_start": run.interval and run.interval[0],
            "data_interval_end": run.interval and run.interval[1],
        }

        def impatient(connection: psycopg.Connection, *, read_only: bool) -> psycopg.Connection:
            """The product waits a minute for a lock; a drill has no minute."""
            pin(connection, read_only=read_only)
            connection.execute("select set_config('lock_timeout', '500ms', false)")
            self.sessions[SOURCE if connection.info.user == USERS[SOURCE] else WAREHOUSE] = connection
            return connection

        replace(tasks, "get_current_context", lambda: context)
        replace(tasks, "MODELS_DIR", MODELS_DIR)
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


# Strikes.

Strike = Callable[[Attempt, Fault], None]


def _kill(attempt: Attempt, fault: Fault) -> None:
    attempt.tell(struck=fault.kind, step=fault.step)
    os.kill(os.getpid(), signal.SIGKILL)


def _freeze(attempt: Attempt, fault: Fault) -> None:
    attempt.tell(struck=fault.kind, step=fault.step)
    os.kill(os.getpid(), signal.SIGSTOP)


def _pause(attempt: Attempt, fault: Fault) -> None:
    attempt.tell(struck=fault.kind, step=fault.step)
    time.sleep(0.3)


def _terminate(side: str) -> Strike:
    def strike(attempt: Attempt, fault: Fault) -> None:
        if side in attempt.sessions:
            with attempt.world.admin(side) as admin:
                pid = attempt.sessions[side].info.backend_pid
                _quietly(admin, f"select pg_terminate_backend({pid}, {0 if fault.delay else 1000})")
            attempt.tell(struck=fault.kind, step=fault.step)

    return strike


def _stop(side: str) -> Strike:
    def strike(attempt: Attempt, fault: Fault) -> None:
        pid = attempt.world.kill_server(side)
        if not fault.delay:
            attempt.world.wait_until_down(side, pid)
        attempt.tell(struck=fault.kind, step=fault.step, down=side, pid=pid)

    return strike


def _cut(side: str) -> Strike:
    def strike(attempt: Attempt, fault: Fault) -> None:
        attempt.proxies[side].cut(after_bytes=int(fault.delay * 10_000_000))
        attempt.tell(struck=fault.kind, step=fault.step)

    return strike


def _fill_disk(attempt: Attempt, fault: Fault) -> None:
    """A limit on the files of the warehouse's backend: its writes fail like those on a full disk, and nobody else's."""
    if WAREHOUSE in attempt.sessions:
        backend = psutil.Process(attempt.sessions[WAREHOUSE].info.backend_pid)
        helper = os.fork()  # only the server's own user may limit it
        if helper == 0:
            os.setgid(backend.gids().real)
            os.setuid(backend.uids().real)
            backend.rlimit(psutil.RLIMIT_FSIZE, (DISK_BYTES, psutil.RLIM_INFINITY))
            os._exit(0)
        os.waitpid(helper, 0)


def _lock_raw(attempt: Attempt, fault: Fault) -> None:
    """Somebody's `alter table` on raw, which waits for nobody and ends when it likes."""
    holder = attempt.world.admin(WAREHOUSE)
    try:
        _quietly(holder, "begin; set local lock_timeout = 100")
        _quietly(holder, f"lock table raw_shop.{attempt.table} in access exclusive mode")
    except psycopg.OperationalError:
        holder.close()  # no such table yet, or a load was faster
    else:
        attempt.tell(struck=fault.kind, step=fault.step)
        threading.Timer(0.2 + 50 * fault.delay, holder.close).start()


def _time_out(attempt: Attempt, fault: Fault) -> None:
    """From here on no statement may take longer than two milliseconds."""
    at_rest = (TransactionStatus.IDLE, TransactionStatus.INTRANS)
    if sessions := [each for each in attempt.sessions.values() if each.info.transaction_status in at_rest]:
        for session in sessions:
            _quietly(session, "set statement_timeout = 2")
        attempt.tell(struck=fault.kind, step=fault.step)


def _quietly(connection: psycopg.Connection, query: str) -> None:
    """Below psycopg's cursors, which are traced."""
    done = connection.pgconn.exec_(query.encode())
    if done.status == ExecStatus.FATAL_ERROR:
        raise psycopg.OperationalError(done.error_message.decode())


STRIKES: dict[str, Strike] = {
    "kill -9": _kill,
    "freeze": _freeze,
    "pause": _pause,
    **{f"terminate {side}": _terminate(side) for side in SIDES},
    **{f"stop {side}": _stop(side) for side in SIDES},
    **{f"cut {side}": _cut(side) for side in SIDES},
    "lock raw": _lock_raw,
    "time out": _time_out,
    **({"disk full": _fill_disk} if sys.platform == "linux" else {}),
}
"""Every kind of fault, by its name in the report."""
