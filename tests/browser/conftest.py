"""Airflow's UI in a real browser, one that the machine has: this project's page as a person meets it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, FrameLocator, Page, expect, sync_playwright

from include.compose.airflow_api import Airflow
from tests.conftest import Checkout
from tests.e2e.conftest import checkout, served

__all__ = ["checkout"]

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
GUEST = {"AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin,guest:viewer"}
WIDE, NARROW = 1440, 390
TIMEOUT = 100_000
"""Milliseconds for what one waits for at a window: patient with a machine that has other work."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The system's Chromium or Chrome, or the one that CHROMIUM= names; none is downloaded."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.fail("needs a browser: apt install chromium, or name one with CHROMIUM=")
    expect.set_options(timeout=TIMEOUT)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, chromium_sandbox=os.geteuid() != 0)
        yield launched
        launched.close()


def password_of(checkout: Checkout, user: str) -> str:
    return json.loads((checkout.here.airflow_home / "passwords.json").read_text())[user]


@dataclass
class Person:
    """Somebody at a browser window of one's own; `errors` is what its console said in red."""

    page: Page
    airflow: Airflow
    errors: list[str] = field(default_factory=list)

    def log_in(self, user: str, password: str) -> None:
        """By the form, as people do."""
        self.page.goto(self.airflow.url)
        self.page.get_by_label("Username").fill(user)
        self.page.locator("input[type=password]").fill(password)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("link", name="Health").wait_for()

    def open_health(self) -> FrameLocator:
        """The page by its entry in the navigation, as Airflow shows it."""
        self.page.goto(self.airflow.url)
        self.page.get_by_role("link", name="Health").click()
        frame = self.page.frame_locator("iframe")
        frame.get_by_role("status").wait_for()
        return frame

    def heard(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url')})")


@pytest.fixture(scope="module")
def airflow(checkout: Checkout) -> Iterator[Airflow]:
    with served(checkout, **GUEST) as started:
        yield started


@pytest.fixture
def enter(browser: Browser, airflow: Airflow, checkout: Checkout) -> Iterator[Callable[..., Person]]:
    """A window of some width, in light or dark, for `admin`, for `guest`, who may only look, or for nobody."""
    opened = []

    def at(user: str | None, width: int = WIDE, **options: Any) -> Person:
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        context.set_default_timeout(TIMEOUT)
        opened.append(context)
        if user:
            body = {"username": user, "password": password_of(checkout, user)}
            token = context.request.post(f"{airflow.url}/auth/token", data=body).json()["access_token"]
            context.add_cookies([{"name": "_token", "value": token, "url": airflow.url}])
        person = Person(context.new_page(), airflow)
        context.on("console", person.heard)
        return person

    yield at
    for context in opened:
        context.close()
