"""What a killed supervisor left running: a record of its children on disk, and their end at the next start.

A pid alone proves nothing, since pids are used again; a process is ours when pid and creation time both
agree with the record. In: `<data-dir>/run/parts.json`. Out: the names of what was ended.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

log = logging.getLogger(__name__)
# Creation times are counted from the boot time, which the kernel reckons anew at each look, in whole seconds, and
# which clock corrections move. Two processes of one pid are further apart: all other pids are used in between.
_SAME_START_S = 3.0


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    pid: int
    created_at: float  # Unix seconds

    def process(self) -> psutil.Process | None:
        """The living process this was written about, never another one that got its pid."""
        try:
            process = psutil.Process(self.pid)
            is_same = abs(process.create_time() - self.created_at) < _SAME_START_S
            return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


class ChildRecord:
    """The children alive now, kept on disk so that a later start can find them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._children: dict[str, Child] = {}

    def add(self, name: str, pid: int) -> None:
        try:
            self._children[name] = Child(name, pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:  # gone already
            return
        self._write()

    def remove(self, name: str) -> None:
        if self._children.pop(name, None) is not None:
            self._write()

    def _write(self) -> None:
        scratch = self._path.with_suffix(".new")
        try:
            scratch.write_text(json.dumps([asdict(child) for child in self._children.values()]))
            os.replace(scratch, self._path)
        except OSError as error:  # a full disk must not end parts that run
            log.warning("%s is not up to date: %s", self._path, error)


def recorded(path: Path) -> list[Child]:
    """The children written down; none if the file is absent or was never finished."""
    try:
        return [Child(**entry) for entry in json.loads(path.read_text())]
    except (FileNotFoundError, ValueError, TypeError):
        return []


def end_orphans(path: Path, grace_s: float) -> list[str]:
    """End the recorded children that still run, and theirs: SIGTERM, `grace_s`, SIGKILL. Then forget them."""
    left = [(child, process) for child in recorded(path) if (process := child.process()) is not None]
    end_processes([process for _, process in left], grace_s)
    path.unlink(missing_ok=True)
    return [f"{child.name} (pid {child.pid})" for child, _ in left]


def end_processes(roots: list[psutil.Process], grace_s: float) -> None:
    """End `roots` in their grace, what is left of them or below them at once, and wait until all are gone."""
    family = list(dict.fromkeys(roots + [below for root in roots for below in _descendants(root)]))
    for process in roots:
        _signal(process, kill=False)
    psutil.wait_procs(roots, timeout=grace_s)
    alive = [process for process in family if process.is_running()]
    for process in alive:
        _signal(process, kill=True)
    psutil.wait_procs(alive, timeout=5.0)


def session_members(leader_pid: int) -> list[psutil.Process]:
    """What a process that led its own session and has just ended left running."""
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader_pid:
                members.append(process)
        except ProcessLookupError:
            continue
    return members


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, *, kill: bool) -> None:
    try:
        process.kill() if kill else process.terminate()
    except psutil.NoSuchProcess:
        pass
