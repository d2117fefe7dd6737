"""Builds the two programs of this benchmark, the mock upstream and the load generator, once.

In: a name, `mock` or `load`. Out: the path of the program, in the user's cache folder under a name made of source
and compiler; or a `NoProgram` that says why there is none. Linux only: both are written for epoll.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = ("-std=c11", "-O2", "-D_GNU_SOURCE")
_BUILD_LIMIT_S = 60.0


class NoProgram(Exception):
    """A program cannot be built here; the text says why and what to do."""


def program(name: str) -> Path:
    if sys.platform != "linux":
        raise NoProgram("the benchmark's load generator and its upstream run on Linux only")
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise NoProgram("there is no C compiler for the benchmark's programs: install gcc, or name one in CC")
    source = _SOURCES / f"{name}.c"
    path = _cache_folder() / f"{name}-{_key(compiler, source)}"
    if not path.is_file():
        _build(compiler, source, path)
    return path


def _build(compiler: str, source: Path, path: Path) -> None:
    """Compile beside the final place and move the result there, so that no one runs half a file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        result = Path(scratch) / path.name
        try:
            done = subprocess.run(
                [compiler, *_FLAGS, str(source), "-o", str(result)],
                capture_output=True,
                text=True,
                timeout=_BUILD_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NoProgram(f"{compiler} did not finish: {error}") from None
        if done.returncode != 0:
            raise NoProgram(f"{compiler} cannot build {source.name}:\n{done.stderr.strip()}")
        result.replace(path)


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "sparkgate"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise NoProgram(f"cannot write to {folder}: {error.strerror}; set XDG_CACHE_HOME") from None
    return folder


def _key(compiler: str, source: Path) -> str:
    parts = source.read_bytes() + _version(compiler) + repr(_FLAGS).encode()
    return hashlib.sha256(parts).hexdigest()[:16]


@functools.cache
def _version(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
