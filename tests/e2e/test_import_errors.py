"""What `airflow dags list-import-errors` and a table's own task say of a broken file, in one sentence each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Checkout

SOURCES = "dbt/models/staging/shop/_sources.yml"


@pytest.fixture
def copy(checkout: Checkout, tmp_path: Path) -> Checkout:
    return checkout.copied(tmp_path)


def _list_import_errors(copy: Checkout, old: str, new: str) -> tuple[int, str]:
    sources = copy.root / SOURCES
    sources.write_text(sources.read_text().replace(old, new, 1))
    done = copy.run("exec", "airflow", "dags", "list-import-errors", "--local", "--output", "plain", COLUMNS="500")
    return done.returncode, done.stdout


def test_a_broken_source_entry_fails_its_own_task_and_no_dag(copy: Checkout) -> None:
    assert _list_import_errors(copy, "cursor: updated_at", "cursr: updated_at")[0] == 0
    done = copy.run("exec", "airflow", "tasks", "test", "elt_pipeline", "shop.customers.extract", COLUMNS="500")
    assert f"{SOURCES}: table shop.customers: unknown key 'cursr'" in done.stdout + done.stderr


def test_what_dbt_cannot_parse_is_one_sentence(copy: Checkout) -> None:
    code, shown = _list_import_errors(copy, "sources:", "sources: [")
    assert code == 1
    assert "cannot parse the project: Parsing Error Error reading elt: staging/shop/_sources.yml" in shown
