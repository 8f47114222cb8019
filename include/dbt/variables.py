"""The dbt variables that a run may set: those of dbt_project.yml that say what they may look like.

A variable ends up in SQL, and whoever may trigger a run may set it. So `vars.form` of dbt_project.yml names each that
the trigger form takes, with a JSON schema, as Airflow's own parameters have; a `pattern` is of the whole value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError

from include.dbt.project import PROJECT_DIR
from include.errors import ConfigError

DECLARED = "form"
"""The variable of dbt_project.yml that declares the others."""


def schema() -> dict[str, Any]:
    """The JSON schema of the parameter `dbt_vars`; what is declared wrongly is not in it."""
    properties = {name: each for name, each in _declared().items() if not isinstance(each, ConfigError)}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def check(given: Mapping[str, Any] | None) -> None:
    """See that variables are declared, and look as declared.

    Raises:
        ConfigError: one does not; names it, and what it may be.
    """
    for name, value in (given or {}).items():
        declared = _declared().get(name)
        if isinstance(declared, ConfigError):
            raise declared
        if declared is None:
            raise ConfigError(
                f"parameter dbt_vars: {name!r} is not declared; a run may set {', '.join(_declared()) or 'none'}, "
                f"further ones are named below `vars: {DECLARED}:` in dbt_project.yml, each with a type or pattern"
            )
        try:
            Draft202012Validator(declared).validate(value)
        except ValidationError as error:
            raise ConfigError(
                f"parameter dbt_vars: {name} is {value!r}, which is not {json.dumps(declared)} ({error.validator})"
            ) from None


def _declared() -> dict[str, dict[str, Any] | ConfigError]:
    """By variable its schema, or what is wrong with its declaration."""
    return _read((PROJECT_DIR / "dbt_project.yml").read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def _read(text: str) -> dict[str, dict[str, Any] | ConfigError]:
    found: dict[str, dict[str, Any] | ConfigError] = {}
    for name, each in (((yaml.safe_load(text) or {}).get("vars") or {}).get(DECLARED) or {}).items():
        try:
            found[name] = _whole(name, each)
        except ConfigError as error:
            found[name] = error
    return found


def _whole(name: str, declared: Any) -> dict[str, Any]:
    """A variable's schema, whose pattern is of all of the value: JSON schema looks for it anywhere, and `$` lets a
    line break pass."""
    where = f"dbt_project.yml: `vars: {DECLARED}: {name}:`"
    if not isinstance(declared, dict) or not declared.keys() & {"type", "enum", "const"}:
        raise ConfigError(
            f"{where} says nothing of its values; write `type:` (with `pattern:` for a string) or `enum:`"
        )
    if declared.get("type") == "string" and not declared.keys() & {"pattern", "enum", "format"}:
        raise ConfigError(f"{where} lets every text pass; add a `pattern:` or an `enum:`")
    pattern = {"pattern": rf"^(?:{declared['pattern']})(?![\s\S])"} if "pattern" in declared else {}
    try:
        Draft202012Validator.check_schema({**declared, **pattern})
    except Exception as error:
        raise ConfigError(f"{where} is no JSON schema: {' '.join(str(error).split())[:200]}") from error
    return {**declared, **pattern}
