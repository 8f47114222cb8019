"""What a dbt node says of its own Airflow task: `config.meta.cosmos.operator_kwargs`, as Cosmos's users know it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pytimeparse import parse as parse_seconds


def _duration(value: Any) -> Any:
    """Seconds, or a text such as '10 minutes'."""
    seconds = parse_seconds(value) if isinstance(value, str) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or seconds < 0:
        raise ValueError(f"is {value!r}; write seconds, or a duration such as '10 minutes'")
    return timedelta(seconds=seconds)


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Positive = Annotated[int, Field(gt=0, strict=True)]
Text = Annotated[str, Field(min_length=1)]


class TableSettings(BaseModel):
    """Arguments of an Airflow task that a source table may set, for its extract and its load."""

    model_config = ConfigDict(extra="forbid")

    pool: Text | None = None
    pool_slots: Positive | None = None
    queue: Text | None = None
    executor: Text | None = None
    priority_weight: Annotated[int, Field(strict=True)] | None = None
    weight_rule: Literal["downstream", "upstream", "absolute"] | None = None
    owner: Text | None = None
    retries: Annotated[int, Field(ge=0, strict=True)] | None = None
    retry_delay: Duration | None = None
    retry_exponential_backoff: Annotated[float, Field(ge=0)] | None = None
    max_retry_delay: Duration | None = None
    execution_timeout: Duration | None = None
    max_active_tis_per_dag: Positive | None = None
    max_active_tis_per_dagrun: Positive | None = None


class NodeSettings(TableSettings):
    """Arguments of an Airflow task that a model, test, snapshot, seed or function may set."""

    depends_on_past: bool | None = None
    wait_for_downstream: bool | None = None
    trigger_rule: (
        Literal[
            "all_success",
            "all_done",
            "all_done_min_one_success",
            "none_failed",
            "none_failed_min_one_success",
            "none_skipped",
            "one_success",
            "one_done",
            "always",
        ]
        | None
    ) = None


def read_settings(cosmos: Any, kind: type[TableSettings] = NodeSettings) -> dict[str, Any]:
    """Arguments for a task's constructor.

    Args:
        cosmos: `meta.cosmos` of a node.
        kind: What may be set.

    Raises:
        ValueError: something that cannot be set, or not to this; one sentence with key and remedy.
    """
    if not isinstance(cosmos, dict) or cosmos.keys() - {"operator_kwargs"}:
        raise ValueError(f"`meta.cosmos` is {cosmos!r}; write `operator_kwargs:` below it, and nothing else")
    try:
        found = kind.model_validate(cosmos.get("operator_kwargs") or {})
    except ValidationError as error:
        raise ValueError(_first_problem(error, kind)) from error
    return found.model_dump(exclude_none=True)


def _first_problem(error: ValidationError, kind: type[TableSettings]) -> str:
    problem = error.errors()[0]
    name, where = ".".join(str(part) for part in problem["loc"]), "under `meta.cosmos.operator_kwargs`"
    if problem["type"] == "extra_forbidden":
        return f"unknown key {name!r} {where}; known keys are {', '.join(sorted(kind.model_fields))}"
    if not name:
        return f"`meta.cosmos.operator_kwargs` is {problem['input']!r}; write keys and values below it"
    said = problem["msg"].removeprefix("Value error, ")
    return f"{name} {said} {where}" if said.startswith("is ") else f"{name} is {problem['input']!r} {where}: {said}"
