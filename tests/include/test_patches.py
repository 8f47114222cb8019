"""The door to what is replaced of others' code: what becomes of a patch where its target is another version."""

from __future__ import annotations

import logging
from importlib.metadata import version
from selectors import DefaultSelector
from signal import SIGKILL
from socket import socket
from typing import Any
from uuid import uuid4

import psutil
import pytest
import structlog
from airflow.sdk.execution_time.supervisor import PsutilTracker, WatchedSubprocess
from packaging.specifiers import SpecifierSet

from include.errors import ConfigError
from include.patches import Patch, airflow, cosmos, dbt, dbt_hooks, patch

EACH = [
    each for module in (airflow, cosmos, dbt, dbt_hooks) for each in vars(module).values() if isinstance(each, Patch)
]


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was replaced."""
    monkeypatch.delenv("ELT_PATCHES", raising=False)
    return []


def made(replaced: list[str], versions: str, is_needed: bool) -> Patch:
    @patch("packaging", versions, without="it is slow", is_needed=is_needed)
    def something() -> None:
        replaced.append("it")

    return something


def test_it_is_applied_once(replaced: list[str]) -> None:
    one = made(replaced, ">=0", is_needed=False)
    one()
    one()
    assert replaced == ["it"]


def test_of_another_version_it_is_left_out_and_says_so_once(
    replaced: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    one = made(replaced, "==0.1", is_needed=False)
    with caplog.at_level(logging.WARNING):
        one()
        one()
    installed = version("packaging")
    said = f"{__name__}.something is for packaging ==0.1, and {installed} is installed: it is left out, and it is slow"
    assert replaced == [] and caplog.messages == [said]


def test_one_that_is_needed_refuses_another_version(replaced: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"is installed: install requirements\.lock\. Without it it is slow"):
        made(replaced, "==0.1", is_needed=True)()
    assert replaced == []


def test_what_only_saves_time_can_be_switched_off(replaced: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELT_PATCHES", "off")
    made(replaced, ">=0", is_needed=False)()
    assert replaced == []
    made(replaced, ">=0", is_needed=True)()
    assert replaced == ["it"]


@pytest.mark.parametrize("one", EACH, ids=lambda one: one.name)
def test_each_is_for_what_is_installed_and_no_later_than_its_next_minor_version(one: Patch) -> None:
    installed = version(one.distribution)
    major, minor = installed.split(".")[:2]
    assert installed in one.versions and one.replace.__doc__
    later = [f"{int(major) + 1}.0"] + [f"{major}.{int(minor) + 1}"] * (one.versions != SpecifierSet("==1.*"))
    assert not any(each in one.versions for each in later)


class Selector(DefaultSelector):
    """One that nothing wakes, and that is not slept in for long."""

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None and timeout < 1, "the process may have ended, and nobody would look"
        return super().select(timeout)


def test_who_watches_a_task_waits_for_its_end_when_its_pipes_are_closed() -> None:
    airflow.see_a_task_end()
    process = PsutilTracker(psutil.Popen(["sleep", "0.2"]))
    watched = WatchedSubprocess(
        id=uuid4(),
        pid=process.pid,
        stdin=socket(),
        process=process,
        process_log=structlog.get_logger(),
        selector=Selector(),
    )
    assert watched._service_subprocess(3600) == 0
    process = PsutilTracker(psutil.Popen(["sleep", "60"]))
    watched._process, watched._exit_code = process, None
    assert watched._service_subprocess(0.1) is None, "it runs, and its heartbeat is due"
    process.send_signal(SIGKILL)
    assert watched._service_subprocess(3600) == -SIGKILL
