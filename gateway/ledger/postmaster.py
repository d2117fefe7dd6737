"""What is known of a Postgres server from its data directory alone: is it alive, where is its socket, is it
ready.

A pid in a lock file proves nothing: after kill -9 or a container's restart another process may wear it, and
Postgres itself then refuses to start. Here a pid counts only if that process is the server of this directory.
Starts and stops nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

PORT = 5432


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A live server process. `socket_dir` holds `.s.PGSQL.5432`."""

    pid: int
    socket_dir: Path
    ready: bool


def find(pgdata: Path) -> Postmaster | None:
    """The live server of `pgdata`, ready or not."""
    lines = _lines(pgdata / "postmaster.pid")
    pid = _pid(lines)
    if pid is None or not _serves(pid, pgdata):
        return None
    socket_dir = Path(lines[4]) if len(lines) > 4 and lines[4] else pgdata
    return Postmaster(pid, socket_dir, ready=len(lines) > 7 and lines[7] == "ready")


def orphans(pgdata: Path) -> list[int]:
    """Pids of server processes that still work in `pgdata`, whatever became of their postmaster."""
    found = []
    for process in psutil.process_iter(["name"]):
        try:
            if process.info["name"] == "postgres" and process.cwd() == os.fspath(pgdata):
                found.append(process.pid)
        except psutil.Error:  # gone, a zombie, or another user's
            continue
    return found


def set_aside_stale_locks(pgdata: Path, socket_dir: Path) -> list[Path]:
    """Rename lock files whose pid is worn by another process, and return their new names.

    Call only when `find` and `orphans` see nobody. A lock whose pid is free is left: Postgres recovers from
    that by itself. The interlock on shared memory stays, as its key comes from the directory's inode.
    """
    aside = []
    for lock in (pgdata / "postmaster.pid", socket_dir / f".s.PGSQL.{PORT}.lock"):
        pid = _pid(_lines(lock))
        if pid is not None and psutil.pid_exists(pid):
            aside.append(lock.rename(lock.with_name(lock.name + ".stale")))
    return aside


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []


def _pid(lines: list[str]) -> int | None:
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _serves(pid: int, pgdata: Path) -> bool:
    try:
        command = psutil.Process(pid).cmdline()
    except psutil.Error:
        return False
    return bool(command) and Path(command[0]).name == "postgres" and os.fspath(pgdata) in command
