"""The command a person runs, `make run`, on an installation of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from include.local.environment import Installation
from tests.conftest import Checkout


@pytest.fixture(scope="module")
def checkout(folder: Path, request: pytest.FixtureRequest) -> Iterator[Checkout]:
    made = Checkout(Installation(folder / request.module.__name__.split(".")[-1]))
    yield made
    made.run("clean")
