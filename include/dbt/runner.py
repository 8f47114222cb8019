"""dbt in this process, asked once a task: what it would do again each time is done once, or not at all.

Importing dbt takes a second; this module is imported where dbt is about to run, and before forks.

What an invocation cannot be told is in include/patches.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import redirect_stdout
from copy import copy, deepcopy
from io import StringIO
from pathlib import Path
from sysconfig import get_path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dbt.adapters.factory import reset_adapters
from dbt.cli import requires
from dbt.cli.main import dbtRunner, dbtRunnerResult
from dbt.contracts.files import FilePath
from dbt.exceptions import EnvVarMissingError
from dbt.parser.manifest import extended_mashumaro_encoder, extended_mashumuro_decoder
from dbt_common.context import get_invocation_context

from include import patches
from include.connecting import Parameters
from include.dbt.project import PROFILE, PROFILE_VARIABLES, PROJECT_DIR, UNSET
from include.errors import ConfigError
from include.patches import dbt, dbt_hooks
from include.patches.dbt import Invocation, Period, Run, current

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

SELECTABLE = ("model", "snapshot", "seed", "test", "function")

LEAN = ("--threads", "1", "--no-use-colors", "--no-write-json", "--no-populate-cache", "--log-level-file", "none")
"""One node needs one thread, and nobody reads dbt's own log and artifacts of it."""

SILENT = ("--no-use-colors", "--log-level", "none", "--log-level-file", "none")
"""Nothing is shown but the error that ends it."""

patches.apply(dbt)
patches.apply(dbt_hooks)


def invoke(
    command: list[str],
    folder: str,
    manifest: Manifest | None,
    only: str | Set[str] | None = None,
    reached: Parameters | None = None,
    period: Period | None = None,
    run: Run | None = None,
    options: Sequence[str] = LEAN,
) -> dbtRunnerResult:
    """Run a dbt command on the project in this process; what it writes goes below `folder`.

    Args:
        manifest: What the project was parsed to. It stays as it is: the next invocation is as if it were the first.
        only: dbt's unique id of the one node to run, or of several, if the command's own selection holds them; None:
            all that it holds.
        reached: What libpq is told for its sessions; None: what the profile says.
        period: Of which time a microbatch model builds its batches; None: of now.
        run: What it is a part of, if it is not all.
    """
    packages = manifest and vars(manifest).setdefault("packages", {})  # of the same parse, and gone with it
    invocation = Invocation({only} if isinstance(only, str) else only, reached or {}, run, period, packages)
    current[:] = [invocation]
    places = ["--project-dir", str(PROJECT_DIR), "--profiles-dir", str(PROJECT_DIR), "--profile", PROFILE]
    places += ["--log-path", folder, "--no-send-anonymous-usage-stats"]
    if "--target-path" not in command and command[0] != "deps":
        places += ["--target-path", str(Path(folder) / "target")]
    try:
        return dbtRunner(manifest=manifest and _fresh(manifest, only)).invoke([*command, *places, *options])
    finally:
        current[:] = [Invocation(finals=invocation.finals)]
        reset_adapters()  # or the next invocation in this process finds this one's connections


def may_pass() -> bool:
    """Whether the last invocation failed at its database in a way that another attempt may not meet."""
    return not all(current[0].finals)


def _fresh(manifest: Manifest, only: str | Set[str] | None) -> Manifest:
    """A manifest for one invocation: dbt writes what it compiles into the nodes that it runs.

    Those are the one node itself and the ephemeral models that are put into it; all others are shared.
    """
    fresh = copy(manifest)
    fresh._macros_by_name, fresh._macros_by_package = manifest.get_macros_by_name(), manifest.get_macros_by_package()
    for part in ("nodes", "unit_tests", "functions"):
        nodes = getattr(manifest, part)
        touched = {only, *_put_into(manifest, only)} & nodes.keys() if isinstance(only, str) else nodes.keys()
        setattr(fresh, part, {**nodes, **deepcopy({unique_id: nodes[unique_id] for unique_id in touched})})
    fresh.build_flat_graph()
    return fresh


def _put_into(manifest: Manifest, unique_id: str) -> Iterator[str]:
    """The ephemeral models that a node reads, and those that these read."""
    node = manifest.nodes.get(unique_id) or manifest.unit_tests.get(unique_id)
    for parent in node.depends_on_nodes if node else ():
        if parent in manifest.nodes and manifest.nodes[parent].is_ephemeral_model:
            yield parent
            yield from _put_into(manifest, parent)


