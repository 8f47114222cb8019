"""`.env` as it is read; and `make env`: every secret is made once, and nothing a person wrote is lost."""

from __future__ import annotations

import base64
import stat
from pathlib import Path

import pytest

from include.local.dotenv import complete_env_file, parse_env_file
from include.local.environment import ROOT
from include.local.errors import LocalError

EXAMPLE = "# a comment\n# UI_PORT=8080\nUI_PASSWORD=\nFERNET_KEY=\n"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    path = tmp_path / "example"
    path.write_text(EXAMPLE)
    return path


def test_a_new_file_has_a_secret_for_each_name(tmp_path: Path, example: Path) -> None:
    path = tmp_path / ".env"
    assert complete_env_file(path, example) == ["UI_PASSWORD", "FERNET_KEY"]
    values = parse_env_file(path)
    assert len(values["UI_PASSWORD"]) >= 32 and len(base64.urlsafe_b64decode(values["FERNET_KEY"])) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("# a comment\n# UI_PORT=8080\n")


def test_again_it_changes_nothing(tmp_path: Path, example: Path) -> None:
    path = tmp_path / ".env"
    complete_env_file(path, example)
    before = path.read_text()
    assert complete_env_file(path, example) == []
    assert path.read_text() == before


def test_only_what_is_missing_is_made(tmp_path: Path, example: Path) -> None:
    """A value, a name without one that is not ours, and a last line without an end all stay."""
    path = tmp_path / ".env"
    path.write_text("AIRFLOW_CONN_SHOP=\nFERNET_KEY=\nUI_PASSWORD=mine")
    assert complete_env_file(path, example) == ["FERNET_KEY"]
    assert parse_env_file(path).items() >= {"UI_PASSWORD": "mine", "AIRFLOW_CONN_SHOP": ""}.items()
    assert len(parse_env_file(path)["FERNET_KEY"]) == 44


def test_the_examples_secrets_are_those_the_services_demand() -> None:
    demanded = {
        line.split(":?")[0].rpartition("${")[2] for line in (ROOT / "docker-compose.yml").open() if ":?" in line
    }
    assert demanded == {key for key, value in parse_env_file(ROOT / ".env.example").items() if not value}


def test_lines_are_read_as_a_shell_would(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text('# comment\n\nA=1\nexport B = two words \nC=\'q="x\'\nD=""\nE=ends"\n')
    assert parse_env_file(path) == {"A": "1", "B": "two words", "C": 'q="x', "D": "", "E": 'ends"'}
    path.write_text("A=1\nnonsense\n")
    with pytest.raises(LocalError, match="line 2 is 'nonsense'; write KEY=VALUE"):
        parse_env_file(path)
