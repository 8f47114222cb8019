"""What of dbt is replaced, so that each task can be one invocation of it, in its own process.

An invocation is told in `current` what no option of dbt's says.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from types import CodeType, SimpleNamespace
from typing import Any, NamedTuple

import dbt.mp_context
import psycopg2
from dbt.adapters.exceptions import FailedToConnectError
from dbt.adapters.postgres import connections
from dbt.adapters.postgres.connections import PostgresConnectionManager
from dbt.cli.main import cli
from dbt.compilation import Linker
from dbt.config import RuntimeConfig
from dbt.contracts.graph.manifest import Manifest
from dbt.flags import get_flags
from dbt.graph import NodeSelector, SelectionSpec, parse_difference
from dbt.materializations.incremental.microbatch import MicrobatchBuilder
from dbt.task.run import MicrobatchModelRunner, RunTask
from dbt_common.behavior_flags import BehaviorFlagRendered
from dbt_common.clients.jinja import MacroFuzzEnvironment
from dbt_common.events.base_types import BaseEvent, EventLevel
from dbt_common.events.event_manager import EventManager
from dbt_common.tests import enable_test_caching

from include import retries
from include.connecting import Parameters
from include.patches import patch

HARMLESS = frozenset("debug log_format log_level print printer_width quiet".split())
"""Options that a variable (`DBT_DEBUG`) may set: what is shown. Any other would have a task do something else: a
`DBT_TARGET`, `DBT_FULL_REFRESH` or `DBT_STATE` in the shell of somebody with a project elsewhere is not read."""

CORE, ADAPTERS, COMMON = ("dbt-core", "==1.12.*"), ("dbt-postgres", "==1.11.*"), ("dbt-common", "==1.*")


class Period(NamedTuple):
    """A half-open interval of time, UTC."""

    start: datetime
    end: datetime
    is_all: bool
    """Whether it is all that is asked for; else the batches before it follow, as the model's `lookback` says."""


