"""What processes have used so far: processor time and memory, read from /proc.

In: processes. Out: seconds, MB. One that has ended counts nothing, except in what its parent has waited for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil


def tree(pid: int) -> list[psutil.Process]:
    """A process and everything below it."""
    with suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    return []


def running(processes: Iterable[psutil.Process], module: str) -> list[psutil.Process]:
    """Those that run a Python module, `python -m module`."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if module in process.cmdline():
                found.append(process)
    return found


def cpu_s(processes: Iterable[psutil.Process]) -> float:
    total_s = 0.0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total_s += times.user + times.system + times.children_user + times.children_system
    return total_s


def rss_mb(processes: Iterable[psutil.Process]) -> float:
    total = 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 1e6


def move(processes: Iterable[psutil.Process], core: int) -> None:
    """All threads of the processes to one core."""
    for process in processes:
        for thread in Path(f"/proc/{process.pid}/task").glob("*"):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread.name), {core})
