"""One schedule: fresh databases, writers, half a minute of runs and faults, then silence and the comparison."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from include.local.databases import WAREHOUSE
from include.sources import TableSpec
from include.state.messages import to_text
from tests import clusters
from tests.drill import invariants, writers
from tests.drill.attempt import Run
from tests.drill.runs import KINDS, Runs, Tally
from tests.drill.world import SOURCE, World

BEYOND_SECONDS = 20
"""How long writers may take at most to write what a source has lost anew."""

FORK = multiprocessing.get_context("fork")

CUT_WRITERS_OFF = "select pg_terminate_backend(pid, 1000) from pg_stat_activity where usename = 'shop_app'"


ROWS = "select pair, half, parent, amount, body, version, updated_at from sold_rows"

PROVEN_VIEWS = (
    ROWS,
    f"{ROWS} where half in (0, 1) and (body is null or length(body) > 0 or body = '')",
    f"{ROWS} where public.in_cents(amount) is not null",
    "select pair, half, parent, amount, coalesce(body, 'none') as body, version, updated_at from only sold_rows",
    "select pair, half, parent, amount, updated_at::date::text as body, version, updated_at from sold_rows",
)
"""What `sold` may be: rows of one table that its cursor shows."""

UNPROVEN_VIEWS = (
    f"{ROWS} where exists (select from rates where number = pair % 5 and rate > 0)",
    f"{ROWS} where public.rate_of(pair) > 0",
    f"{ROWS} where updated_at < now() + interval '1 day'",
    f"{ROWS} where updated_at::date <= current_date + 1",
    f"{ROWS} union all {ROWS} where false",
    f"{ROWS} limit 1000000",
    "select pair, half, parent, amount, (select 'a' from rates limit 1) as body, version, updated_at from sold_rows",
    "select pair, half, parent, amount, body, version, updated_at + interval '0' as updated_at from sold_rows",
    "select distinct pair, half, parent, amount, body, version, updated_at from sold_rows",
)
"""What it may not: other rows or the time decide, or its cursor is computed."""


@dataclass(frozen=True)
class Plan:
    """What a schedule is made of.

    Attributes:
        seconds: How long runs are begun.
        tables: The tables; None draws some.
        scenes: Weights of the methods of `Schedule` below.
        faults: Weights of the kinds of fault.
        intensity: Share of attempts that meet a fault.
        mutate: Breaks the product in each attempt, to see whether the drill notices.
        ways: Weights of the ways in which the writers' transactions go.
        made_anew: Begins with a new cluster of the source: one that is made later repeats its OIDs.
        hung_seconds: When an attempt counts as hung; None: as everywhere.
    """

    seconds: float = 20
    tables: tuple[str, ...] | None = None
    scenes: dict[str, float] = field(
        default_factory=lambda: {
            "one_run": 6, "two_runs": 2, "backfill_beside": 2, "window_by_hand": 1, "full_refresh": 1, "person": 2,
            "hidden_rows": 0.5, "frozen_columns": 0.5, "moving_front": 0.6, "failover": 0.3, "async_crash": 0.5,
            "made_anew": 0.3,
            "unproven_view": 0.5, "used_keys": 0.5, "crosswise_labels": 0.5,
        }  # fmt: skip
    )
    faults: dict[str, float] = field(default_factory=lambda: KINDS)
    intensity: float = 0.5
    mutate: Callable[[], None] | None = None
    ways: dict[Callable[[writers.Writer], None], float] = field(default_factory=lambda: writers.WAYS)
    made_anew: bool = False
    hung_seconds: int | None = None


class Schedule:
    """Plays one schedule; all its decisions come from `seed`, its timing from the machine."""

    def __init__(self, world: World, seed: str, plan: Plan, tally: Tally) -> None:
        self.world, self.seed, self.plan, self.tally = world, seed, plan, tally
        self.rng = random.Random(seed)
        self.specs = self._draw_tables()
        self._number = 0

    def _draw_tables(self) -> list[TableSpec]:
        chosen = set(self.plan.tables or self.rng.sample(sorted(self.world.specs), 4))
        if "items" in chosen:
            chosen.add("orders")
        return [spec for spec in self.world.specs.values() if spec.table in chosen]

    async def play(self) -> list[str]:
        """Play it to its end, or to its first violation; returns the violations."""
        self.world.fresh(made_anew=self.plan.made_anew)
        self.tally.changes += writers.fill(self.world.app_dsn, self.specs)
        changes, looks = FORK.Array("q", 3, lock=False), FORK.Value("q", 0, lock=False)
        seen = self.world.folder / "seen"
        seen.unlink(missing_ok=True)
        writing = [
            FORK.Process(
                target=writers.write,
                name=f"writer {slot}",
                args=(self.world.app_dsn, self.specs, f"{self.seed}/{slot}", self.plan.ways, changes, slot),
            )
            for slot in range(3)
        ]
        watching = FORK.Process(
            target=invariants.watch, name="the watch on raw", args=(self.world, self.specs, seen, looks)
        )
        with (self.world.folder / "tasks.log").open("ab") as log:
            plan = self.plan
            self.runs = Runs(
                self.world, self.rng, self.tally, log, plan.faults, plan.intensity, plan.mutate, plan.hung_seconds
            )
            self.world.unblock = self._unblock
            for process in (*writing, watching):
                process.start()
            try:
                await self._act(seen)
                _end(writing)
                if not self.runs.violations:
                    await self._settle()
            finally:
                self.runs.violations += _end([*writing, watching])
                await self.runs.end()
                with suppress(psycopg.OperationalError):  # what is prepared keeps its database from being dropped
                    self._end_prepared()
        if seen.exists():
            self.runs.violations += seen.read_text().splitlines()[:3]
        self.tally.schedules += 1
        self.tally.changes += sum(changes)
        self.tally.looks += looks.value
        return self.runs.violations

    async def _act(self, seen: Any) -> None:
        end = time.monotonic() + self.plan.seconds
        scenes, weights, played = list(self.plan.scenes), list(self.plan.scenes.values()), 0
        # Two at least, however slow the machine: the second meets what the first has loaded.
        while (played < 2 or time.monotonic() < end) and not self.runs.violations and not seen.exists():
            scene = self.rng.choices(scenes, weights)[0]
            await getattr(self, scene)()
            self.tally.scenes[scene] += 1
            played += 1

    async def _settle(self) -> None:
        """Silence: prepared transactions end, zombies wake; one run without faults, and raw has to equal the source."""
        await self.runs.end()
        for side in (SOURCE, WAREHOUSE):
            self.world.revive(side)
        self._end_prepared()
        green = await self.runs.run(self._scheduled(), self.specs, calm=True)
        if green:
            self.runs.violations += invariants.at_quiescence(self.world, self.specs)
        else:
            self.runs.violations.append("a run without faults or writers was red")

    def _unblock(self) -> None:
        """End what may hold a lock for ever: a frozen task, a prepared transaction whose writer was cut off."""
        self.runs.wake_all()
        with suppress(psycopg.OperationalError):
            self._end_prepared("prepared < now() - interval '10 seconds'")

    def _end_prepared(self, condition: str = "true") -> None:
        query = f"select gid from pg_prepared_xacts where database = 'shop' and {condition}"
        with self.world.admin(SOURCE) as connection:
            for (name,) in connection.execute(query).fetchall():
                connection.execute(f"{self.rng.choice(('commit', 'rollback'))} prepared '{name}'")

    # Scenes.

    async def one_run(self) -> None:
        await self.runs.run(self._scheduled(), self.specs)

    async def two_runs(self) -> None:
        """What `max_active_runs=1` should prevent, and a cleared old run or another Airflow may bring about."""
        await asyncio.gather(self.one_run(), self._later(self.one_run))

    async def backfill_beside(self) -> None:
        await asyncio.gather(self.one_run(), self._later(self._backfill))

    async def _backfill(self) -> None:
        await self.runs.run(replace(self._scheduled("backfill"), interval=self._interval()), self.specs)

    async def window_by_hand(self) -> None:
        start, end = (to_text(bound) for bound in self._interval())
        await self.runs.run(self._scheduled("manual", window_start=start, window_end=end), self.specs)

    async def full_refresh(self) -> None:
        await self.runs.run(self._scheduled("manual", full_refresh=True), self.specs)

    async def person(self) -> None:
        """Somebody edits a Variable while a run is under way."""
        await asyncio.gather(self.one_run(), self._later(self._edit_variable))

    async def _edit_variable(self) -> None:
        spec = self.rng.choice([spec for spec in self.specs if spec.mode != "full"] or self.specs)
        value = self.world.store.get(spec.watermark_key)
        if value is None:
            return
        mark = datetime.fromisoformat(value)
        edit = self.rng.choice(("lower", "delete", "raise"))
        if edit == "delete":
            self.world.store.delete(spec.watermark_key)
        else:
            by = self.rng.uniform(-60, 0) if edit == "lower" else 0.001  # not into the future, which is refused
            self.runs.raised[spec.table] = edited = to_text(mark + timedelta(seconds=by))
            self.world.store.set(spec.watermark_key, edited)

    async def hidden_rows(self) -> None:
        """A row-level policy appears in the source: the run has to say so, and not to go on without the rows."""
        tables = [spec.table for spec in self.specs if spec.table not in writers.BENEATH]
        if not tables:
            return
        policy = f"alter table {self.rng.choice(tables)} {{}} row level security"
        await self._refused("row-level security", policy.format("enable"), policy.format("disable"))

    async def frozen_columns(self) -> None:
        """A table whose columns may not change gets another one: the run has to stop at it, until it is gone."""
        for spec in (spec for spec in self.specs if spec.drift == "freeze" and spec.table in self.runs.loaded):
            alter = f"alter table {spec.table} {{}}"
            await self._refused(
                "drift: freeze",
                alter.format("add column if not exists frozen int"),
                alter.format("drop column if exists frozen"),
            )

    async def moving_front(self) -> None:
        """Tasks come to the primary or to a standby that lags behind it, as it happens."""
        refusal = "is a hot standby"  # of the horizon alone, which is not tried again
        self.world.follow()
        await asyncio.sleep(self.rng.uniform(0.2, 1.0))  # what is written now it does not show
        self.runs.expected_refusals.add(refusal)
        moving = asyncio.create_task(self._move_front())
        green = await self.runs.run(self._scheduled(), self.specs)
        moving.cancel()
        self.tally.behind_a_front["green" if green else "red"] += 1
        self.world.reading.lead_to(self.world.ports[SOURCE])
        await self.runs.end()
        self.runs.expected_refusals.discard(refusal)

    async def _move_front(self) -> None:
        assert self.world.standby is not None
        while True:
            self.world.reading.lead_to(self.rng.choice((self.world.ports[SOURCE], self.world.standby.port)))
            await asyncio.sleep(self.rng.uniform(0.02, 0.5))

    async def failover(self) -> None:
        """The primary dies; a standby takes over that had not received everything."""
        await self.runs.end()
        clusters.cut_off(self.world.follow())
        await self.one_run()
        await self._go_back(self.world.take_over)

    async def async_crash(self) -> None:
        """Commits that do not wait for the disk are read, and lost in a crash."""
        set_ = "alter system set synchronous_commit = off; alter system set wal_writer_delay = '10s'"
        await self._configure(*set_.split("; "))
        await self.one_run()
        await self._go_back(self.world.crash)
        await self._configure("alter system reset synchronous_commit", "alter system reset wal_writer_delay")

    async def made_anew(self) -> None:
        """The source is another cluster, with the same tables and other rows."""
        await self.one_run()
        await self._go_back(lambda: self.world.make_anew(lambda dsn: writers.fill(dsn, self.specs, later=7)))

    async def _configure(self, *statements: str) -> None:
        for statement in (*statements, "select pg_reload_conf()"):
            self.world.ask(SOURCE, lambda connection: connection.execute(statement))

    async def _go_back(self, change: Callable[[], None]) -> None:
        """Have the source lose commits while nobody writes or reads; a calm run later raw has to equal it."""
        await self.runs.end()
        self._let_writers(False)
        before = invariants.versions(self.world, SOURCE, self.specs)
        [newest] = self.world.ask(
            SOURCE, lambda connection: connection.execute("select last_value from versions").fetchone()
        )
        place = self._place()
        change()
        # A row of before that is written again has a later version than the one that was lost.
        self.world.ask(SOURCE, lambda connection: connection.execute("select setval('versions', %s)", [newest + 1]))
        after = invariants.versions(self.world, SOURCE, self.specs)
        self.runs.went_back = True
        self._let_writers(True)
        await asyncio.sleep(self.rng.uniform(0.3, 1.0))  # numbers and log go on
        end = time.monotonic() + self.rng.choice([0, BEYOND_SECONDS])
        while time.monotonic() < end and not all(now > then for now, then in zip(self._place(), place, strict=True)):
            await asyncio.sleep(0.1)  # beyond where they were, as fast as this machine writes
        self._let_writers(False)
        self._end_prepared()
        if await self.runs.run(self._scheduled(), self.specs, calm=True):
            source, raw = (invariants.versions(self.world, side, self.specs) for side in (SOURCE, WAREHOUSE))
            for spec in self.specs:
                lost = before[spec.table].keys() - after[spec.table].keys()
                self.runs.violations += invariants.phantoms(spec, lost, source[spec.table], raw[spec.table])
            invariants.forget_regressions(self.world)
            self.runs.violations += invariants.at_quiescence(self.world, self.specs)
        else:
            self.runs.violations.append("a run without faults or writers was red, after the source went back")
        self.runs.went_back = False
        self._let_writers(True)

    def _place(self) -> tuple[int, int]:
        """Where the source's log is, in bytes, and its next transaction number."""
        query = (
            "select pg_current_wal_insert_lsn() - '0/0'::pg_lsn, pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
        )
        return self.world.ask(SOURCE, lambda connection: connection.execute(query).fetchone())

    def _let_writers(self, may_write: bool) -> None:
        self.world.writing.lead_to(self.world.ports[SOURCE] if may_write else 0)
        # It must not wait for the disk: with it, all that the writers committed before would survive a crash.
        login = f"set synchronous_commit = off; alter role shop_app {'login' if may_write else 'nologin'}"
        self.world.ask(SOURCE, lambda connection: connection.execute(login))
        if not may_write:
            self.world.ask(SOURCE, _cut_writers_off)

    async def unproven_view(self) -> None:
        """A view is replaced by one whose changes no cursor shows: the run has to stop at it, until it is another."""
        for spec in (spec for spec in self.specs if spec.table == "sold" and spec.table in self.runs.loaded):
            replace_view = f"create or replace view {spec.table} as {{}}"
            await self._refused(
                "add `deletes: soft`",
                replace_view.format(self.rng.choice(UNPROVEN_VIEWS)),
                replace_view.format(self.rng.choice(PROVEN_VIEWS)),
            )

    async def used_keys(self) -> None:
        """Rows of an append table are changed: the run has to stop at it, and the advised refresh to bring them."""
        for spec in (spec for spec in self.specs if spec.mode == "append" and spec.table in self.runs.loaded):
            change = f"update {spec.table} set body = body || '!', updated_at = now() where pair = 1"
            await self._refused("`mode: append`", change, "select")
            self.runs.expected_refusals.add("`mode: append`")  # of what a zombie read before
            refresh = self._scheduled("manual", full_refresh=True)
            if not await self.runs.run(refresh, [spec], calm=True):
                self.runs.violations.append(f"a refresh of {spec.table} as advised was red")
            await self.runs.end()
            self.runs.expected_refusals.discard("`mode: append`")

    async def crosswise_labels(self) -> None:
        """Two labels of an enum get each other's name: every row that has one reads otherwise, and no cursor moves."""
        if "shapes" in self.runs.loaded:
            self.world.ask(SOURCE, _rename_crosswise)
        await self.one_run()

    async def _refused(self, refusal: str, change: str, undo: str) -> None:
        """Change the source in a way that the next run has to refuse, for that run."""
        await self.runs.end()  # a zombie may hold a lock on the table
        try:
            self.world.ask(SOURCE, lambda connection: connection.execute(change))
        except psycopg.errors.LockNotAvailable:  # writers are busy at it: another time
            return
        self.runs.expected_refusals.add(refusal)
        if await self.runs.run(self._scheduled(), self.specs):
            self.runs.violations.append(f"a run was green that should have said {refusal!r}")
        await self.runs.end()
        self.world.ask(SOURCE, lambda connection: _insist(connection, undo))
        self.runs.expected_refusals.discard(refusal)

    async def _later(self, scene: Callable[[], Awaitable[None]]) -> None:
        await asyncio.sleep(self.rng.uniform(0, 1))
        await scene()

    def _scheduled(self, run_type: str = "scheduled", **params: Any) -> Run:
        self._number += 1
        return Run(f"{run_type}__{self._number}", run_type, params)

    def _interval(self) -> tuple[datetime, datetime]:
        start = datetime.now(UTC) - timedelta(seconds=self.rng.uniform(1, 20))
        return start, start + timedelta(seconds=self.rng.uniform(0.5, 10))