@dataclass(frozen=True)
class Run:
    """A run of the whole graph, of which each task is one invocation."""

    invocation_id: str
    """The same in all its tasks."""

    end: str | None = None
    """`on-run-start` or `on-run-end`: the hooks to run, and none of the nodes; None: the node, without hooks."""

    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the other tasks have kept of their nodes (`dbt_hooks.outcome`), by unique id; for `on-run-end`."""


@dataclass
class Invocation:
    """What the invocation under way is told beside its command, and what it leaves.

    Attributes:
        only: dbt's unique ids of the nodes to run; None: all that its selection holds.
        reached: What libpq is told for its sessions; empty: what the profile says.
        run: What it is a part of; None: it is all.
        period: Of which time a microbatch model builds its batches; None: of now.
        packages: Those of the project as it was parsed, once an invocation has read them; None: it is being parsed.
        told: What libpq was told for its last session.
        finals: Of each error that the database gave it, whether another attempt would meet it too.
    """

    only: Set[str] | None = None
    reached: Parameters = field(default_factory=dict)
    run: Run | None = None
    period: Period | None = None
    packages: dict[str, RuntimeConfig] | None = None
    told: dict[str, Any] = field(default_factory=dict)
    finals: list[bool] = field(default_factory=list)


current = [Invocation()]
"""The one under way, or the last. dbt works in threads of its own."""


@patch(*ADAPTERS, without="what is tried again would hang on a text in the server's language", is_needed=True)
def judge_errors() -> None:
    """dbt makes a text of what the server says, in the server's language, and drops its SQLSTATE.

    Unnecessary once its results carry that.
    """
    handle, open_ = PostgresConnectionManager.exception_handler, PostgresConnectionManager.open.__func__

    @contextmanager
    def handle_and_judge(manager: PostgresConnectionManager, query: str) -> Iterator[None]:
        with handle(manager, query):
            try:
                yield
            except psycopg2.Error as error:
                current[0].finals.append(retries.is_final(error))
                raise

    def open_or_judge(manager: type[PostgresConnectionManager], connection: Any) -> Any:
        try:
            return open_(manager, connection)
        except FailedToConnectError:
            current[0].finals.append(retries.is_refused(current[0].told))
            raise

    PostgresConnectionManager.exception_handler = handle_and_judge
    PostgresConnectionManager.open = classmethod(open_or_judge)


@patch(*ADAPTERS, without="certificates, options and several hosts of a connection would not reach dbt", is_needed=True)
def connect_as_told() -> None:
    """dbt's profile knows a few of libpq's parameters; the others are as much part of who is reached, and how.

    Unnecessary once the profile takes any.
    """

    def connect(**of_profile: Any) -> Any:
        invocation = current[0]
        given = {name: value for name, value in of_profile.items() if value not in (None, "")}
        invocation.told = dict(invocation.reached or given)
        return psycopg2.connect(**invocation.told)

    connections.psycopg2 = SimpleNamespace(**{**vars(psycopg2), "connect": connect})


@patch(*CORE, without="a task would run every node whose name begins like its own", is_needed=True)
def select_by_unique_id() -> None:
    """dbt selects by name, path or `fqn:`, which is a prefix and not unique, but by no unique id.

    Unnecessary once it has such a method.
    """
    get_selected = NodeSelector.get_selected

    def get_selected_alone(selector: NodeSelector, spec: SelectionSpec, *rest: Any, **more: Any) -> set[str]:
        only = current[0].only
        if only is None:
            return get_selected(selector, spec, *rest, **more)
        selected = only & set(selector.graph.nodes())
        if selected and spec != parse_difference(None, ()):  # without a person's selection it is everything
            selected &= get_selected(selector, spec, *rest, **more)
        return selector.filter_selection(selected)

    NodeSelector.get_selected = get_selected_alone


@patch(*CORE, without="a dbt task takes 0.1 s longer in a project of 200 models, and more in a larger one")
def link_alone() -> None:
    """dbt links the nodes of the whole project, and looks for cycles among them, before it runs the one of a task.

    Where a person selects, the selection goes by what is linked.

    Unnecessary once it links what it runs.
    """
    link_graph = Linker.link_graph

    def link(linker: Linker, manifest: Manifest) -> None:
        only, flags = current[0].only, get_flags()
        if only is None or len(only) > 1 or flags.SELECT or flags.EXCLUDE:
            return link_graph(linker, manifest)
        parts = (manifest.nodes, manifest.sources, manifest.functions, manifest.unit_tests)
        for unique_id in only:
            if any(unique_id in part for part in parts):
                linker.add_node(unique_id)

    Linker.link_graph = link


@patch(*CORE, without="a task whose node the project's default selector leaves out would run nothing", is_needed=True)
def select_by_no_default() -> None:
    """A task's node was selected where the graph was made.

    Unnecessary once dbt can be told to leave the project's default selector out of account.
    """
    of_project = RuntimeConfig.get_default_selector_name

    def get_name(config: RuntimeConfig) -> str | None:
        return of_project(config) if current[0].only is None else None

    RuntimeConfig.get_default_selector_name = get_name


@patch(*CORE, without="a shell that is set up for another project would change what tasks do", is_needed=True)
def read_no_options_from_the_shell() -> None:
    """dbt takes each of its options from a variable too."""
    for option in (option for command in (cli, *cli.commands.values()) for option in command.params):
        if option.name not in HARMLESS:
            option.envvar = None


class _OfPeriod(MicrobatchBuilder):
    """The batches of a period, where dbt has those before the present. The first run builds from `begin` on."""

    period: Period

    def build_start_time(self, checkpoint: datetime | None) -> datetime:
        found: datetime = super().build_start_time(checkpoint)
        if self.is_incremental and not self.event_time_start:
            config = self.model.config
            return min(found, self.offset_timestamp(self.period.start, config.batch_size, -config.lookback))
        return found


@patch(*CORE, without="a run for an old day would build the batches of today", is_needed=True)
def build_batches_of_the_period() -> None:
    """dbt's options for it, --event-time-start and --event-time-end, leave `lookback` and `begin` out of account.

    Unnecessary once the end can be given alone.
    """
    builder_of = MicrobatchModelRunner.get_microbatch_builder

    def builder_of_period(runner: MicrobatchModelRunner, model: Any) -> MicrobatchBuilder:
        builder, period = builder_of(runner, model), current[0].period
        if period:
            builder.__class__, builder.period, builder.default_end_time = _OfPeriod, period, period.end
            if period.is_all:
                builder.event_time_start, builder.event_time_end = period.start, period.end
        return builder

    MicrobatchModelRunner.get_microbatch_builder = builder_of_period


@patch(*CORE, without="the last line of each task's log tells of a leaked lock")
def lock_within_the_process() -> None:
    """A task's process ends without cleaning up. Locks of this kind end with it; dbt's are for processes that it never
    starts.

    Unnecessary once dbt makes no such lock in a run of one thread.
    """
    dbt.mp_context._MP_CONTEXT = multiprocessing.get_context("fork")


@patch(*COMMON, without="a dbt task takes longer")
def keep_parsed_macros() -> None:
    """dbt's own switch to keep what depends on nothing but a text or the installed packages: parsed macros, plugins."""
    enable_test_caching()


