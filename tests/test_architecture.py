"""ARCHITECTURE.md names every source file, in its folder's list, and no file that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("router", "gateway", "engine", "dashboard", "migrations")


def test_every_file_has_its_line() -> None:
    listed: list[str] = []
    folder = ""
    for line in (ROOT / "ARCHITECTURE.md").read_text().splitlines():
        if heading := re.fullmatch(r"### (\S+)/", line):
            folder = heading[1]
        elif folder and (entry := re.match(r"- `(\w+\.py)`: \S", line)):
            listed.append(f"{folder}/{entry[1]}")
    found = (path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))
    there = sorted(str(path.relative_to(ROOT)) for path in found if path.name != "__init__.py")
    assert sorted(listed) == there