class _Watched(dict[str, str]):
    """Environment variables, and the names of those that were looked for."""

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__(given)
        self.read: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.read.add(str(name))
        return super().__contains__(name)


def _watch(variables: _Watched) -> None:
    """Have dbt take its environment from there from now on.

    What it looks for before it reads the profile is its own options, which are not read here.
    """
    load_profile = requires.load_profile

    def load_profile_watched(*args: Any, **kwargs: Any) -> Any:
        variables.read.clear()
        get_invocation_context()._env = variables
        return load_profile(*args, **kwargs)

    requires.load_profile = load_profile_watched


def parse(target: Path, variables: dict[str, Any]) -> dbtRunnerResult:
    """Parse the project into a folder: `manifest.json`, `partial_parse.msgpack`, and in `read.json` what it depends on.

    Parsed whole: of a package that was removed, partial parsing keeps the hooks.
    """
    environment = _Watched(os.environ)
    _watch(environment)
    command = ["parse", "--no-partial-parse", "--write-json", "--vars", json.dumps(variables)]
    command += ["--target-path", str(target)]
    done = invoke(command, str(target), None, options=SILENT)
    if done.success:
        (target / "partial_parse.msgpack").write_bytes(done.result.to_msgpack(extended_mashumaro_encoder))
        # A secret may only be in the profile and in the list of packages; what says where the warehouse is, changes
        # nothing that is parsed.
        own = ("PG", "DBT_ENV_SECRET_", *PROFILE_VARIABLES)
        read = {"environment": sorted(name for name in environment.read if not name.startswith(own))}
        (target / "read.json").write_text(json.dumps(read | {"folders": _folders_outside(done.result)}))
    return done


def selected(chosen: str, folder: str, manifest: Manifest) -> list[str]:
    """Unique ids of what a selection of dbt's holds and a run builds or tests.

    Raises:
        ConfigError: dbt does not understand it; carries its message.
    """
    kinds = [word for kind in SELECTABLE for word in ("--resource-type", kind)]
    command = ["list", "--quiet", "--select", chosen, *kinds, "--output", "json", "--output-keys", "unique_id"]
    # Its last word goes to the screen as well.
    with redirect_stdout(StringIO()):
        done = invoke(command, folder, manifest, options=SILENT)
    if done.exception:
        raise ConfigError(f"dbt cannot select {chosen!r}: {' '.join(str(done.exception).split())}")
    return [json.loads(line)["unique_id"] for line in done.result or ()]


def install(folder: str) -> dbtRunnerResult:
    """Install the project's packages."""
    return invoke(["deps"], folder, None, options=SILENT)


def select(selection: str, parsed: Path, found: Path) -> dbtRunnerResult:
    """Write the unique ids of what dbt selects to `found`."""
    from dbt.contracts.graph.manifest import Manifest

    manifest = Manifest.from_msgpack(parsed.read_bytes(), decoder=extended_mashumuro_decoder)
    command = ["list", "--output", "json", "--output-keys", "unique_id"]
    command += ["--select", *selection.split()] if selection else []
    done = invoke(command, str(found.parent), manifest, options=SILENT)
    if done.success:
        found.write_text(json.dumps([json.loads(line)["unique_id"] for line in done.result]))
    return done


def _folders_outside(manifest: Manifest) -> list[str]:
    """Folders of the project's own paths that are not below it, `model-paths: [../shared]`."""
    paths = (file.path for file in manifest.files.values() if isinstance(file.path, FilePath))
    found = {os.path.realpath(os.path.join(path.project_root, path.searched_path)) for path in paths}
    known = [
        os.path.realpath(place) for place in (PROJECT_DIR, get_path("purelib"))
    ]  # dbt's own macros are of a version
    return sorted(place for place in found if not any(Path(place).is_relative_to(each) for each in known))


def main(step: str, *arguments: str) -> int:
    """A step in a process of its own, which says in its exit status and last words what came of it."""
    with TemporaryDirectory() as folder:
        if step == "deps":
            done = install(folder)
        elif step == "select":
            done = select(arguments[0], Path(arguments[1]), Path(arguments[2]))
        else:
            done = parse(Path(arguments[0]), json.loads(arguments[1]))
    if not done.success:
        print(done.exception)
    return UNSET if isinstance(done.exception, EnvVarMissingError) else not done.success


if __name__ == "__main__":
    globals()["PROJECT_DIR"] = Path(sys.argv[2])
    sys.exit(main(sys.argv[1], *sys.argv[3:]))
