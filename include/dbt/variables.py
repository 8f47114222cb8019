"""The dbt variables that a run may set: those of dbt_project.yml, or vars.yml, that say what they may look like.

A variable ends up in SQL, and whoever may trigger a run may set it. So `vars.form` names each that the trigger form
takes, with a JSON schema, as Airflow's own parameters have; a `pattern` is of the whole value.
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
"""The variable that declares the others."""

FILES = ("dbt_project.yml", "vars.yml")
"""Where dbt looks for variables: a project has them in one of the two."""


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
            file = next(each for each in reversed(FILES) if (PROJECT_DIR / each).exists())
            raise ConfigError(
                f"parameter dbt_vars: {name!r} is not declared; a run may set {', '.join(_declared()) or 'none'}, "
                f"further ones are named below `vars: {DECLARED}:` in {file}, each with a type or pattern"
            )
        try:
            Draft202012Validator(declared).validate(value)
        except ValidationError as error:
            raise ConfigError(
                f"parameter dbt_vars: {name} is {value!r}, which is not {json.dumps(declared)} ({error.validator})"
            ) from None


def _declared() -> dict[str, dict[str, Any] | ConfigError]:
    """By variable its schema, or what is wrong with its declaration."""
    found: dict[str, dict[str, Any] | ConfigError] = {}
    for path in (PROJECT_DIR / file for file in FILES):
        if path.exists():
            found |= _read(path.name, path.read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=len(FILES))
def _read(file: str, text: str) -> dict[str, dict[str, Any] | ConfigError]:
    """A variable of this name that declares nothing is the project's own; where there is no YAML, dbt says so."""
    found: dict[str, dict[str, Any] | ConfigError] = {}
    try:
        declared = yaml.safe_load(text)["vars"][DECLARED]
    except (yaml.YAMLError, KeyError, TypeError):
        return found
    for name, each in declared.items() if isinstance(declared, dict) else ():
        try:
            found[name] = _whole(f"{file}: `vars: {DECLARED}: {name}:`", each)
        except ConfigError as error:
            found[name] = error
    return found


def _whole(where: str, declared: Any) -> dict[str, Any]:
    """A variable's schema, whose pattern is of all of the value: JSON schema looks for it anywhere, and `$` lets a
    line break pass."""
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
