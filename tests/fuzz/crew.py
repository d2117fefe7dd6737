"""Inputs shared out among processes, with a bar while they run."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from tests.fuzz.base import FuzzTarget
from tests.fuzz.hunt import Findings, hunt
from tests.fuzz.targets import TARGETS

PIECE = 5_000  # inputs that a process takes at a time
BY_NAME = {target.name: target for target in TARGETS}
_done: Any  # how many inputs are done, in all processes


def run(targets: list[FuzzTarget], inputs: int, processes: int, seed: int) -> dict[str, Findings]:
    whole = sum(target.share for target in targets)
    counts = {target.name: -(-int(inputs * target.share / whole * 1000) // 1000) for target in targets}
    pieces = [
        (name, range(start, min(start + PIECE, count)))
        for name, count in counts.items()
        for start in range(0, count, PIECE)
    ]
    found = {target.name: Findings() for target in targets}
    context = multiprocessing.get_context("forkserver")
    done = context.Value("q", 0)
    with (
        ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(done,)) as pool,
        Progress(
            TextColumn("fuzzing"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        ) as progress,
    ):
        bar = progress.add_task("inputs", total=sum(counts.values()))
        waiting = {pool.submit(_hunt, name, seed, numbers): name for name, numbers in pieces}
        for future in as_completed(waiting):
            found[waiting[future]].add(future.result())
            progress.update(bar, completed=done.value)
    return found


def _begin(done: Any) -> None:
    global _done
    _done = done


def _hunt(name: str, seed: int, numbers: range) -> Findings:
    return hunt(BY_NAME[name], seed, numbers, _tell)


def _tell(count: int) -> None:
    with _done.get_lock():
        _done.value += count