def _cut_writers_off(connection: psycopg.Connection) -> None:
    """None is left, not even one whose connection was on its way when the front closed: roles that may not log in."""
    nameless_yet = "backend_type = 'client backend' and usename is null"
    coming = f"select 1 from pg_stat_activity where usename = 'shop_app' or ({nameless_yet})"
    while connection.execute(coming).fetchone():
        connection.execute(CUT_WRITERS_OFF)


def _rename_crosswise(connection: psycopg.Connection) -> None:
    connection.execute("alter type mood add value if not exists 'odd'")
    with connection.transaction():
        for old, new in (("fine", "between"), ("odd", "fine"), ("between", "odd")):
            connection.execute(f"alter type mood rename value '{old}' to '{new}'")


def _insist(connection: psycopg.Connection, change: str) -> None:
    """Change the source; writers who are busy at it all the time are cut off before the next try."""
    try:
        connection.execute(change)
    except psycopg.errors.LockNotAvailable:
        connection.execute(CUT_WRITERS_OFF)
        raise


def _end(processes: list[Any]) -> list[str]:
    """End writers and watch. One that had died is a violation: nobody has written or looked since."""
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join()
    return [
        f"{process.name} died with exit code {process.exitcode}; what it said is above"
        for process in processes
        if process.exitcode not in (0, -signal.SIGTERM)  # the latter was ended before it had begun
    ]
