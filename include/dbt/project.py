"""The dbt project on disk: where it is, its manifest (never stale) and the environment its profile reads."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.dbt import graph as dbt_graph
from include.errors import ConfigError
from include.files import write_whole

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
PROJECT_DIR = ROOT / "dbt"
PROFILE = "elt"
UNSET = 3
"""Exit status of a step that looked for an environment variable in vain."""

DEFAULT_SCHEMA = "analytics"

_PLACES = ("DBT_DBNAME", "DBT_HOST", "DBT_USER")
"""Variables of the profile that something stands in for while dbt parses: the manifest then fits every warehouse."""

PROFILE_VARIABLES = (*_PLACES, "DBT_PORT", "DBT_SSL", "DBT_THREADS")
"""Variables of the profile that change nothing that is parsed."""

_PARSED_BY = ("dbt-core", "dbt-common", "dbt-adapters", "dbt-postgres")
_PARSED_SUFFIXES = tuple(".sql .yml .yaml .csv .py .md .js .json .j2 .jinja .jinja2 .dbtignore".split())
"""In lower case: dbt reads `ORDERS.SQL` as well."""


# dbt reads a `.env` of the folder it is started in. Ours is Compose's, with the secrets of its services.
os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")


class UnsetVariableError(ConfigError):
    """The project reads an environment variable that is not set."""


def target_dir() -> Path:
    """Where dbt writes: `DBT_TARGET_PATH`, else `dbt/target`."""
    return Path(os.environ.get("DBT_TARGET_PATH") or PROJECT_DIR / "target")


def graph_path() -> Path:
    """Path of an up-to-date `graph.json`: what rendering reads of dbt's manifest (`include.dbt.graph.draw`).

    Every task's process reads it twice, once in Cosmos; the manifest of 1,000 models has three times the size.

    Raises:
        ConfigError: dbt cannot parse the project; carries dbt's own message.
    """
    return _parsed({})[0] / "graph.json"


def sources_path() -> Path:
    """Path of an up-to-date `sources.json`: the source tables to load (`include.dbt.graph.entries`).

    Raises:
        ConfigError: dbt cannot parse the project; carries dbt's own message.
    """
    return _parsed({})[0] / "sources.json"


def selected(selection: str) -> set[str]:
    """dbt's unique ids of what a selection holds, such as `tag:hourly`; asked once for each state of the project.

    Args:
        selection: Empty: what `dbt build` builds, as the project's default selector says.

    Raises:
        ConfigError: dbt does not understand it, or it holds nothing.
    """
    folder, stamp = _parsed({})
    kept = folder if os.access(folder, os.W_OK) else _own_folder()
    path = kept / f"selected-{_digest(stamp + selection)[:16]}.json"
    if not path.exists():
        kept.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept) as made:
            found = Path(made) / path.name
            run_dbt("select", f"select by {selection!r}", selection, str(folder / "partial_parse.msgpack"), str(found))
            shutil.move(found, path)
    nodes = set(json.loads(path.read_text(encoding="utf-8")))
    if not nodes:
        by = repr(selection) if selection else "the default selector of selectors.yml"
        raise ConfigError(f"{PROJECT_DIR}: dbt selects nothing by {by}; name nodes that there are")
    return nodes


def load_manifest(profile: Mapping[str, str], variables: Mapping[str, Any] | None = None) -> Manifest:
    """dbt's own manifest object, read once a process; with it `dbtRunner` need not parse in every invocation.

    Args:
        profile: The profile's variables, which name the warehouse as dbt writes it into relations, hooks and the rest.
        variables: dbt variables of the run. They may change what the project is parsed to, which is done once for them.

    Raises:
        ConfigError: dbt cannot parse the project; carries dbt's own message.
    """
    folder, stamp = _parsed(variables or {})
    names = tuple((_stand_in(name), profile.get(name, "")) for name in _PLACES)
    return _load_manifest(folder / "partial_parse.msgpack", stamp, names)


@lru_cache(maxsize=2)
def _load_manifest(path: Path, stamp: str, names: tuple[tuple[str, str], ...]) -> Manifest:
    from dbt.contracts.graph.manifest import Manifest
    from dbt.parser.manifest import extended_mashumuro_decoder

    return Manifest.from_msgpack(
        path.read_bytes(), decoder=lambda data: _renamed(extended_mashumuro_decoder(data), names)
    )


def _stand_in(name: str) -> str:
    return f"__{name.lower()}__"


def _renamed(value: Any, names: tuple[tuple[str, str], ...]) -> Any:
    """What was parsed, with the warehouse's names for those that stood in for them, wherever they went."""
    if isinstance(value, str):
        for stand_in, name in names if "__dbt_" in value else ():
            value = value.replace(stand_in, name)
        return value
    if isinstance(value, dict):
        return {key: _renamed(each, names) for key, each in value.items()}
    return [_renamed(each, names) for each in value] if isinstance(value, list) else value


