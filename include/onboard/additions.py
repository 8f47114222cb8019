"""Blocks added to lists in YAML files: every line that is there stays as it is, comments and all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from include.errors import ConfigError


class _Composer(yaml.SafeLoader):
    """Nodes with their own places in the file, where an alias has those of what it stands for."""

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            return ScalarNode("alias", event.anchor, event.start_mark, event.end_mark)
        return super().compose_node(parent, index)


def add(path: Path, text: str, place: Sequence[str], blocks: Sequence[str], before: Sequence[str] = ()) -> str:
    """A YAML document with entries added to one of its lists.

    Args:
        path: The file, for the message.
        text: What it holds.
        place: The way to the list from the top: keys of mappings, and names of entries of lists.
        blocks: The entries, each of whole lines, indented however.
        before: Names of entries that stay at the end.

    Raises:
        ConfigError: there is no such list, or it is not written in lines of its own.
    """
    found = _find(yaml.compose(text, Loader=_Composer), place)
    if not isinstance(found, SequenceNode) or found.flow_style or not found.value:
        raise ConfigError(f"{path}: has no list {'.'.join(place)} in lines of its own; write it so, and try again")
    last = next((each.start_mark.line for each in found.value if _name(each) in before), None)
    lines = text.splitlines(keepends=True)
    line = _end(found.value[-1], lines) if last is None else last
    if line and not lines[line - 1].endswith("\n"):
        lines[line - 1] += "\n"
    between = "\n" if _is_apart(found, lines) else ""
    indented = [between + _indented(block, found.start_mark.column) for block in blocks]
    return "".join([*lines[:line], *indented, *lines[line:]])


def names_in(text: str, place: Sequence[str]) -> list[str]:
    """Names of the entries of a list; none where there is no such list."""
    found = _find(yaml.compose(text, Loader=_Composer), place)
    return [_name(each) for each in found.value] if isinstance(found, SequenceNode) else []


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


def _is_apart(found: SequenceNode, lines: list[str]) -> bool:
    """Whether the list has blank lines between its entries."""
    return len(found.value) > 1 and not lines[found.value[1].start_mark.line - 1].strip()


def _indented(block: str, column: int) -> str:
    lines = block.splitlines(keepends=True)
    own = len(lines[0]) - len(lines[0].lstrip())
    return "".join(" " * column + line[own:] if line.strip() else line for line in lines)
