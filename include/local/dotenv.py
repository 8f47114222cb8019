"""The checkout's `.env`: read by every command, completed by `make env`."""

from __future__ import annotations

import base64
import re
import secrets
from pathlib import Path

from include.files import write_whole
from include.local.errors import LocalError

_EMPTY = re.compile(r"^([A-Z_]+)=$", re.MULTILINE)


def parse_env_file(path: Path) -> dict[str, str]:
    """KEY=VALUE lines; `#` starts a comment line, quotes around a value are taken off."""
    values = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, equals, value = line.removeprefix("export ").partition("=")
        if not equals or not key.strip().isidentifier():
            raise LocalError(f"{path.name} line {number} is {line!r}; write KEY=VALUE, or # before a comment")
        value = value.strip()
        is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        values[key.strip()] = value[1:-1] if is_quoted else value
    return values


def complete_env_file(path: Path, example: Path) -> list[str]:
    """Give `path` what `example` has, with a new secret after each name that `example` leaves without a value.

    What has a value is left alone, and so is every other line. The file is readable by its owner alone.

    Returns:
        Names of the secrets made now.
    """
    template = example.read_text(encoding="utf-8")
    text = path.read_text(encoding="utf-8") if path.exists() else template
    made = []
    for name in _EMPTY.findall(template):
        line = re.compile(rf"^{name}=(.*)$", re.MULTILINE)
        found = line.search(text)
        if not found or not found[1]:
            value = f"{name}={_secret(name)}"
            text = line.sub(value, text) if found else f"{text.rstrip()}\n{value}\n"
            made.append(name)
    write_whole(path, text)
    return made


def _secret(name: str) -> str:
    """Letters, digits, `-` and `_` alone, which mean nothing in a URI, a shell or a compose file."""
    if name == "FERNET_KEY":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(24)
