"""Whether the code that runs is the code on disk.

A task is forked from a scheduler or worker that imported `include` when it started, but parses its DAG file anew: after
an edit it would be half the one and half the other.
"""

from __future__ import annotations

import os
from pathlib import Path

from include.errors import TerminalError

INCLUDE = Path(__file__).resolve().parent.parent

Stamp = tuple[int, int]


def stamps(folder: Path) -> dict[str, Stamp]:
    """Of each source file below `folder`, time of change and size."""
    found, above = {}, f"{folder.parent}{os.sep}"
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            if name.endswith((".py", ".sql")):
                path = os.path.join(place, name)
                status = os.stat(path)
                found[path.removeprefix(above)] = (status.st_mtime_ns, status.st_size)
    return found


IMPORTED = stamps(INCLUDE)
"""As this process, or the one that it was forked from, found it."""


def refuse_half() -> None:
    """Fail where a file was changed since.

    Raises:
        TerminalError: names one of the files, and what to restart.
    """
    now = stamps(INCLUDE)
    changed = sorted({*now.items()} ^ {*IMPORTED.items()})
    if changed:
        raise TerminalError(
            f"{changed[0][0]} was changed after the scheduler or worker had started, which still runs what it was: "
            "restart it (make ui: Ctrl-C, then again), and clear this task"
        )
