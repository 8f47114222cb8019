"""`make bench-tools`: the other tools, each in an environment of its own below `.local/bench`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from include.local.environment import BIN_DIR, installation

PROGRAMS = {"dlt": "bin/python", "ingestr": "bin/ingestr", "sling": "bin/sling"}
"""What is started of each tool."""

NO_TELEMETRY = {
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "INGESTR_DISABLE_TELEMETRY": "true",
    "SLING_DISABLE_TELEMETRY": "true",
}


def program(tool: str) -> Path:
    return _home(tool) / PROGRAMS[tool]


def is_installed(tool: str) -> bool:
    """Whether it is there, whole, and as pinned today."""
    ready = _home(tool) / "ready"
    return ready.exists() and ready.read_text() == _pins(tool).read_text()


def install(tool: str) -> None:
    """Make its environment anew.

    Raises:
        subprocess.CalledProcessError: a package cannot be had; uv has said which.
    """
    home = _home(tool)
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", home], check=True)
    command: list[str | Path] = [
        BIN_DIR / "uv",
        "pip",
        "install",
        "--quiet",
        "--require-hashes",
        "--requirement",
        _pins(tool),
    ]
    subprocess.run(command, env=os.environ | {"VIRTUAL_ENV": str(home)}, check=True)
    for packaged in home.glob("lib/*/site-packages/sling_*/bin/sling-*"):
        (home / "bin" / "sling").symlink_to(packaged)
    (home / "ready").write_text(_pins(tool).read_text())


def _home(tool: str) -> Path:
    return installation().state / "bench" / tool


def _pins(tool: str) -> Path:
    return Path(__file__).parent / "requirements" / f"{tool}.txt"


def main() -> int:
    failed = 0
    for tool in PROGRAMS:
        if is_installed(tool):
            continue
        print(f"Installing {tool} in {_home(tool)}")
        try:
            install(tool)
        except subprocess.CalledProcessError as error:
            print(f"error: {tool} cannot be installed: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
