"""What is installed is what was looked at: the lock has every file's hash, and says what the constraints say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
NOT_LOCKED = {"torch"}  # machines have builds of their own of it
ELSEWHERE = {"colorama", "tzdata", "setuptools"}  # of other systems, and of torch
WITHDRAWN = ("1.82.7", "1.82.8")  # of litellm: malicious


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(file: str) -> dict[str, str]:
    lines = (ROOT / file).read_text().splitlines()
    return {canonical(found[1]): found[2] for line in lines if (found := PINNED.match(line))}


def test_lock_and_constraints_agree() -> None:
    locked, constrained = pins("requirements.lock"), pins("constraints.txt")
    assert locked.keys() - ELSEWHERE <= constrained.keys()
    assert {
        name: version for name, version in locked.items() if constrained.get(name, version) != version
    } == {}
    assert not NOT_LOCKED & locked.keys()


def test_every_locked_file_has_a_hash() -> None:
    entries = re.split(r"\n(?=[A-Za-z])", (ROOT / "requirements.lock").read_text().split("\n\n", 1)[-1])
    pinned = [entry for entry in entries if PINNED.match(entry)]
    assert len(pinned) == len(pins("requirements.lock")) > 100
    assert [entry for entry in pinned if not re.search(r"--hash=sha256:[0-9a-f]{64}\b", entry)] == []


@pytest.mark.parametrize("extra", ["all", None])
def test_the_lock_has_what_the_project_asks_for(extra: str | None) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = list(project["dependencies"])
    for group in ("engine", "dashboard", "otel") if extra else ():
        asked += project["optional-dependencies"][group]
    locked = pins("requirements.lock")
    for line in asked:
        wanted = Requirement(line)
        if canonical(wanted.name) not in NOT_LOCKED:
            assert wanted.specifier.contains(locked[canonical(wanted.name)]), line


@pytest.mark.parametrize("version", WITHDRAWN)
def test_malicious_releases_of_litellm_are_never_taken(version: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (wanted,) = [Requirement(line) for line in project["dependencies"] if line.startswith("litellm")]
    assert not wanted.specifier.contains(version)
    assert f"!={version}" in str(wanted.specifier)  # by name: the range may be widened one day
    assert pins("constraints.txt")["litellm"] not in WITHDRAWN