def dbt_environment() -> Mapping[str, str]:
    """Environment of a `dbt` process: nothing is reported home, nothing is looked up on the network."""
    return os.environ | {"DBT_SEND_ANONYMOUS_USAGE_STATS": "false", "DBT_VERSION_CHECK": "false"}


def _parsed(variables: Mapping[str, Any]) -> tuple[Path, str]:
    """The folder of what the project was parsed to, and what it was parsed from; parses first if that changed.

    The folder holds `manifest.json`, `partial_parse.msgpack`, which is the same in dbt's own form, `graph.json` and
    `sources.json`. A person's own dbt commands do not write there.
    """
    _require_packages()
    name = "graph" if not variables else f"graph-{_digest(json.dumps(variables, sort_keys=True))[:16]}"
    folder = target_dir() / name
    if stamp := _current(folder, variables):
        return folder, stamp
    if not os.access(_nearest(folder), os.W_OK):
        folder = _own_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    _forget(folder.parent)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if stamp := _current(folder, variables):
            return folder, stamp
        with tempfile.TemporaryDirectory(dir=folder) as made:
            return folder, _parse_whole(Path(made), folder, variables)


def packages_stamp() -> Path:
    """The file that says of which lists the packages are that lie beside it."""
    return PROJECT_DIR / "dbt_packages" / ".installed"


def installed_packages() -> str:
    """What the packages were installed from; empty where there are none."""
    return packages_stamp().read_text() if packages_stamp().exists() else ""


def listed_packages() -> str:
    """A hash of what the project's lists of packages say; empty where it has none."""
    lists = [PROJECT_DIR / f"{name}.yml" for name in ("packages", "dependencies", "package-lock")]
    found = [path.name.encode() + b"\0" + path.read_bytes() for path in lists if path.exists()]
    return hashlib.sha256(b"\0".join(found)).hexdigest() if found else ""


def _require_packages() -> None:
    if installed_packages() != listed_packages():
        raise ConfigError(
            f"{PROJECT_DIR}: the packages of packages.yml, dependencies.yml and package-lock.yml are not installed, or "
            "the lists changed since; run `make setup`, or build the image again"
        )


