"""The dbt project on disk: where it is, its manifest (never stale) and the environment its profile reads."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from include.errors import ConfigError

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

PROJECT_DIR = Path(__file__).resolve().parent.parent / "dbt"
MODELS_DIR = PROJECT_DIR / "models"
PROFILE = "elt"
TARGET = "warehouse"

_ANY_DATABASE = "__warehouse__"
"""Database name the project is parsed with: the manifest then fits every warehouse."""

_PARSED_SUFFIXES = {".sql", ".yml", ".yaml", ".csv", ".py", ".md"}


def target_dir() -> Path:
    """Where dbt writes: `DBT_TARGET_PATH`, else `dbt/target`."""
    return Path(os.environ.get("DBT_TARGET_PATH") or PROJECT_DIR / "target")


def manifest_path() -> Path:
    """Path of an up-to-date `manifest.json`; parses the project first if any of its files changed.

    The fingerprint is of contents, not times: a checkout or a container build changes only times. Beside it lies
    `partial_parse.msgpack`, the same manifest in dbt's own form. Both are in a folder that a person's own dbt commands,
    perhaps with variables, do not write to.

    Raises:
        ConfigError: dbt cannot parse the project; carries dbt's own message.
    """
    target = target_dir() / "graph"
    manifest, stamp = target / "manifest.json", target / "fingerprint"
    fingerprint = project_fingerprint()
    if _read(stamp) == fingerprint and manifest.exists():
        return manifest
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _read(stamp) != fingerprint or not manifest.exists():
            _parse(target)
            stamp.write_text(fingerprint)
    return manifest


def project_fingerprint() -> str:
    """A hash over every file that dbt parses."""
    digest = hashlib.sha256()
    for path in sorted(PROJECT_DIR.rglob("*")):
        parts = path.relative_to(PROJECT_DIR).parts
        if path.suffix in _PARSED_SUFFIXES and parts[0] not in ("target", "logs"):
            digest.update("/".join(parts).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def load_manifest(database: str) -> Manifest:
    """dbt's own manifest object, read once a process; with it `dbtRunner` need not parse in every invocation.

    Args:
        database: Name of the warehouse database, which dbt writes into every relation's name.
    """
    return _load_manifest(manifest_path().parent / "partial_parse.msgpack", project_fingerprint(), database)


@lru_cache(maxsize=1)
def _load_manifest(path: Path, fingerprint: str, database: str) -> Manifest:
    from dbt.contracts.graph.manifest import Manifest

    manifest = Manifest.from_msgpack(path.read_bytes())
    for node in (*manifest.nodes.values(), *manifest.sources.values()):
        if node.database == _ANY_DATABASE:
            node.database = database
            node.relation_name = (node.relation_name or "").replace(_ANY_DATABASE, database, 1) or None
    manifest.build_flat_graph()
    return manifest


def profile_environment(uri: str) -> dict[str, str]:
    """The variables that `dbt/profiles.yml` reads, for a libpq URI of the warehouse."""
    parts = urlsplit(uri)
    options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    environment = {
        "DBT_HOST": parts.hostname or options.get("host", ""),
        "DBT_PORT": str(parts.port or options.get("port", 5432)),
        "DBT_USER": unquote(parts.username or ""),
        "DBT_ENV_SECRET_PASSWORD": unquote(parts.password or ""),
        "DBT_DBNAME": unquote(parts.path.removeprefix("/")),
    }
    return environment | {
        f"DBT_{name.upper()}": options[name] for name in ("sslmode", "sslrootcert") if name in options
    }


def dbt_environment() -> Mapping[str, str]:
    """Environment of a `dbt` process: nothing is reported home, nothing is looked up on the network."""
    return os.environ | {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "DBT_VERSION_CHECK": "false"}


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _parse(target: Path) -> None:
    """Run `dbt parse` in a process of its own, so that the DAG processor does not import dbt."""
    command = [sys.executable, "-m", "dbt.cli.main", "parse", "--project-dir", str(PROJECT_DIR)]
    command += ["--profiles-dir", str(PROJECT_DIR), "--target-path", str(target), "--log-path", str(target / "logs")]
    environment = {**dbt_environment(), "DBT_DBNAME": _ANY_DATABASE}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line.split("  ", 1)[-1].strip() for line in done.stdout.splitlines() + done.stderr.splitlines()]
        raise ConfigError(f"{PROJECT_DIR}: dbt cannot parse the project: {' '.join(filter(None, lines))[-2000:]}")
