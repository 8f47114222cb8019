"""The dbt project on disk: where it is, its manifest (never stale) and the environment its profile reads."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from include import dbt_graph, dbt_names
from include.errors import ConfigError
from include.files import write_whole

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

PROJECT_DIR = Path(__file__).resolve().parent.parent / "dbt"
PROFILE = "elt"
TARGET = "warehouse"

_ANY_DATABASE = "__warehouse__"
"""Database name the project is parsed with: the manifest then fits every warehouse."""

_PARSED_SUFFIXES = (".sql", ".yml", ".yaml", ".csv", ".py", ".md")


def target_dir() -> Path:
    """Where dbt writes: `DBT_TARGET_PATH`, else `dbt/target`."""
    return Path(os.environ.get("DBT_TARGET_PATH") or PROJECT_DIR / "target")


def graph_path() -> Path:
    """Path of an up-to-date `graph.json`: what rendering reads of dbt's manifest (`include.dbt_graph.draw`).

    Every task's process reads it twice, once in Cosmos; the manifest of 1,000 models has three times the size.

    Raises:
        ConfigError: dbt cannot parse the project; carries dbt's own message.
    """
    return _parsed()[0] / "graph.json"


def sources_path() -> Path:
    """Path of an up-to-date `sources.json`: the source tables to load (`include.dbt_graph.entries`).

    Raises:
        ConfigError: dbt cannot parse the project; carries dbt's own message.
    """
    return _parsed()[0] / "sources.json"


def load_manifest(database: str) -> Manifest:
    """dbt's own manifest object, read once a process; with it `dbtRunner` need not parse in every invocation.

    Args:
        database: Name of the warehouse database, which dbt writes into every relation's name.
    """
    folder, fingerprint = _parsed()
    return _load_manifest(folder / "partial_parse.msgpack", fingerprint, database)


@lru_cache(maxsize=1)
def _load_manifest(path: Path, fingerprint: str, database: str) -> Manifest:
    from dbt.contracts.graph.manifest import Manifest

    manifest = Manifest.from_msgpack(path.read_bytes())
    for node in (*manifest.nodes.values(), *manifest.sources.values(), *manifest.functions.values()):
        if node.database == _ANY_DATABASE:
            node.database = database
            node.relation_name = (node.relation_name or "").replace(_ANY_DATABASE, database, 1) or None
    manifest.build_flat_graph()
    return manifest


def profile_environment(uri: str) -> dict[str, str]:
    """The variables that `dbt/profiles.yml` reads, for a URI of an Airflow connection or of libpq.

    What its query names wins, as in Airflow's hook, and without a database libpq's default counts.
    """
    parts = urlsplit(uri)
    given = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    given |= json.loads(given.pop("__extra__", "{}"))
    user = given.get("user", unquote(parts.username or ""))
    database = given.get("dbname", unquote(parts.path.removeprefix("/")))
    environment = {
        "DBT_HOST": given.get("host", parts.hostname or ""),
        "DBT_PORT": str(given.get("port", parts.port or 5432)),
        "DBT_USER": user,
        "DBT_ENV_SECRET_PASSWORD": given.get("password", unquote(parts.password or "")),
        "DBT_DBNAME": database or user,
    }
    return environment | {f"DBT_{name.upper()}": given[name] for name in ("sslmode", "sslrootcert") if name in given}


def dbt_environment() -> Mapping[str, str]:
    """Environment of a `dbt` process: nothing is reported home, nothing is looked up on the network."""
    return os.environ | {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "DBT_VERSION_CHECK": "false"}


def _read(path: Path) -> str | None:
    return path.read_text() if path.exists() else None


def _parsed() -> tuple[Path, str]:
    """The folder of what the project was parsed to, and its fingerprint; parses first if any of its files changed.

    The fingerprint is of contents, not times: a checkout or a container build changes only times. The folder holds
    `manifest.json`, `partial_parse.msgpack`, which is the same in dbt's own form, `graph.json` and `sources.json`. A
    person's own dbt commands, perhaps with variables, do not write there.
    """
    target, fingerprint = target_dir() / "graph", _fingerprint()
    stamp = target / "fingerprint"
    if _read(stamp) != fingerprint:
        target.mkdir(parents=True, exist_ok=True)
        with (target / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _read(stamp) != fingerprint:
                _parse(target)
                _write_graph(target)
                stamp.write_text(fingerprint)
    return target, fingerprint


def _fingerprint() -> str:
    """A hash over every file that dbt parses, and over what parses and draws them: dbt's version and our modules."""
    digest = hashlib.sha256(version("dbt-core").encode())
    for module in (__file__, dbt_graph.__file__, dbt_names.__file__):
        digest.update(Path(module).read_bytes())
    for folder, folders, files in os.walk(PROJECT_DIR):
        folders[:] = sorted(folders if folder != str(PROJECT_DIR) else {*folders} - {"target", "logs"})
        for name in sorted(files):
            if name.endswith(_PARSED_SUFFIXES):
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    digest.update(path.removeprefix(str(PROJECT_DIR)).encode() + b"\0" + file.read() + b"\0")
    return digest.hexdigest()


def _parse(target: Path) -> None:
    """Run `dbt parse` in a process of its own, so that the DAG processor does not import dbt."""
    command = [sys.executable, "-m", "dbt.cli.main", "parse", "--project-dir", str(PROJECT_DIR)]
    command += ["--profiles-dir", str(PROJECT_DIR), "--target-path", str(target), "--log-path", str(target / "logs")]
    environment = {**dbt_environment(), "DBT_DBNAME": _ANY_DATABASE}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line.split("  ", 1)[-1].strip() for line in done.stdout.splitlines() + done.stderr.splitlines()]
        raise ConfigError(f"{PROJECT_DIR}: dbt cannot parse the project: {' '.join(filter(None, lines))[-2000:]}")


def _write_graph(target: Path) -> None:
    """Write `graph.json` and `sources.json`, whole: another process may still be reading the ones before."""
    manifest: dict[str, Any] = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    for name, content in (("graph", dbt_graph.draw(manifest)), ("sources", dbt_graph.entries(manifest))):
        write_whole(target / f"{name}.json", json.dumps(content, sort_keys=name == "graph"), is_private=False)
