"""A run of the whole graph as dbt sees it: each task is an invocation, and all are one run with one id and two ends.

`on-run-start` and `on-run-end` run in tasks of their own, once; what the other tasks made is told to those at the end.

Unnecessary once an invocation can be told that it is a part of a run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from dbt.artifacts.schemas.results import RunStatus, TestStatus, TimingInfo
from dbt.artifacts.schemas.run import RunResult
from dbt.cli import requires
from dbt.node_types import NodeType
from dbt.task.run import RunTask
from dbt_common import invocation

from include.patches import patch
from include.patches.dbt import CORE, current

_KEPT = ("message", "failures", "execution_time", "thread_id", "adapter_response")


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


@patch(*CORE, without="the hooks of a run would run in each of its tasks", is_needed=True)
def run_hooks_of_the_end() -> None:
    """The hooks of the end that the invocation is for. dbt would open a connection before it looks for any."""
    run_hooks = RunTask.safe_run_hooks

    def run_hooks_if_asked(task: RunTask, adapter: Any, hook_type: Any, extra_context: dict[str, Any]) -> RunStatus:
        run = current[0].run
        is_asked = run is None or run.end == hook_type.value
        if not is_asked or not task.get_hooks_by_type(hook_type):
            return RunStatus.Success
        return run_hooks(task, adapter, hook_type, extra_context)

    RunTask.safe_run_hooks = run_hooks_if_asked


@patch(*CORE, without="the tasks of the hooks would build every node again", is_needed=True)
def execute_nodes_elsewhere() -> None:
    """At the ends of a run, its nodes are other tasks'."""
    execute_nodes = RunTask.execute_nodes

    def execute_no_nodes(task: RunTask) -> list[Any]:
        run = current[0].run
        if run is None or run.end is None:
            return execute_nodes(task)
        if run.end == "on-run-end":
            nodes = [node for node in task._flattened_nodes if not node.is_ephemeral_model]
            task.node_results += [_result(node, run.results.get(node.unique_id)) for node in nodes]
        return task.node_results

    RunTask.execute_nodes = execute_no_nodes


@patch(*CORE, without="each task of a run would have an `invocation_id` of its own", is_needed=True)
def take_invocation_id() -> None:
    """One id for all the tasks of a run."""
    reset = requires.reset_invocation_id

    def reset_to_that_of_the_run() -> None:
        reset()
        if run := current[0].run:
            invocation._INVOCATION_ID = run.invocation_id

    requires.reset_invocation_id = reset_to_that_of_the_run
