"""Ways to break the product that the drill has to notice, each the mistake of somebody's real pipeline."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any

from psycopg import sql

from include.extract import horizon, stream, table
from include.extract.horizon import read_horizon
from include.load import publish
from include.orchestrate import tasks
from include.postgres.server import Server
from include.schema import drift, shape
from tests.drill.attempt import replace
from tests.drill.schedule import Plan
from tests.drill.writers import Writer


def cursor_at_max() -> None:
    """Read from the largest cursor value that was loaded. A transaction that commits late lies below it."""
    extract_table = tasks.extract_table

    def mutant(source: Any, warehouse: Any, request: Any) -> Any:
        if request.window.mode == "incremental":
            spec = request.spec
            row = warehouse.execute(f"select max({spec.cursor}) from {spec.raw_schema}.{spec.table}").fetchone()
            request = changed(request, window=changed(request.window, lower=row[0]))
        return extract_table(source, warehouse, request)

    replace(tasks, "extract_table", mutant)


def horizon_after_snapshot() -> None:
    """Read the horizon when the rows have been read. What commits in between is below it and was not seen."""
    extract_table = tasks.extract_table

    def mutant(source: Any, *rest: Any) -> Any:
        batch = extract_table(source, *rest)
        time.sleep(0.3)
        late = read_horizon(source, "shop")
        return changed(batch, mark=late.at, horizon=late.at) if batch.mark and late.may_advance else batch

    replace(tasks, "extract_table", mutant)


def horizon_without_statements() -> None:
    """Count from the start of each open transaction alone. A procedure that commits on its way began before it."""
    text = horizon.statement("horizon").as_string()
    mutated = text.replace("('active', 'fastpath function call')", "('nothing')")
    assert mutated != text
    replace(horizon, "statement", lambda _: sql.SQL(mutated))


def stream_without_limit() -> None:
    """Wait for a stream as long as its connection is open."""
    replace(stream, "stall_seconds", lambda: 10_000)


def no_version_guard() -> None:
    """Let a load write its rows whatever newer snapshot another load has published meanwhile."""
    replace(publish, "newer_loads", lambda *_: [])


def mark_before_commit() -> None:
    """Set the Variable, then load. A kill in between leaves a watermark above the data."""
    load_batch = tasks.load_batch

    def mutant(warehouse: Any, spec: Any, *parts: Any) -> Any:
        if parts[0].mark:
            tasks.Variable.set(spec.watermark_key, parts[0].mark.isoformat())
        return load_batch(warehouse, spec, *parts)

    replace(tasks, "load_batch", mutant)


def row_security_on() -> None:
    """Leave `row_security` at its default: a policy then hides rows instead of raising an error."""
    pin = tasks.pin

    def mutant(connection: Any, **options: Any) -> Any:
        pin(connection, **options).execute("set row_security = on")
        return connection

    replace(tasks, "pin", mutant)


def standby_taken_for_the_primary() -> None:
    """Ask who is there for the horizon alone. A standby that lags shows fewer rows than the mark promises."""
    replace(table, "expect", lambda now, *_: now)


def lost_rows_stay() -> None:
    """Mend what the source has, and leave what it has lost where `deletes` are ignored."""
    find_loss = table.find_loss

    def mutant(*given: Any) -> Any:
        loss = find_loss(*given)
        return loss and changed(loss, since=None)

    replace(table, "find_loss", mutant)


def restart_is_nothing() -> None:
    """Compare place in the log and transaction number alone. Soon after a crash both are larger again."""
    contradicts = Server.contradicts

    def mutant(now: Server, before: Server) -> str | None:
        return contradicts(changed(now, started_at=before.started_at), before)

    replace(Server, "contradicts", mutant)


def any_server_will_do() -> None:
    """Tell tables by their OIDs, which repeat where the same script makes a source anew."""
    replace(table, "find_loss", lambda *_: None)


def every_view_trusted() -> None:
    """Go by the cursor of any view. What other rows or the time decide changes without it."""
    replace(drift, "refuse_unproven", lambda *_: None)


def keys_and_cursors_alone() -> None:
    """Compare no more of a view that joins: a joined value that changes stays as it was."""
    replace(table, "unproven", lambda *_: None)


def used_keys_taken_for_known() -> None:
    """Ask no new row of an append table whether raw has its key, as if each were known."""
    replace(publish, "refuse_known_keys", lambda *_: None)


def labels_by_name() -> None:
    """Look whether a label is still there, not which it is."""
    lost = shape.lost

    def mutant(*given: Any) -> Any:
        return {part for part in lost(*given) if not re.match(r"label \d+ ", part)}

    replace(shape, "lost", mutant)


ONE_RUN, TWO_RUNS = {"one_run": 1.0}, {"two_runs": 1.0}

LOST, PHANTOM = r"lost \d+ rows|not in raw", "that the source had lost"


@dataclass(frozen=True)
class Mutant:
    """A mutant's schedule, in which it shows soon and which ends with the first violation.

    Attributes:
        breaks: What a violation says that is its doing; any other is one of the drill, as without a mutant.
    """

    plan: Plan
    breaks: str


MUTANTS = {
    "cursor at max(updated_at)": Mutant(Plan(120, ("orders",), ONE_RUN, {}, 0, cursor_at_max), LOST),
    "horizon after the snapshot": Mutant(Plan(120, ("orders", "shapes"), ONE_RUN, {}, 0, horizon_after_snapshot), LOST),
    "horizon from transactions alone": Mutant(
        Plan(120, ("orders",), ONE_RUN, {}, 0, horizon_without_statements, {Writer.procedure: 1, Writer.at_once: 1}),
        LOST,
    ),
    "a stream may stand still": Mutant(
        Plan(120, ("orders",), ONE_RUN, {"hang shop": 1.0}, 0.7, stream_without_limit, hung_seconds=20),
        r"^extract of \w+ hung for .*'hang shop'",
    ),
    "no version guard": Mutant(
        Plan(300, ("orders", "shapes"), TWO_RUNS, {"pause": 1.0}, 0.7, no_version_guard),
        f"went back|above the ledger|{LOST}",
    ),
    "mark written before the commit": Mutant(
        Plan(120, ("orders",), ONE_RUN, {"kill -9": 1.0}, 0.7, mark_before_commit), f"above the ledger|{LOST}"
    ),
    "row-level policy hides rows": Mutant(
        Plan(120, ("orders",), {"hidden_rows": 1.0}, {}, 0, row_security_on), f"should have said|{LOST}"
    ),
    "standby taken for the primary": Mutant(
        Plan(120, ("orders",), {"moving_front": 1.0}, {}, 0, standby_taken_for_the_primary), LOST
    ),
    "rows that the source lost stay": Mutant(
        Plan(120, ("orders", "unstamped"), {"failover": 1.0}, {}, 0, lost_rows_stay), PHANTOM
    ),
    "a restart loses nothing": Mutant(
        Plan(120, ("orders",), {"async_crash": 1.0}, {}, 0, restart_is_nothing), f"{PHANTOM}|{LOST}|went back"
    ),
    "any server will do": Mutant(
        Plan(120, ("orders",), {"made_anew": 1.0}, {}, 0, any_server_will_do, made_anew=True), f"{PHANTOM}|{LOST}"
    ),
    "any view trusted": Mutant(
        Plan(60, ("sold",), {"unproven_view": 1.0, "one_run": 1.0}, {}, 0, every_view_trusted), "should have said"
    ),
    "joined values not compared": Mutant(Plan(4, ("rated",), ONE_RUN, {}, 0, keys_and_cursors_alone), LOST),
    "used keys taken for known": Mutant(
        Plan(60, ("events", "orders"), {"used_keys": 1.0, "one_run": 1.0}, {}, 0, used_keys_taken_for_known),
        "should have said",
    ),
    "labels compared by name": Mutant(
        Plan(8, ("shapes",), {"crosswise_labels": 1.0}, {}, 0, labels_by_name, {Writer.pause: 1}), LOST
    ),
}
