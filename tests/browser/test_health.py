"""What is wrong, and the way to what mends it, as a person finds it in the browser."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from include.compose.airflow_api import Airflow
from include.orchestrate.links import task_path
from tests.browser.conftest import NARROW, WIDE, Person, password_of
from tests.conftest import Checkout
from tests.e2e.conftest import end_of_runs, spoil_orders

DAG_ID = "elt_pipeline"
TEST = "staging.order_amount_equals_its_items"
PAGES = ["", "tables/shop.orders", "nodes", "nodes/model.elt.stg_shop__orders"]
PATHS = [*PAGES, "dbt", f"failures?run_id=x&task_id={TEST}"]
SECRET = "no instant, but what nobody else shall read"

Enter = Callable[..., Person]


@pytest.fixture(scope="module", autouse=True)
def failed(checkout: Checkout, airflow: Airflow) -> str:
    """The newest of two runs in each of which one dbt test failed; and a Variable that somebody spoiled."""
    spoil_orders(checkout)
    airflow.trigger(DAG_ID)
    runs = end_of_runs(airflow, DAG_ID)  # that one, and the scheduled one of a DAG that was switched on
    assert list(runs.values()) == ["failed", "failed"]
    airflow.call("PATCH", "/dags/reconcile", {"is_paused": False})
    assert list(end_of_runs(airflow, "reconcile").values()) == ["success"]
    body = {"key": "watermark__shop__customers", "value": SECRET}
    airflow.call("PATCH", "/variables/watermark__shop__customers", body)
    return next(iter(runs))


@pytest.fixture
def admin(enter: Enter) -> Person:
    return enter("admin")


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_served_without_login(enter: Enter, path: str) -> None:
    nobody = enter(None)
    answer = nobody.page.goto(f"{nobody.airflow.url}/pipeline-health/{path}")
    assert answer and answer.status == 401
    assert "shop" not in nobody.page.content()


def test_who_logs_in_finds_the_page_in_the_navigation(enter: Enter, checkout: Checkout) -> None:
    somebody = enter(None)
    somebody.log_in("guest", password_of(checkout, "guest"))
    expect(somebody.open_health().get_by_role("heading", level=1)).to_have_text("Pipeline health")


def test_the_verdict_comes_first_and_leads_to_the_log_and_the_rows(admin: Person, failed: str) -> None:
    health = admin.open_health()
    expect(health.get_by_role("status")).to_contain_text("need you: 1 failed, 1 Variable.")
    first = health.get_by_role("listitem").first
    expect(first).to_contain_text("failed for 3 rows")
    first.get_by_role("link", name="its rows").click()
    expect(health.get_by_role("heading", level=1)).to_have_text("Failing rows")
    expect(health.get_by_role("row")).to_have_count(4)

    health = admin.open_health()
    health.get_by_role("listitem").first.get_by_role("link", name="its task").click()
    expect(admin.page).to_have_url(admin.airflow.url + task_path(DAG_ID, failed, TEST))
    expect(admin.page.get_by_text("failed for 3 rows").first).to_be_visible()
    admin.page.get_by_role("link", name="Failing rows").click()
    expect(admin.page.frame_locator("iframe").get_by_role("row")).to_have_count(4)


def test_the_grid_shows_what_failed_and_offers_to_clear_it(admin: Person, failed: str) -> None:
    admin.page.goto(admin.airflow.url + task_path(DAG_ID, failed, TEST))
    expect(admin.page.get_by_role("button", name="Press shift+c to clear")).to_be_enabled()
    expect(admin.page.get_by_role("button", name="Mark Task Instance as...")).to_be_enabled()
    expect(admin.page.get_by_role("button", name="Trigger Dag")).to_be_enabled()


def test_who_may_only_look_sees_no_rows_no_errors_no_variables_and_no_buttons(enter: Enter, failed: str) -> None:
    guest = enter("guest")
    health = guest.open_health()
    expect(health.get_by_role("status")).to_contain_text("need you: 1 failed, 1 Variable.")
    shown = health.locator("body").inner_text()
    assert "staging" in shown and "3 rows" not in shown and SECRET not in shown
    assert health.get_by_role("button").count() == 0 and health.get_by_role("link", name="its rows").count() == 0
    for path in ("tables/shop.customers", "tables/shop.orders"):
        guest.page.goto(f"{guest.airflow.url}/pipeline-health/{path}")
        assert SECRET not in guest.page.content() and "hidden" in guest.page.content()
    for path in (f"failures?run_id={quote(failed)}&task_id={TEST}", "dbt"):
        answer = guest.page.goto(f"{guest.airflow.url}/pipeline-health/{path}")
        assert answer and answer.status == 403 and "for who may clear" in guest.page.content()


def test_dbts_documentation_is_a_click_away(checkout: Checkout, admin: Person) -> None:
    project = ("--project-dir", "dbt", "--profiles-dir", "dbt", "--profile", "elt", "--target", "warehouse")
    done = checkout.run("exec", "dbt", "docs", "generate", "--static", *project)
    assert done.returncode == 0, done.stdout + done.stderr
    health = admin.open_health()
    health.get_by_role("link", name="Models, columns and their lineage").click()
    expect(health.get_by_text("Welcome to the auto-generated documentation").first).to_be_visible()
    expect(health.get_by_text("shop", exact=True).first).to_be_visible()


def test_from_a_model_to_what_it_reads_its_tests_and_its_task(admin: Person, failed: str) -> None:
    health = admin.open_health()
    health.get_by_role("link", name="Models and tests, one by one").click()
    listed = health.get_by_role("row").filter(has=health.get_by_role("link", name="stg_shop__orders", exact=True))
    expect(listed).to_contain_text("order_amount_equals_its_items")
    listed.get_by_role("link", name="stg_shop__orders", exact=True).click()
    expect(health.get_by_role("heading", level=1)).to_have_text("stg_shop__orders")
    expect(health.get_by_role("listitem").first).to_contain_text("failed for 3 rows")
    expect(health.get_by_text("time it took")).to_be_visible()
    health.get_by_role("link", name="shop.orders", exact=True).click()
    expect(health.get_by_role("heading", level=1)).to_have_text("shop.orders")
    health.get_by_role("link", name="its loads and watermark").click()
    expect(health.get_by_role("heading", name="Watermark")).to_be_visible()
    admin.page.go_back()
    admin.page.go_back()
    health.get_by_role("link", name="its task, with log and compiled SQL").click()
    expect(admin.page).to_have_url(admin.airflow.url + task_path(DAG_ID, failed, "staging.stg_shop__orders.run"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE, 2560])
def test_it_can_be_read_at_every_width(enter: Enter, width: int, scheme: str, failed: str) -> None:
    """Nothing is wider than the window, nothing is red in the console, axe finds nothing against WCAG 2.2 AA."""
    admin = enter("admin", width, color_scheme=scheme)
    for path in (*PAGES, f"failures?run_id={quote(failed)}&task_id={TEST}"):
        admin.page.goto(f"{admin.airflow.url}/pipeline-health/{path}")
        assert admin.page.evaluate("document.documentElement.scrollWidth") <= width, path
        found = Axe().run(admin.page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "wcag22aa"]})
        assert not found.violations_count, found.generate_report()
    assert not admin.errors