@patch(*COMMON, without="a dbt task takes 0.2 s longer")
def name_no_source_of_flags() -> None:
    """dbt would walk the whole call stack, source lines and all, to name the module that declared each of its flags.

    Unnecessary once its flags carry their `source`.
    """
    BehaviorFlagRendered._default_source = staticmethod(lambda: "dbt")


compiled: dict[tuple[type, str], CodeType] = {}
"""Templates, by the environment's kind and their text."""


@patch(*COMMON, without="a dbt task compiles the profile's entries again")
def compile_once() -> None:
    """dbt makes an environment for each text it renders, the profile's entries for instance, and so keeps none.

    Unnecessary once it keeps compiled templates.
    """
    compile_ = MacroFuzzEnvironment.compile

    def compile_new(environment: MacroFuzzEnvironment, source: str) -> CodeType:
        key = type(environment), source
        if key not in compiled:
            compiled[key] = compile_(environment, source)
        return compiled[key]

    MacroFuzzEnvironment.compile = compile_new


@patch(*CORE, without="a dbt task takes 3 ms longer for each package, dbt's own two among them")
def read_packages_once() -> None:
    """dbt reads the project file of each package again in each invocation, to know the package's variables.

    Unnecessary once they are in the manifest.
    """
    load = RuntimeConfig.load_dependencies

    def load_or_recall(config: RuntimeConfig, base_only: bool = False) -> Mapping[str, RuntimeConfig]:
        kept = current[0].packages
        if kept is None or base_only:
            return load(config, base_only)
        if not kept:
            kept.update(load(config))
        config.dependencies = {**kept, config.project_name: config}
        return config.dependencies

    RuntimeConfig.load_dependencies = load_or_recall


@patch(*CORE, without="each dbt task opens a connection more, to ask for schemas")
def create_schemas_once() -> None:
    """dbt asks for all schemas of the database before each invocation; here once for a schema, as `dbt build` does.

    Unnecessary once an invocation can be told that its schemas exist.
    """
    create_schemas, created = RunTask.create_schemas, set[tuple[Any, ...]]()

    def create_new_schemas(task: RunTask, adapter: Any, required: set[Any]) -> None:
        place = adapter.config.credentials.host, adapter.config.credentials.port, *current[0].reached.values()
        if missing := {schema for schema in required if (*place, schema) not in created}:
            create_schemas(task, adapter, missing)
            created.update((*place, schema) for schema in missing)

    RunTask.create_schemas = create_new_schemas


_UNSEEN = {EventLevel.DEBUG, EventLevel.TEST}
_fire_event = EventManager.fire_event


@patch(*COMMON, without="a dbt task writes out fifty events that nobody reads, and names a folder that is gone")
def write_events_that_are_seen() -> None:
    """dbt makes a message of each event and writes it out, looking for secrets in it, before it drops it for its level.

    Where it compiled a node to is a folder that is gone when somebody reads that.

    Unnecessary once it looks at the level first.
    """

    def keep(event: BaseEvent, *args: Any, **kwargs: Any) -> None:
        event.__dict__["given"] = args, kwargs

    def made(event: BaseEvent) -> Any:
        if "message" not in event.__dict__:
            args, kwargs = event.__dict__["given"]
            make(event, *args, **kwargs)
        return event.__dict__["message"]

    def fire(manager: EventManager, event: Any, level: EventLevel | None = None, *rest: Any, **more: Any) -> None:
        if type(event).__name__ == "SQLCompiledPath":
            return
        if (level or event.level_tag()) not in _UNSEEN or any(logger.level in _UNSEEN for logger in manager.loggers):
            _fire_event(manager, event, level, *rest, **more)

    make, BaseEvent.__init__ = BaseEvent.__init__, keep
    BaseEvent.pb_msg = property(made, lambda event, message: event.__dict__.update(message=message))
    EventManager.fire_event = fire
