"""dbt in this process, asked once a task: what it would do again each time is done once, or not at all.

Importing dbt takes a second; this module is imported where dbt is about to run, and before forks.

What is replaced below is dbt-core 1.12's. Each says when it may go.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from copy import copy, deepcopy
from datetime import datetime
from io import StringIO
from pathlib import Path
from sysconfig import get_path
from tempfile import TemporaryDirectory
from types import CodeType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import dbt.mp_context
import psycopg2
from dbt.adapters.exceptions import FailedToConnectError
from dbt.adapters.factory import reset_adapters
from dbt.adapters.postgres import connections
from dbt.adapters.postgres.connections import PostgresConnectionManager
from dbt.cli import requires
from dbt.cli.main import cli, dbtRunner, dbtRunnerResult
from dbt.contracts.files import FilePath
from dbt.exceptions import EnvVarMissingError
from dbt.graph import NodeSelector, SelectionSpec, parse_difference
from dbt.materializations.incremental.microbatch import MicrobatchBuilder
from dbt.parser.manifest import extended_mashumaro_encoder, extended_mashumuro_decoder
from dbt.task.run import MicrobatchModelRunner, RunTask
from dbt_common.behavior_flags import BehaviorFlagRendered
from dbt_common.clients.jinja import MacroFuzzEnvironment
from dbt_common.context import get_invocation_context
from dbt_common.events.base_types import EventLevel
from dbt_common.events.event_manager import EventManager
from dbt_common.tests import enable_test_caching

from include import retries
from include.connecting import Parameters
from include.dbt import hooks as dbt_hooks
from include.dbt.project import PROFILE, PROFILE_VARIABLES, PROJECT_DIR, TARGET, UNSET
from include.errors import ConfigError

if TYPE_CHECKING:
    from dbt.contracts.graph.manifest import Manifest

HARMLESS = frozenset("debug log_format log_level print printer_width quiet".split())
"""Options that a variable (`DBT_DEBUG`) may set: what is shown. Any other would have a task do something else: a
`DBT_TARGET`, `DBT_FULL_REFRESH` or `DBT_STATE` in the shell of somebody with a project elsewhere is not read."""

SELECTABLE = ("model", "snapshot", "seed", "test", "function")

LEAN = ("--threads", "1", "--no-use-colors", "--no-write-json", "--no-populate-cache", "--log-level-file", "none")
"""One node needs one thread, and nobody reads dbt's own log and artifacts of it."""

SILENT = ("--no-use-colors", "--log-level", "none", "--log-level-file", "none")
"""Nothing is shown but the error that ends it."""


_only: ContextVar[Set[str] | None] = ContextVar("only", default=None)


class Period(NamedTuple):
    """A half-open interval of time, UTC."""

    start: datetime
    end: datetime
    is_all: bool
    """Whether it is all that is asked for; else the batches before it follow, as the model's `lookback` says."""


