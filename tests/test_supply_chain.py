"""What is installed and what is released: under which licences, with which hashes, from which commits."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

import yaml

from include.local.environment import ROOT

PERMISSIVE = re.compile(
    r"MIT( License)?|MIT-0|(3-Clause )?BSD( License)?|BSD-[23]-Clause|0BSD|ISC( License)?( \(ISCL\))?|Apache-2\.0|Zlib"
    r"|Apache Software License|Python Software Foundation License|PSF-2\.0|CNRI-Python|CC0-1\.0"
    r"|The Unlicense \(Unlicense\)"
)
"""Licences that ask for no more than to be named."""

TAGGED = re.compile(r"^([a-z0-9-]+) {2,}\S", re.MULTILINE)


def licence_of(package: metadata.Distribution) -> list[str]:
    """The licences that a package's metadata names; one that it offers as a choice counts as well."""
    about: Any = package.metadata
    named = [each.rpartition(" :: ")[2] for each in about.get_all("Classifier") or () if each.startswith("License ::")]
    text = about.get("License-Expression") or "; ".join(named) or (about.get("License") or "").splitlines()[:1] or ""
    return re.split(r" AND | OR |; ", text if isinstance(text, str) else text[0])


def locked() -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def test_a_licence_that_asks_for_more_than_its_name_is_in_the_notice() -> None:
    names = locked()
    installed = {re.sub(r"[-_.]+", "-", each.name).lower(): each for each in metadata.distributions()}
    found = {name: licence_of(installed[name]) for name in names & installed.keys()}
    assert len(found) > 200
    demanding = {name for name, licences in found.items() if not all(map(PERMISSIVE.fullmatch, licences))}
    noticed = set(TAGGED.findall((ROOT / "NOTICE").read_text())) - {"package"}
    assert not demanding - noticed, f"write into NOTICE: {[(n, found[n]) for n in sorted(demanding - noticed)]}"
    assert not noticed - names, "NOTICE names what is installed no more"


def workflow(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())["jobs"]


def test_only_a_commit_of_main_that_ci_has_passed_is_released() -> None:
    jobs = workflow("release.yml")
    assert jobs["image"]["needs"] == "checked"
    [ancestor, passed] = [step["run"] for step in jobs["checked"]["steps"] if "run" in step]
    assert ancestor == 'git merge-base --is-ancestor "$GITHUB_SHA" origin/main'
    assert all(part in passed for part in ("ci.yml", "--branch main", '--commit "$GITHUB_SHA"', "--status success"))
    assert jobs["checked"]["steps"][0]["with"]["fetch-depth"] == 0


def test_a_release_is_verified_by_the_identity_that_signs_it() -> None:
    documented = (ROOT / "docs" / "containers.md").read_text()
    assert "cosign verify" in documented
    assert "--certificate-identity https://github.com/" in documented
    assert "/.github/workflows/release.yml@refs/tags/" in documented
    assert "--certificate-oidc-issuer https://token.actions.githubusercontent.com" in documented


def test_no_tool_is_installed_without_a_hash() -> None:
    texts = {path: path.read_text() for path in [ROOT / "Makefile", *(ROOT / ".github" / "workflows").glob("*.yml")]}
    for path, text in texts.items():
        lines = [
            line for line in text.splitlines() if re.search(r"\b(pip|pipx|uvx|npm|cargo|go)\b +(install|run)\b", line)
        ]
        bare = [line for line in lines if "--require-hashes" not in line]
        assert not bare, f"{path}: {bare}"


def test_what_signs_tokens_is_known_to_the_api_server_and_the_scheduler_alone() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    told = {name for name, each in services.items() if "JWT_SECRET" in str(each.get("environment"))}
    assert told == {"api-server", "scheduler"}


def test_the_certificate_is_mounted_where_a_server_is_asked() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    asking = {name for name, each in services.items() if "AIRFLOW_CONN_WAREHOUSE" in (each.get("environment") or {})}
    mounted = set(re.findall(r"^ +([a-z-]+): \{volumes:", (ROOT / "docs" / "tls.md").read_text(), re.MULTILINE))
    assert mounted == asking == {"api-server", "scheduler", "airflow-worker"}
