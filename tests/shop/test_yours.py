"""`make yours`: nothing of the sample is left, what is left works, and later versions of the product merge into it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import yaml

from include import yours
from include.local.environment import ROOT, Installation
from tests.conftest import Checkout, Postgres

DOCUMENT = (ROOT / "docs" / "yours.md").read_text()
ABOUT_IT = {"include/yours.py", "CHANGELOG.md", "docs/decisions.md"}
"""What removes the sample; and what was, which stays as it was."""

SOURCE = """
    create table customers (id bigint primary key, name text not null, updated_at timestamptz not null default now());
    create table orders (
        id bigint primary key, customer_id bigint not null references customers, ordered_at timestamptz not null,
        amount numeric(10, 2), updated_at timestamptz not null default now()
    );
    insert into customers values (1, 'Ada');
    insert into orders values (1, 1, now(), 9.99), (2, 1, now(), 0.01);
"""


def git(tree: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(["git", *arguments], cwd=tree, env=os.environ | who, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(tree: Path, **changes: str) -> None:
    """Commit everything there, after some files got another text."""
    for name, text in changes.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    git(tree, "add", "--all")
    git(tree, "commit", "--quiet", "--message", "x")


@pytest.fixture
def tree(folder: Path, request: pytest.FixtureRequest) -> Path:
    """A clone of the checkout as it is now."""
    made = folder / request.node.name
    for name in git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0"):
        if name and (ROOT / name).exists():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).write_bytes((ROOT / name).read_bytes())
    git(made, "init", "--quiet", "--initial-branch", "main")
    (made / ".git/info/exclude").write_text(".venv\n")
    (made / ".venv").symlink_to(ROOT / ".venv")
    commit(made)
    return made


@pytest.fixture
def stripped(tree: Path) -> Path:
    """A clone without the sample."""
    assert yours.main(tree) == 0
    commit(tree)
    return tree


@pytest.fixture
def checkout(stripped: Path, folder: Path) -> Iterator[Checkout]:
    made = Checkout(Installation(folder / "yours"), stripped)
    yield made
    made.run("clean")


def test_no_file_and_no_word_of_the_sample_is_left(stripped: Path) -> None:
    files = git(stripped, "ls-files").split()
    assert "include/sources.py" in files and "dags/elt_pipeline.py" in files
    for name in files:
        if name not in ABOUT_IT and not name.startswith("tests/") and (text := (stripped / name).read_text("utf-8")):
            assert not re.search(r"shop|fct_sales|sales_report", f"{name}\n{text}", re.IGNORECASE), name
    # What is named is there.
    services = yaml.safe_load((stripped / "docker-compose.yml").read_text())["services"]
    assert {needed for each in services.values() for needed in each.get("depends_on", ())} <= services.keys()
    for name in files:
        links = re.findall(r"\]\(([^)#:]+)\)", (stripped / name).read_text("utf-8")) if name.endswith(".md") else []
        assert [link for link in links if not (stripped / name).parent.joinpath(link).exists()] == [], name
    assert yours.main(stripped) == 0  # a second time does nothing


def test_what_is_not_committed_is_not_lost(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "dbt/models/marts/fct_sales.sql").write_text("select 1")
    assert yours.main(tree) == 1
    assert "dbt/models/marts/fct_sales.sql\n" in capsys.readouterr().out
    assert git(tree, "status", "--porcelain") == " M dbt/models/marts/fct_sales.sql\n"


def test_an_own_mart_stays(tree: Path) -> None:
    commit(tree, **{"dbt/models/marts/fct_mine.sql": "select 1"})
    assert yours.main(tree) == 0
    assert [path.name for path in (tree / "dbt/models").rglob("*.*")] == [".gitkeep", "fct_mine.sql"]


def test_an_own_database_and_mart_after_the_docs(checkout: Checkout, postgres: Postgres) -> None:
    """From the clone to the mart with no edit but the two files of the page, which lint takes as they are."""
    nothing = checkout.run("run")
    assert nothing.returncode == 0 and "No table yet: set AIRFLOW_CONN_ERP" in nothing.stdout, nothing.stdout
    own = {"AIRFLOW_CONN_ERP": postgres.database(), "SOURCE": "erp"}
    with psycopg.connect(own["AIRFLOW_CONN_ERP"]) as connection:
        connection.execute(SOURCE)
    done = checkout.run("exec", "python", "-m", "include.orchestrate.commands", "onboard", **own)
    assert done.returncode == 0, done.stdout + done.stderr
    for name, language in (("fct_orders.sql", "sql"), ("fct_orders.yml", "yaml")):
        path = checkout.root / "dbt/models/marts" / name
        path.parent.mkdir(exist_ok=True)
        [text] = re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)
        path.write_text(text)
    done = checkout.run("run", **own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'make psql CMD="select * from marts.fct_orders limit 5"' in done.stdout
    with checkout.warehouse() as warehouse:
        found = warehouse.execute("select customer_name, sum(amount)::text from marts.fct_orders group by 1").fetchall()
        assert found == [("Ada", "10.00")]
        assert warehouse.execute("select from pg_namespace where nspname = 'raw_shop'").fetchall() == []
    done = checkout.run("exec", "sqlfluff", "lint", "--disable-progress-bar", "dbt", **own)
    assert done.returncode == 0, done.stdout


def shell(tree: Path, commands: str, **variables: str) -> None:
    """Run commands as a person would paste them; none may fail."""
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(
        ["sh", "-euc", commands], cwd=tree, env=os.environ | who | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_next_version_merges_without_a_conflict(tree: Path) -> None:
    """By the commands of the page. The version changed files of the sample and of the product, brought new ones of
    both, and moved lines that stand beside the sample's; a model of one's own has the name of one of the sample's."""
    removal, upgrade = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)
    files = (tree / "include/shop/files.txt").read_text()
    makefile = (tree / "Makefile").read_text()
    git(tree, "branch", "upstream")
    mine = {"dbt/models/staging/erp/stg_erp__orders.sql": "select 1"}
    commit(tree, **mine)
    mine["dbt/models/marts/dim_dates.sql"] = "select 'mine'"
    shell(tree, removal.replace("git switch --create product", "git switch --create product upstream"))
    commit(tree, **mine)
    git(tree, "switch", "--quiet", "upstream")
    changed = {
        "dbt/models/marts/dim_dates.sql": "select 2",
        "dbt/models/marts/fct_returns.sql": "select 3",
        "include/shop/files.txt": files + "dbt/models/marts/fct_returns.sql\n",
        "include/sources.py": "# another\n",
        "include/new.py": "",
        "Makefile": makefile.replace("## Look after it", "## Care for it").replace("200000 SEED=42", "100 SEED=1"),
    }
    commit(tree, **changed)
    git(tree, "tag", "v2")
    git(tree, "switch", "--quiet", "main")
    git(tree, "remote", "add", "origin", str(tree))
    shell(tree, upgrade, VERSION="v2")
    assert git(tree, "status", "--porcelain", "--branch") == "## main\n"
    assert (tree / "include/sources.py").read_text() == "# another\n" and (tree / "include/new.py").exists()
    assert "## Care for it" in (tree / "Makefile").read_text() and "SEED=1" not in (tree / "Makefile").read_text()
    assert {name: (tree / name).read_text() for name in mine} == mine
    assert not list(tree.rglob("fct_returns.sql")) and not (tree / "include/shop").exists()
