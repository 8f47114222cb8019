"""Files that other processes read while they are written."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, text: str, *, is_private: bool = True) -> None:
    """Write a file, which its owner alone may read unless it is not private.

    Whoever reads it meanwhile finds the old text or the new, whole.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    handle = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600 if is_private else 0o666)
    with open(handle, "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)
