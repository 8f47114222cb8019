"""Where tests find a PostgreSQL of the system, and what they do without one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import conftest


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest.shutil, "which", lambda _: None)
    monkeypatch.setattr(conftest.Path, "glob", lambda *_: iter(()))
    monkeypatch.delenv("PG_BINDIR", raising=False)


@pytest.mark.usefixtures("nothing_installed")
def test_a_place_that_a_person_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_BINDIR", str(tmp_path))
    (tmp_path / "initdb").touch()
    assert conftest.system_programs() == tmp_path


@pytest.mark.usefixtures("nothing_installed")
def test_a_server_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "initdb").touch()
    monkeypatch.setattr(conftest.shutil, "which", {"initdb": str(tmp_path / "initdb")}.get)
    assert conftest.system_programs() == tmp_path


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_without_one_ci_fails_and_a_laptop_skips(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException]
) -> None:
    monkeypatch.setenv("CI", ci)
    with pytest.raises(outcome, match="PG_BINDIR"):
        conftest.system_programs()
