"""Runs of the pipeline as Airflow would carry them out: in its order, each attempt a process, retried by its rules.

Any attempt may be hurt by a fault. One that is frozen counts as dead, as after a lost heartbeat: its retry goes on
without it, and later it wakes up.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from include.local.databases import WAREHOUSE
from include.sources import TableSpec
from tests.drill import invariants
from tests.drill.attempt import Attempt, Run
from tests.drill.strikes import STRIKES, Fault
from tests.drill.world import SOURCE, World

TRIES = 4
"""The DAG's `retries: 3`."""

HUNG_SECONDS = 60

KINDS = {
    "kill -9": 15, "freeze": 3, "pause": 1, "terminate shop": 2, "terminate warehouse": 3, "stop shop": 0.3,
    "stop warehouse": 2, "cut shop": 2, "cut warehouse": 3, "hang shop": 1, "lock raw": 1, "time out": 2,
    "disk full": 1,
}  # fmt: skip
"""How often each kind of fault is chosen."""

WITHOUT_DELAY = ("freeze", "pause", "time out", "disk full", "hang shop")

REFUSALS = {"in ranges at the same time", "raw's columns changed after this was read"}
"""What concurrent runs of one table may be told at any time."""

LOST_A_WIDENING = re.compile("in the source and .* in raw; run in the warehouse: (.*), then clear this task")
"""What they are told where a source has lost the change of a type, and the statement that a person then runs."""

AFTER_A_CRASH = "transaction numbers went back"
"""What they may be told where the source was stopped: numbers that no durable record had are drawn again."""

WAKING = ("its retry has won", "its run is over", "a later run is over")


@dataclass
class Tally:
    """What happened in a drill; filled by everybody, printed at the end."""

    schedules: int = 0
    runs: Counter[str] = field(default_factory=Counter)
    strikes: Counter[str] = field(default_factory=Counter)
    aimed_at: Counter[str] = field(default_factory=Counter)
    killed_at: Counter[str] = field(default_factory=Counter)
    behind_a_front: Counter[str] = field(default_factory=Counter)
    scenes: Counter[str] = field(default_factory=Counter)
    steps: defaultdict[tuple[str, str | None, bool], set[str]] = field(default_factory=lambda: defaultdict(set))
    changes: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    looks: int = 0
    checks: int = 0
    violations: list[str] = field(default_factory=list)
    mutants: dict[str, str] = field(default_factory=dict)


@dataclass
class Zombie:
    """A frozen attempt, and what it waits for."""

    pid: int
    run_id: str
    task: tuple[str, str | None, Any]
    waking: str


