"""A run of the whole graph as dbt sees it: each task is an invocation, and all are one run with one id and two ends.

`on-run-start` and `on-run-end` run in tasks of their own, once; what the other tasks made is told to those at the end.

What is replaced below is dbt-core 1.12's. Unnecessary once an invocation can be told that it is a part of a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dbt.artifacts.schemas.results import RunStatus, TestStatus, TimingInfo
from dbt.artifacts.schemas.run import RunResult
from dbt.cli import requires
from dbt.node_types import NodeType
from dbt.task.run import RunTask
from dbt_common import invocation

_KEPT = ("message", "failures", "execution_time", "thread_id", "adapter_response")


@dataclass(frozen=True)
class Run:
    """A run of the whole graph, of which each task is one invocation."""

    invocation_id: str
    """The same in all its tasks."""

    end: str | None = None
    """`on-run-start` or `on-run-end`: the hooks to run, and none of the nodes; None: the node, without hooks."""

    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the other tasks have kept of their nodes (`outcome`), by unique id; for `on-run-end`."""


current: list[Run] = []
"""What the invocation under way is a part of; empty where it is all of a run."""


def has_hooks(manifest: Any, end: str) -> bool:
    """Whether the project or one of its packages has hooks at this end of a run."""
    return any(node.resource_type == "operation" and end in node.tags for node in manifest.nodes.values())


def outcome(result: RunResult) -> dict[str, Any]:
    """What the hooks at the end of a run are told of a node, in JSON."""
    kept = {name: getattr(result, name) for name in _KEPT}
    kept |= {"status": str(result.status), "timing": [each.to_dict(omit_none=False) for each in result.timing]}
    kept |= {"compiled_code": getattr(result.node, "compiled_code", None)}
    return json.loads(json.dumps(kept, default=str))


def _result(node: Any, kept: Mapping[str, Any] | None) -> RunResult:
    """A node's result as its task has kept it; of a task that did not come to it, skipped; of what has none, no-op."""
    if kept is None:
        is_built = node.resource_type not in (NodeType.Exposure, NodeType.SavedQuery)
        return RunResult.from_node(node, RunStatus.Skipped if is_built else RunStatus.NoOp, None)
    if kept["compiled_code"]:
        node.compiled, node.compiled_code = True, kept["compiled_code"]
    status = (TestStatus if node.resource_type == "test" else RunStatus)(kept["status"])
    timing = [TimingInfo.from_dict(each) for each in kept["timing"]]
    return RunResult(node=node, status=status, timing=timing, **{name: kept[name] for name in _KEPT})


_run_hooks, _execute_nodes = RunTask.safe_run_hooks, RunTask.execute_nodes
_reset_invocation_id = requires.reset_invocation_id


def _run_hooks_of_the_end(task: RunTask, adapter: Any, hook_type: Any, extra_context: dict[str, Any]) -> RunStatus:
    """The hooks of the end that the invocation is for. dbt would open a connection before it looks for any."""
    is_asked = all(run.end == hook_type.value for run in current)
    if not is_asked or not task.get_hooks_by_type(hook_type):
        return RunStatus.Success
    return _run_hooks(task, adapter, hook_type, extra_context)


def _execute_nodes_elsewhere(task: RunTask) -> list[Any]:
    """At the ends of a run, its nodes are other tasks'."""
    ends = [run for run in current if run.end]
    if not ends:
        return _execute_nodes(task)
    if ends[0].end == "on-run-end":
        nodes = [node for node in task._flattened_nodes if not node.is_ephemeral_model]
        task.node_results += [_result(node, ends[0].results.get(node.unique_id)) for node in nodes]
    return task.node_results


def _take_invocation_id() -> None:
    _reset_invocation_id()
    for run in current:
        invocation._INVOCATION_ID = run.invocation_id


RunTask.safe_run_hooks = _run_hooks_of_the_end
RunTask.execute_nodes = _execute_nodes_elsewhere
requires.reset_invocation_id = _take_invocation_id
