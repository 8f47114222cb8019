"""Names and texts of a source, as dbt, Airflow, YAML and SQL take them: whatever PostgreSQL allows comes in."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import yaml

from include.sources import MAX_NAME_BYTES

_JINJA = re.compile(r"\{[{%#]|[}%#]\}")


def slug(name: str) -> str:
    """A name of small letters, digits and single underscores, which dbt, task ids and plain SQL accept."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub(r"[^0-9A-Za-z]+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain)).strip("_").lower()
    return words if words and not words[0].isdigit() else f"t_{words}".rstrip("_")


def fitting(name: str) -> str:
    """The name, or the most of it that PostgreSQL takes with a hash of the whole: the same one every time."""
    return name if len(name) <= MAX_NAME_BYTES else told_apart(name, name)


def told_apart(name: str, whole: str) -> str:
    """The name with a hash of what it stands for, where something else has the name."""
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{name[:MAX_NAME_BYTES - 9]}_{digest}"


def free(wanted: Iterable[str], taken: set[str], whole: str) -> str:
    """The first of the names that nothing else has, else the last one told apart; it is taken from then on."""
    names = [fitting(name) for name in wanted]
    found = next((name for name in names if name not in taken), None) or told_apart(names[-1], whole)
    taken.add(found)
    return found


def is_jinja(text: str) -> bool:
    """Whether dbt would render a text."""
    return _JINJA.search(text) is not None


def as_text(text: str) -> str:
    """A text that dbt renders to itself: one with Jinja's signs in it becomes a string of Jinja."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if is_jinja(text) else text


def in_model(quoted: str) -> str:
    """A quoted name as a line of a model has it."""
    return f"{{{{ {json.dumps(quoted, ensure_ascii=False)} }}}}" if is_jinja(quoted) or "\n" in quoted else quoted


def on_one_line(value: Any) -> str:
    """A value as YAML on one line; texts in it are never rendered."""
    style = '"' if "\\" in repr(value) else None  # a line's end, or another sign that shows as something else
    dumped = yaml.dump(
        _as_texts(value),
        Dumper=yaml.CSafeDumper,  # the one in Python takes as long as everything else together
        default_flow_style=True,
        default_style=style,
        allow_unicode=True,
        width=10**9,
        sort_keys=False,
    )
    return dumped.removesuffix("...\n").strip()


def _as_texts(value: Any) -> Any:
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, dict):
        return {_as_texts(key): _as_texts(each) for key, each in value.items()}
    return [_as_texts(each) for each in value] if isinstance(value, list | tuple) else value
