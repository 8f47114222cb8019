"""Code that is changed under a running scheduler is refused, never run in part."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.errors import TerminalError
from include.orchestrate import code


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, as the scheduler imported it."""
    folder = shutil.copytree(code.INCLUDE, tmp_path / "include")
    monkeypatch.setattr(code, "INCLUDE", folder)
    monkeypatch.setattr(code, "IMPORTED", code.stamps(folder))
    code.refuse_half()
    yield folder


def test_an_edit_is_refused_by_the_files_name(copy: Path) -> None:
    (copy / "load" / "merge.py").write_text("# edited\n")
    with pytest.raises(TerminalError, match=r"include/load/merge\.py was changed .* restart it"):
        code.refuse_half()


def test_a_file_that_came_or_went_is_refused(copy: Path) -> None:
    (copy / "sql" / "horizon.sql").unlink()
    with pytest.raises(TerminalError, match=r"include/sql/horizon\.sql"):
        code.refuse_half()


def test_what_python_compiles_beside_it_is_no_change(copy: Path) -> None:
    (copy / "__pycache__").mkdir(exist_ok=True)
    (copy / "__pycache__" / "tasks.cpython-311.pyc").write_bytes(b"")
    os.utime(copy)
    code.refuse_half()


def test_to_look_costs_a_task_little() -> None:
    begin = time.perf_counter()
    for _ in range(10):
        code.refuse_half()
    assert (time.perf_counter() - begin) / 10 < 0.05
