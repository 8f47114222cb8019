"""`make prove`: random writers, random faults, no loss. SEED= repeats it, MINUTES= makes it longer."""

from __future__ import annotations

import asyncio
import atexit
import os
import random
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from include.local.environment import ROOT
from tests import own_airflow

DEFAULT_MINUTES = 6.0
MUTANTS_SECONDS = 215
"""What the mutants take together, most of it the making of databases."""

MUTANT_TRIES = 3
"""Schedules in which a mutant may show: those of few seconds say nothing where the machine is busy."""

ALL_KINDS_MINUTES = 10
"""A drill of this length meets every kind of fault."""


def main() -> int:
    seed = os.environ.get("SEED") or str(random.SystemRandom().randrange(10**9))
    minutes = float(os.environ.get("MINUTES") or DEFAULT_MINUTES)
    only, scene = (os.environ.get(name) or None for name in ("SCHEDULE", "SCENE"))
    if 60 * minutes <= MUTANTS_SECONDS:
        print(f"error: MINUTES={minutes:g} is for the mutants alone; write 4 or more", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="elt-drill-"))
    folder.chmod(0o755)  # the servers run as another user where we are root
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    own_airflow.use(folder)
    return asyncio.run(_drill(folder, seed, minutes, only, scene))


async def _drill(folder: Path, seed: str, minutes: float, only: str | None, scene: str | None = None) -> int:
    from tests.drill import report
    from tests.drill.attempt import warm_up
    from tests.drill.mutants import MUTANTS
    from tests.drill.runs import Tally
    from tests.drill.schedule import Plan, Schedule
    from tests.drill.world import World

    plan = Plan()
    if scene:
        if scene not in plan.scenes:
            print(f"error: there is no SCENE={scene}; there are {', '.join(plan.scenes)}", file=sys.stderr)
            return 1
        plan = Plan(scenes={scene: 1.0})
    began = time.monotonic()
    world, tally = World(folder), Tally()
    world.fresh()
    warm_up(world)
    print(f"make prove SEED={seed} MINUTES={minutes:g}")
    try:
        number = int(only or 0)
        while time.monotonic() - began < 60 * minutes - MUTANTS_SECONDS:
            schedule = Schedule(world, f"{seed}/{number}", plan, tally)
            found = await schedule.play()
            repeat = f"repeat with: make prove SEED={seed} SCHEDULE={number}"
            tally.violations += [f"in schedule {number}: {text}\n  {repeat}" for text in found]
            names = " ".join(spec.table for spec in schedule.specs)
            print(f"schedule {number:>3}  {report.kills(tally):>5} kills so far  {'; '.join(found) or 'ok'}  ({names})")
            number += 1 if only is None else 0
        tally.violations += report.never_met(
            tally, all_kinds=only is None and scene is None and minutes >= ALL_KINDS_MINUTES
        )
        for name, mutant in MUTANTS.items():
            started, caught = time.monotonic(), []
            for number in range(MUTANT_TRIES):
                found = await Schedule(world, f"{seed}/{name}/{number}", mutant.plan, Tally()).play()
                caught = [text for text in found if re.search(mutant.breaks, text)]
                tally.violations += [f"beside the mutant {name}: {text}" for text in found if text not in caught]
                if caught:
                    break
            took = time.monotonic() - started
            tally.mutants[name] = (
                f"caught after {took:.0f} s: {' '.join(caught[0].split())[:70]}…" if caught else "NOT CAUGHT"
            )
            print(f"mutant {name}: {tally.mutants[name]}")
            if not caught:
                tally.violations.append(f"mutant not caught: {name}; repeat with: make prove SEED={seed}")
    finally:
        if tally.violations:
            (ROOT / ".local").mkdir(exist_ok=True)
            shutil.copy(folder / "tasks.log", ROOT / ".local" / "prove.log")
        world.close()
    print(report.table(tally, seed, (time.monotonic() - began) / 60))
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
