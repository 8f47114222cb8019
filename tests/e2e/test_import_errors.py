"""A broken source entry fails `airflow dags list-import-errors` with one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path

from include.local.environment import ROOT
from tests.conftest import Checkout


def test_a_broken_source_entry_is_one_sentence(checkout: Checkout, tmp_path: Path) -> None:
    for part in ("dags", "include", "dbt", "plugins"):
        if (ROOT / part).exists():
            shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("target", "__pycache__"))
    sources = tmp_path / "dbt" / "models" / "staging" / "shop" / "_sources.yml"
    sources.write_text(sources.read_text().replace("cursor: updated_at", "cursr: updated_at", 1))
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    copy = Checkout(checkout.here, tmp_path)
    done = copy.run("exec", "airflow", "dags", "list-import-errors", "--local", "--output", "plain", COLUMNS="500")
    assert done.returncode == 1
    assert "dbt/models/staging/shop/_sources.yml: table shop.customers: unknown key 'cursr'" in done.stdout
