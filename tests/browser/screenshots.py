"""`make screenshots`: what the page Pipeline health looks like. People look at it; nothing is compared."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from include.compose.airflow_api import Airflow
from include.local.environment import ROOT
from tests.browser.conftest import NARROW, WIDE, Person
from tests.conftest import Checkout
from tests.e2e.conftest import end_of_runs, spoil_orders

FOLDER = ROOT / "docs" / "pictures"
IN_README = 960
"""Pixels: about the width at which a repository's front page shows a picture."""

PAGES = {"health": "", "table": "tables/shop.orders", "node": "nodes/model.elt.stg_shop__orders"}

PAST = """
    insert into _elt.load_ledger overriding system value
    select (jsonb_populate_record(load, jsonb_build_object(
        'load_id', -load_id - 100 * day, 'extraction_id', -load_id - 100 * day, 'run_id', 'scheduled__' || day,
        'rows_extracted', round(150 + 60 * sin(day / 3.5) + 40 * random()), 'rows_deleted', round(6 * random()),
        'loaded_at', loaded_at - day * interval '1 day',
        'started_at', loaded_at - day * interval '1 day' - (2 + random()) * interval '1 s'))).*
    from _elt.load_ledger as load, generate_series(1, 89) as day
    where mode = 'first'"""
"""89 days before the sample shop's first load, made up."""


@pytest.fixture(scope="module", autouse=True)
def red(checkout: Checkout, airflow: Airflow) -> None:
    """A test failed, a transaction is open, one DAG is paused; the tables have a past."""
    spoil_orders(checkout)
    airflow.trigger("elt_pipeline")
    end_of_runs(airflow, "elt_pipeline")
    with checkout.warehouse() as warehouse:
        warehouse.execute(PAST)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, IN_README, WIDE])
def test_draw(enter: Callable[..., Person], width: int, scheme: str) -> None:
    FOLDER.mkdir(exist_ok=True)
    person = enter("admin", width, color_scheme=scheme)
    for name, path in PAGES.items() if width == IN_README else [("health", "")]:
        person.page.goto(f"{person.airflow.url}/pipeline-health/{path}")
        person.page.screenshot(path=FOLDER / f"{name}-{scheme}-{width}.png", full_page=width != IN_README)