def invoke(
    command: list[str],
    folder: str,
    manifest: Manifest | None,
    only: str | Set[str] | None = None,
    reached: Parameters | None = None,
    period: Period | None = None,
    run: dbt_hooks.Run | None = None,
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
    dbt_hooks.current[:] = [run] if run else []
    _reached.update(reached or {})
    _periods[:] = [period] if period else []
    places = ["--project-dir", str(PROJECT_DIR), "--profiles-dir", str(PROJECT_DIR), "--profile", PROFILE]
    places += ["--target", TARGET, "--log-path", folder, "--no-send-anonymous-usage-stats"]
    _finals.clear()
    token = _only.set({only} if isinstance(only, str) else only)
    if "--target-path" not in command and command[0] != "deps":
        places += ["--target-path", str(Path(folder) / "target")]
    try:
        return dbtRunner(manifest=manifest and _fresh(manifest, only)).invoke([*command, *places, *options])
    finally:
        _only.reset(token)
        _reached.clear()
        reset_adapters()  # or the next invocation in this process finds this one's connections


def may_pass() -> bool:
    """Whether the last invocation failed at its database in a way that another attempt may not meet."""
    return not all(_finals)


_finals: list[bool] = []
"""Of each error that the database gave the invocation, whether it is final."""

_exception_handler = PostgresConnectionManager.exception_handler
_open = PostgresConnectionManager.open.__func__


@contextmanager
def _judge_errors(manager: PostgresConnectionManager, query: str) -> Iterator[None]:
    """dbt makes a text of what the server says, in the server's language, and drops its SQLSTATE.

    Unnecessary once its results carry that.
    """
    with _exception_handler(manager, query):
        try:
            yield
        except psycopg2.Error as error:
            _finals.append(retries.is_final(error))
            raise


def _open_or_judge(manager: type[PostgresConnectionManager], connection: Any) -> Any:
    try:
        return _open(manager, connection)
    except FailedToConnectError:
        _finals.append(retries.is_refused(_told))
        raise


PostgresConnectionManager.exception_handler = _judge_errors
PostgresConnectionManager.open = classmethod(_open_or_judge)
_get_selected = NodeSelector.get_selected


def _get_selected_alone(selector: NodeSelector, spec: SelectionSpec, *rest: Any, **more: Any) -> set[str]:
    """dbt selects by name, path or `fqn:`, which is a prefix and not unique, but by no unique id.

    Unnecessary once it has such a method.
    """
    only = _only.get()
    if only is None:
        return _get_selected(selector, spec, *rest, **more)
    selected = only & set(selector.graph.nodes())
    if selected and spec != parse_difference(None, None):  # without a person's selection it is everything
        selected &= _get_selected(selector, spec, *rest, **more)
    return selector.filter_selection(selected)


NodeSelector.get_selected = _get_selected_alone


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


for _option in (option for command in (cli, *cli.commands.values()) for option in command.params):
    if _option.name not in HARMLESS:
        _option.envvar = None


# A task's process ends without cleaning up. Locks of this kind end with it; those of dbt's own kind, which is for
# processes that dbt never starts, would be reported as leaked in the last line of every task's log. Unnecessary once
# dbt makes no such lock in a run of one thread.
dbt.mp_context._MP_CONTEXT = multiprocessing.get_context("fork")

_periods: list[Period] = []

_builder_of = MicrobatchModelRunner.get_microbatch_builder


class _OfPeriod(MicrobatchBuilder):
    """The batches of a period, where dbt has those before the present. The first run builds from `begin` on."""

    period: Period

    def build_start_time(self, checkpoint: datetime | None) -> datetime:
        found: datetime = super().build_start_time(checkpoint)
        if self.is_incremental and not self.event_time_start:
            config = self.model.config
            return min(found, self.offset_timestamp(self.period.start, config.batch_size, -config.lookback))
        return found


def _builder_of_period(runner: MicrobatchModelRunner, model: Any) -> MicrobatchBuilder:
    """dbt's options for it, --event-time-start and --event-time-end, leave `lookback` and `begin` out of account.

    Unnecessary once the end can be given alone.
    """
    builder = _builder_of(runner, model)
    for period in _periods:
        builder.__class__, builder.period, builder.default_end_time = _OfPeriod, period, period.end
        if period.is_all:
            builder.event_time_start, builder.event_time_end = period.start, period.end
    return builder


MicrobatchModelRunner.get_microbatch_builder = _builder_of_period

_reached: Parameters = {}
_told: dict[str, Any] = {}
"""What libpq was told for the last session."""


def _connect(**of_profile: Any) -> Any:
    """dbt's profile knows a few of libpq's parameters; the others are as much part of who is reached, and how.

    Unnecessary once the profile takes any.
    """
    _told.clear()
    _told.update(_reached or {name: value for name, value in of_profile.items() if value not in (None, "")})
    return psycopg2.connect(**_told)


connections.psycopg2 = SimpleNamespace(**{**vars(psycopg2), "connect": _connect})

# dbt's own switch to keep what depends on nothing but a text or the installed packages: parsed macros, plugins.
enable_test_caching()

# dbt would walk the whole call stack, source lines and all, to name the module that declared each of its flags.
# Unnecessary once its flags carry their `source`.
BehaviorFlagRendered._default_source = staticmethod(lambda: "dbt")


_compile = MacroFuzzEnvironment.compile
_compiled: dict[tuple[type, str], CodeType] = {}


def _compile_once(environment: MacroFuzzEnvironment, source: str) -> CodeType:
    """dbt makes an environment for each text it renders, the profile's entries for instance, and so keeps none.

    Unnecessary once it keeps compiled templates.
    """
    key = type(environment), source
    if key not in _compiled:
        _compiled[key] = _compile(environment, source)
    return _compiled[key]


MacroFuzzEnvironment.compile = _compile_once

_create_schemas = RunTask.create_schemas
_created: set[tuple[Any, ...]] = set()


def _create_schemas_once(task: RunTask, adapter: Any, required: set[Any]) -> None:
    """dbt asks for all schemas of the database before each invocation; here once for a schema, as `dbt build` does.

    Unnecessary once an invocation can be told that its schemas exist.
    """
    place = adapter.config.credentials.host, adapter.config.credentials.port, *_reached.values()
    if missing := {schema for schema in required if (*place, schema) not in _created}:
        _create_schemas(task, adapter, missing)
        _created.update((*place, schema) for schema in missing)


RunTask.create_schemas = _create_schemas_once

_fire_event = EventManager.fire_event
_UNSEEN = {EventLevel.DEBUG, EventLevel.TEST}


def _fire_if_seen(manager: EventManager, event: Any, level: EventLevel | None = None, *rest: Any, **more: Any) -> None:
    """dbt writes out fifty events of each node, looking for secrets in them, before it drops them for their level.

    Where it compiled a node to is a folder that is gone when somebody reads that.

    Unnecessary once it looks at the level first.
    """
    if type(event).__name__ == "SQLCompiledPath":
        return
    if (level or event.level_tag()) not in _UNSEEN or any(logger.level in _UNSEEN for logger in manager.loggers):
        _fire_event(manager, event, level, *rest, **more)


EventManager.fire_event = _fire_if_seen


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
    command = ["parse", "--no-partial-parse", "--vars", json.dumps(variables), "--target-path", str(target)]
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
    command = ["list", "--select", *selection.split(), "--output", "json", "--output-keys", "unique_id"]
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
