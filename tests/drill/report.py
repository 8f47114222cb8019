"""The table that a person reads at the end."""

from __future__ import annotations

from tests.drill.runs import KINDS, Tally
from tests.drill.strikes import STRIKES

DEADLY = ("kill -9", "terminate", "stop", "cut")
"""Kinds of fault that count as a kill: of a process, a session, a server or a connection."""


def kills(tally: Tally) -> int:
    return sum(count for kind, count in tally.strikes.items() if kind.startswith(DEADLY))


def never_met(tally: Tally, *, all_kinds: bool) -> list[str]:
    """What a drill has to have done to say anything, and did not."""
    if not tally.schedules:
        return ["no schedule was played: the machine is too slow for so few MINUTES="]
    counts = {"green run was checked": tally.checks, "look at raw was taken": tally.looks}
    if all_kinds:
        counts |= {f"fault {kind!r} struck": tally.strikes[kind] for kind in STRIKES}
    return [f"no {what}" for what, count in counts.items() if not count]


def table(tally: Tally, seed: str, minutes: float) -> str:
    """The whole drill on one screen."""
    known = {f"{task}: {step}" for (task, _, _), steps in tally.steps.items() for step in steps}
    hit = known & tally.killed_at.keys()
    rows: list[tuple[str, str]] = [
        ("seed", f"{seed}, {minutes:.1f} minutes"),
        ("schedules", f"{tally.schedules}, each on fresh databases, ended by a comparison byte for byte"),
        ("runs", f"{tally.runs.total()}: {tally.runs['green']} green, {tally.runs['red']} red as they should be"),
        ("scenes", ", ".join(f"{name} {count}" for name, count in sorted(tally.scenes.items()))),
        ("behind a front that moves", f"{tally.behind_a_front['green']} runs green, {tally.behind_a_front['red']} red"),
        ("source changes", f"{tally.changes:,} rows"),
        ("rows moved", f"{tally.rows['extracted']:,} extracted, {tally.rows['changed']:,} changed in raw"),
        ("kills", f"{kills(tally):,}"),
    ]
    for kind in KINDS:
        shown = f"{tally.strikes[kind]:,}" if kind in STRIKES else "not possible on this system"
        rows.append((f"  {kind}", shown))
    rows += [
        ("kill -9 at", f"{len(hit)} of {len(known)} named steps, once or more"),
        ("green runs checked", f"{tally.checks}: all that was committed before a run began is in raw after it"),
        ("looks at raw", f"{tally.looks:,}: none may see half of a load"),
        *((f"mutant: {name}", outcome) for name, outcome in tally.mutants.items()),
        ("violations", str(len(tally.violations))),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {value}" for name, value in rows]
    never = [f"  never killed at: {step}" for step in sorted(known - hit)[:20]]
    return "\n".join(["", *lines, *never, "", *(f"VIOLATION {text}" for text in tally.violations)])