def _own_folder() -> Path:
    """Where to parse if what came with the image, which nobody may write to, is of another environment."""
    folder = Path(tempfile.gettempdir(), f"elt-dbt-{os.getuid()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if folder.stat().st_uid != os.getuid():
        raise ConfigError(f"{folder} is somebody else's, and what dbt parsed is kept there: remove it")
    return folder / _digest(str(PROJECT_DIR))[:16]


def _nearest(path: Path) -> Path:
    """The path, or what there is of it."""
    return next(each for each in (path, *path.parents) if each.exists())


def _forget(folder: Path) -> None:
    """Remove what was parsed with the variables of a run, a day later."""
    for path in folder.glob("graph-*"):
        if path.stat().st_mtime < time.time() - 86_400:
            shutil.rmtree(path, ignore_errors=True)


def _parse_whole(made: Path, folder: Path, variables: Mapping[str, Any]) -> str:
    """Parse into `made`, then put file after file in place: who reads one of them meanwhile finds it whole."""
    fingerprint = _fingerprint(variables, ())
    _parse(made, variables)
    _write_graph(made)
    read = json.loads((made / "read.json").read_text())
    stamp = {
        "fingerprint": fingerprint if not read["folders"] else _fingerprint(variables, read["folders"]),
        "folders": read["folders"],
        "environment": {name: _seen(name) for name in read["environment"]},
    }
    (made / "stamp.json").write_text(json.dumps(stamp, sort_keys=True))
    for name in ("manifest.json", "partial_parse.msgpack", "graph.json", "sources.json", "stamp.json"):
        shutil.move(made / name, folder / name)
    return json.dumps(stamp, sort_keys=True)


def _current(folder: Path, variables: Mapping[str, Any]) -> str | None:
    """What the project was parsed from into this folder, if that is what there is now."""
    try:
        text = (folder / "stamp.json").read_text()
        stamp = json.loads(text)
    except (FileNotFoundError, NotADirectoryError):
        return None
    is_same = all(_seen(name) == value for name, value in stamp["environment"].items())
    return text if is_same and _fingerprint(variables, stamp["folders"]) == stamp["fingerprint"] else None


def _seen(name: str) -> str | None:
    """What stands for the value of an environment variable: it may be nobody's to read."""
    value = os.environ.get(name)
    return value if value is None else _digest(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fingerprint(variables: Mapping[str, Any], folders: Iterable[str]) -> str:
    """A hash over all that parsing depends on but the environment.

    That is each file that dbt parses, of packages and beyond symbolic links as well; dbt, its adapter and this package
    themselves; and the run's variables. Of contents, not times: a checkout or a container build changes only times.

    Args:
        folders: Where dbt has read outside the project.
    """
    digest = hashlib.sha256(json.dumps([version(each) for each in _PARSED_BY]).encode())
    digest.update(json.dumps(variables, sort_keys=True).encode())
    for module in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(module.read_bytes())
    for path, name in _files([str(PROJECT_DIR), *folders]):
        with open(path, "rb") as file:
            digest.update(name.encode() + b"\0" + file.read() + b"\0")
    return digest.hexdigest()


def _files(roots: list[str]) -> Iterator[tuple[str, str]]:
    """Path and name of each file below the folders that dbt may parse; what is linked from two places is read once."""
    walked: set[str] = set()
    for root in roots:
        for folder, folders, names in os.walk(root, followlinks=True):
            place = os.path.realpath(folder)
            if place in walked:
                folders.clear()
                continue
            walked.add(place)
            folders[:] = sorted({*folders} - ({"target", "logs"} if folder == str(PROJECT_DIR) else {".git"}))
            for name in sorted(names):
                path = os.path.join(folder, name)
                if name.lower().endswith(_PARSED_SUFFIXES) and os.path.exists(path):
                    yield path, path.removeprefix(str(PROJECT_DIR))


def _parse(target: Path, variables: Mapping[str, Any]) -> None:
    run_dbt("parse", "parse the project", str(target), json.dumps(variables))


def run_dbt(step: str, deed: str, *arguments: str) -> None:
    """Run a step of `include.dbt.runner` in a process of its own, so that this one need not import dbt.

    Raises:
        UnsetVariableError: the project reads an environment variable that is not set, and names no default.
        ConfigError: dbt cannot do it; carries dbt's own message.
    """
    command = [sys.executable, "-m", "include.dbt.runner", step, str(PROJECT_DIR), *arguments]
    environment = {**dbt_environment(), **{name: _stand_in(name) for name in _PLACES}}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())
        said = said if len(said) <= 2000 else f"{said[:1000]} … {said[-1000:]}"  # the file is named first
        raise (UnsetVariableError if done.returncode == UNSET else ConfigError)(
            f"{PROJECT_DIR}: dbt cannot {deed}: {said}"
        )


def _write_graph(target: Path) -> None:
    """Write `graph.json` and `sources.json`, whole: another process may still be reading the ones before."""
    manifest: dict[str, Any] = json.loads((target / "manifest.json").read_text(encoding="utf-8"))
    for name, content in (("graph", dbt_graph.draw(manifest)), ("sources", dbt_graph.entries(manifest))):
        write_whole(target / f"{name}.json", json.dumps(content, sort_keys=name == "graph"), is_private=False)


def prepare() -> None:
    """Parse the project where it is built into an image, so that no container has to.

    Raises:
        ConfigError: dbt cannot parse the project, for another reason than a variable that is set where containers run.
    """
    target_dir().mkdir(parents=True, exist_ok=True)
    try:
        graph_path()
    except UnsetVariableError as error:
        print(f"{error}; it is not set here, so each container parses the project itself, which has to set it")


if __name__ == "__main__":
    try:
        prepare()
    except ConfigError as error:
        sys.exit(f"error: {error}")