@dataclass
class Runs:
    """The runs of one schedule.

    Attributes:
        faults: Weights of the kinds of fault; `intensity` is the share of attempts that meet one.
        raised: Variables that a person set above the ledger, by table.
        loaded: Tables of which a load has succeeded.
        went_back: The source has lost versions that raw had.
    """

    world: World
    rng: random.Random
    tally: Tally
    log: BinaryIO
    faults: dict[str, float]
    intensity: float
    mutate: Callable[[], None] | None = None
    hung_seconds: int | None = None
    raised: dict[str, str] = field(default_factory=dict)
    expected_refusals: set[str] = field(default_factory=lambda: set(REFUSALS))
    violations: list[str] = field(default_factory=list)
    loaded: set[str] = field(default_factory=set)
    went_back: bool = False
    _zombies: list[Zombie] = field(default_factory=list)
    _listeners: dict[asyncio.Task[None], tuple[Attempt, int]] = field(default_factory=dict)
    _active: set[str] = field(default_factory=set)
    _alone: dict[str, bool] = field(default_factory=dict)

    async def run(self, run: Run, specs: list[TableSpec], *, calm: bool = False) -> bool:
        """Carry out one run to its end, green or red; a green one must have brought all that it promises."""
        self._begin(run.run_id)
        is_slice = run.interval is not None or "window_start" in run.params
        promised = {} if is_slice else invariants.versions(self.world, SOURCE, specs)
        green = await self._tasks(run, specs, calm)
        self.world.store.set(f"state_{run.run_id}", "success" if green else "failed")
        self.tally.runs["green" if green else "red"] += 1
        if green:
            self._check_green(run, specs, promised)
        self._active.discard(run.run_id)
        self._wake(lambda zombie: zombie.run_id != run.run_id or zombie.waking != WAKING[2])
        return green

    def _begin(self, run_id: str) -> None:
        self.world.store.set(f"state_{run_id}", "running")
        self._active.add(run_id)
        for other in self._active:
            self._alone[other] = len(self._active) == 1

    def _check_green(self, run: Run, specs: list[TableSpec], promised: dict[str, dict[bytes, int]]) -> None:
        raw = invariants.versions(self.world, WAREHOUSE, specs)
        source = invariants.versions(self.world, SOURCE, specs)
        for table, rows in promised.items():
            if self.world.specs[table].where:  # a row may have left when it was read, and have come back since
                rows = {key: version for key, version in rows.items() if source[table].get(key) == version}
            self.violations += invariants.lost_rows(table, rows, source[table], raw[table])
        if promised and self._alone[run.run_id] and {"items", "orders"} <= raw.keys():
            self.violations += invariants.references(self.world)
        if not self.went_back:
            self.violations += invariants.regressions(self.world)
        self.tally.checks += 1

    async def _tasks(self, run: Run, specs: list[TableSpec], calm: bool) -> bool:
        """Tables are read one after another, ranges of one at once; each load comes at some time after its extract."""
        horizon = await self._task(run, "horizon", None, None, calm)
        if horizon is None:
            return False
        green, staged = True, []
        for spec in specs:
            batch = await self._extract(run, spec, horizon, calm)
            if batch is None:
                green = False
            else:
                staged.append((spec, batch))
            while staged and (spec is specs[-1] or self.rng.random() < 0.6):
                spec_loaded, batch = staged.pop(self.rng.randrange(len(staged)))
                result = await self._task(run, "load", spec_loaded, batch, calm)
                green = green and result is not None
                if result:
                    self.loaded.add(spec_loaded.table)
                    self._count(result)
        return green

    async def _extract(self, run: Run, spec: TableSpec, horizon: Any, calm: bool) -> Any:
        """What the load is given; None where a part could not be read."""
        if not spec.rows_per_range:
            return await self._task(run, "extract", spec, horizon, calm)
        parts = await self._task(run, "cut", spec, horizon, calm)
        batches = [self._task(run, "extract range", spec, part, calm) for part in parts or ()]
        found = await asyncio.gather(*batches)
        return found if found and None not in found else None

    def _count(self, result: dict[str, Any]) -> None:
        self.tally.rows["extracted"] += result["rows_extracted"]
        self.tally.rows["changed"] += sum(result[f"rows_{how}"] for how in ("inserted", "updated", "deleted"))

    async def _task(self, run: Run, task: str, spec: TableSpec | None, given: Any, calm: bool) -> Any:
        """A task with its retries: its result, or None where it failed for good."""
        table = spec.table if spec else None
        for number in range(TRIES):
            fault = None if calm else self._choose(task, table, self.intensity / (1 + number))
            attempt = Attempt(self.world, run, task, table, given, fault, self.mutate)
            ended = await self._attempt(attempt)
            if spec:
                self.violations += invariants.marks(self.world, spec, self.raised.get(spec.table))
            if ended["ended"] == "ok":
                self._wake(lambda zombie: zombie.waking == WAKING[0] and zombie.task == (task, table, given))
                return ended["result"]
            if ended["ended"] == "refused":
                if self.went_back and (remedy := LOST_A_WIDENING.search(ended["message"])):
                    self._alter_raw(remedy[1])
                    continue
                if not any(expected in ended["message"] for expected in self.expected_refusals):
                    self.violations.append(f"{task} of {table} refused without a cause: {ended['message']}")
                return None
        return None

    def _alter_raw(self, statement: str) -> None:
        self.world.ask(WAREHOUSE, lambda connection: connection.execute(statement))

    def _choose(self, task: str, table: str | None, chance: float) -> Fault | None:
        """A fault for the next attempt, where earlier ones have shown its steps."""
        steps = sorted(self.tally.steps[task, table, table in self.loaded])
        if not steps or self.rng.random() > chance:
            return None
        # Ten times as often until it has struck: a drill is to meet every kind.
        kinds = {kind: weight * (1 if self.tally.strikes[kind] else 10) for kind, weight in self.faults.items()}
        kinds = {kind: weight for kind, weight in kinds.items() if kind in STRIKES}
        if table == "blobs":
            kinds["disk full"] = 10 * kinds.get("disk full", 0)
        elif kinds.pop("disk full", None) and not kinds:
            return None
        kind = self.rng.choices(list(kinds), list(kinds.values()))[0]
        delay = self.rng.choice((0.0, 0.0, self.rng.uniform(0.0005, 0.02)))
        if kind == "kill -9" and not delay:  # aimed at least, not hit least: a rare step would take every later kill
            step = min(steps, key=lambda step: (self.tally.aimed_at[f"{task}: {step}"], self.rng.random()))
            self.tally.aimed_at[f"{task}: {step}"] += 1
            return Fault(kind, step)
        if kind == "time out":
            steps = [step for step in steps if step.startswith("before")]
        if kind == "hang shop":  # what has a limit of its own is the stream
            steps = [step for step in steps if step.startswith("before shop: copy")]
        if kind == "disk full":  # what fails are writes
            writes = tuple(f"before warehouse: {command}" for command in ("copy", "insert", "merge"))
            steps = [step for step in steps if step.startswith(writes)]
        if not steps:
            return None
        return Fault(kind, self.rng.choice(steps), 0 if kind in WITHOUT_DELAY else delay)

    async def _attempt(self, attempt: Attempt) -> dict[str, Any]:
        """Fork, and wait until the process ended or froze."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            attempt.carry_out(writing, self.log.fileno())
        os.close(writing)
        ended: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        listener = asyncio.create_task(self._listen(attempt, pid, reading, ended))
        self._listeners[listener] = attempt, pid
        listener.add_done_callback(self._listeners.pop)
        listener.add_done_callback(
            lambda done: done.exception() and not ended.done() and ended.set_exception(done.exception())
        )
        if await _are_done_in_time({ended}, self.hung_seconds):
            return ended.result()
        self._end_hung(attempt, pid)
        return {"ended": "failed"}

    def _end_hung(self, attempt: Attempt, pid: int) -> None:
        self.violations.append(
            f"{attempt.task} of {attempt.table} hung for {self.hung_seconds or HUNG_SECONDS} s; fault: {attempt.fault}"
        )
        os.kill(pid, signal.SIGKILL)

    async def _listen(self, attempt: Attempt, pid: int, reading: int, ended: asyncio.Future[dict[str, Any]]) -> None:
        """Follow what a process tells, to its end."""
        last: dict[str, Any] = {"ended": "failed"}  # what a killed one cannot say
        stream = asyncio.StreamReader()
        with open(reading, "rb", buffering=0) as pipe:
            loop = asyncio.get_running_loop()
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
            async for line in stream:
                message = json.loads(line)
                if "ended" in message:
                    last = message
                elif "struck" in message:
                    self._struck(attempt, pid, message, ended)
                elif last["ended"] == "ok":  # steps of failing attempts, such as a rollback, are only met by chance
                    self.tally.steps[attempt.task, attempt.table, attempt.table in self.loaded].add(message["step"])
            transport.close()
        os.waitpid(pid, 0)
        if last["ended"] == "unexpected":
            problem = f"{attempt.task} of {attempt.table}, fault {attempt.fault}: {last['message']}"
            if attempt.mutate:  # it would count as caught
                raise RuntimeError(f"the mutant itself fails: {problem}")
            self.violations.append(problem)
        if not ended.done():
            ended.set_result(last)

    def _struck(self, attempt: Attempt, pid: int, message: dict[str, Any], ended: asyncio.Future[Any]) -> None:
        self.tally.strikes[message["struck"]] += 1
        if message["struck"] == "kill -9":
            self.tally.killed_at[f"{attempt.task}: {message['step']}"] += 1
        if message["struck"] == "stop shop":
            self.expected_refusals.add(AFTER_A_CRASH)
        if "down" in message:
            self.world.kill_server(message["pid"])  # the process may have ended before it came to that
            self.world.wait_until_down(message["down"], message["pid"])
            self.world.revive(message["down"])
        if message["struck"] == "freeze":
            os.waitpid(pid, os.WUNTRACED)
            waking = self.rng.choice(WAKING)
            self._zombies.append(Zombie(pid, attempt.run.run_id, (attempt.task, attempt.table, attempt.given), waking))
            if not ended.done():
                ended.set_result({"ended": "failed"})

    def _wake(self, is_due: Callable[[Zombie], bool]) -> None:
        for zombie in [zombie for zombie in self._zombies if is_due(zombie)]:
            self._zombies.remove(zombie)
            os.kill(zombie.pid, signal.SIGCONT)

    def wake_all(self) -> None:
        self._wake(lambda zombie: True)

    async def end(self) -> None:
        """Wake the last zombies and wait for everything that still moves."""
        self.wake_all()
        if not await _are_done_in_time(set(self._listeners)):
            for listener, hung in self._listeners.items():
                if not listener.done():
                    self._end_hung(*hung)
            await asyncio.wait(set(self._listeners))


async def _are_done_in_time(awaited: set[asyncio.Future[Any]], seconds: int | None = None) -> bool:
    """Whether all are done within so many seconds (`HUNG_SECONDS`) in which this loop listened.

    It does not while a question waits for a lock or a server starts: however long that takes, it counts as a second.
    """
    for _ in range(seconds or HUNG_SECONDS):
        if pending := {each for each in awaited if not each.done()}:
            await asyncio.wait(pending, timeout=1)
    return all(each.done() for each in awaited)
