"""`make yours`: takes the sample shop out of a checkout. Needs Python and git alone.

`include/shop/files.txt` lists its files and folders. In the product's own files its lines are marked: by a comment
at the end of the line, or by two around a block.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

LIST = Path("include/shop/files.txt")

_MARK = r"[^\n]*(?:#|--) sample[ ]shop"
_MARKED = re.compile(rf"^(?:{_MARK}: begins\b.*?{_MARK}: ends\b[^\n]*|{_MARK}(?: -->)?)\n", re.M | re.S)


def main(root: Path = Path()) -> int:
    """Remove the sample; 1 where something of it is not committed, and would be lost."""
    if not (root / LIST).exists():
        print("The sample shop is gone already.")
        return 0
    files = (root / LIST).read_text(encoding="utf-8").split()
    if changed := _git(root, "ls-files", "--modified", "--others", "--exclude-standard", "--", *files):
        print(
            f"error: git does not have these as they are, and they would be lost; commit them first:\n{changed}", end=""
        )
        return 1
    kept = [root / name for name in _git(root, "ls-files", "-z").split("\0") if name]
    for path in (root / name for name in files):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        for folder in path.parents:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
    cut = sum(_cut(path) for path in kept if path.is_file())
    print(f"Removed: the sample shop, and its lines in {cut} files (git restore . brings them back). Next:")
    print("    make clean                               # what it left in .local")
    print("    git commit --all                         # docs/yours.md says on which branch")
    print("    make onboard SOURCE=erp                  # your database: docs/yours.md")
    return 0


def without_sample(text: str) -> str:
    """A file of the product without the sample's lines."""
    return _MARKED.sub("", text)


def _cut(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False  # a picture
    cut = without_sample(text)
    if cut != text:
        path.write_text(cut, encoding="utf-8")
    return cut != text


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
