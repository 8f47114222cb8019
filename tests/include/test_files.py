"""Files that other processes read while they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from include.files import write_whole


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(("is_private", "mode"), [(True, 0o600), (False, 0o644)])
def test_who_may_read_it(tmp_path: Path, is_private: bool, mode: int) -> None:
    path = tmp_path / "file"
    for text in ("old", "new"):
        write_whole(path, text, is_private=is_private)
        assert (path.read_text(), path.stat().st_mode & 0o777) == (text, mode)
    assert os.listdir(tmp_path) == ["file"]


def test_the_old_text_stays_where_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")
    assert path.read_text() == "old"
