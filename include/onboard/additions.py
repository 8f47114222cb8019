"""Blocks added to lists in YAML files: every line that is there stays as it is, comments and all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from include.errors import ConfigError


@dataclass(frozen=True)
class Addition:
    """Entries for one list of a document.

    Attributes:
        place: The way to the list from the top: keys of mappings, and names of entries of lists.
        blocks: The entries, each of whole lines, indented however.
        before: Names of entries that stay at the end.
    """

    place: tuple[str, ...]
    blocks: tuple[str, ...]
    before: tuple[str, ...] = ()


def add(path: Path, text: str, additions: Sequence[Addition]) -> str:
    """A YAML document with entries added to its lists.

    Args:
        path: The file, for the message.
        text: What it holds.
        additions: What is added, to different lists.

    Raises:
        ConfigError: there is no such list, or it is not written in lines of its own.
    """
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    placed = [(_line(path, text, lines, each), each) for each in additions]
    for (line, column, between), each in sorted(placed, key=lambda found: found[0][0], reverse=True):
        lines[line:line] = [between + _indented(block, column) for block in each.blocks]
    return "".join(lines)


def names_in(text: str, place: Sequence[str]) -> list[str]:
    """Names of the entries of a list; none where there is no such list."""
    found = _find(_tree(text), place)
    return [_name(each) for each in found.value] if isinstance(found, SequenceNode) else []


def _line(path: Path, text: str, lines: list[str], addition: Addition) -> tuple[int, int, str]:
    """Before which line entries go, how far they are indented, and what stands between them."""
    found = _find(_tree(text), addition.place)
    if not isinstance(found, SequenceNode) or found.flow_style or not found.value:
        shown = ".".join(addition.place)
        raise ConfigError(f"{path}: has no list {shown} in lines of its own; write it so, and try again")
    last = next((each.start_mark.line for each in found.value if _name(each) in addition.before), None)
    is_apart = len(found.value) > 1 and not lines[found.value[1].start_mark.line - 1].strip()
    line = _end(found.value[-1], lines) if last is None else last
    return line, found.start_mark.column, "\n" if is_apart else ""


@lru_cache(maxsize=64)
def _tree(text: str) -> Node | None:
    """The document's nodes, each at its own place: PyYAML's are, where an alias stands, at that of its anchor."""
    events = (each for each in yaml.parse(text, Loader=yaml.CSafeLoader))
    kinds = yaml.ScalarEvent, yaml.AliasEvent, yaml.CollectionStartEvent
    first = next((each for each in events if isinstance(each, kinds)), None)
    return first and _node(first, events)


def _node(event: yaml.Event, events: Iterator[yaml.Event]) -> Node:
    if not isinstance(event, yaml.CollectionStartEvent):
        value = event.value if isinstance(event, yaml.ScalarEvent) else ""
        return ScalarNode("", value, event.start_mark, event.end_mark)
    values = []
    while not isinstance(each := next(events), yaml.CollectionEndEvent):
        values.append(_node(each, events))
    if isinstance(event, yaml.SequenceStartEvent):
        return SequenceNode("", values, event.start_mark, each.end_mark, event.flow_style)
    pairs = [*zip(values[::2], values[1::2], strict=True)]
    return MappingNode("", pairs, event.start_mark, each.end_mark, event.flow_style)


def _find(node: Node | None, place: Sequence[str]) -> Node | None:
    for step in place:
        if isinstance(node, MappingNode):
            node = next((value for key, value in node.value if key.value == step), None)
        elif isinstance(node, SequenceNode):
            node = next((each for each in node.value if _name(each) == step), None)
    return node


def _name(entry: Node) -> str:
    pairs = entry.value if isinstance(entry, MappingNode) else ()
    return next((str(value.value) for key, value in pairs if key.value == "name"), "")


def _end(node: Node, lines: list[str]) -> int:
    """The line after the last of a node; that of a block ends where the next thing begins, beyond comments."""
    while isinstance(node, MappingNode | SequenceNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, MappingNode) else node.value[-1]
    line = int(node.end_mark.line) + (node.end_mark.column > 0)
    while line > node.start_mark.line + 1 and not lines[line - 1].strip():
        line -= 1
    return line


def _indented(block: str, column: int) -> str:
    lines = block.splitlines(keepends=True)
    own = len(lines[0]) - len(lines[0].lstrip())
    return "".join(" " * column + line[own:] if line.strip() else line for line in lines)
