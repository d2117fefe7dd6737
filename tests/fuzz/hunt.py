"""Runs inputs through a target, and says what came of them: how many, how fast, and what each kind of failure was.

An input is known by seed, target and number, so a failure can be had again: `sample(target, seed, number)`. A failure
is any exception, or more than `HANG_S` seconds of processor time on one input. Needs the main thread, for the timer.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.base import FuzzTarget

HANG_S = 1.0
_FRAMES = 3  # of a traceback, that tell one kind of failure from another


class Hang(Exception):
    """One input took too long."""


@dataclass(slots=True)
class Findings:
    """`failures`: by kind, how many and the number of the first input of it."""

    inputs: int = 0
    took_s: float = 0.0
    slowest_s: float = 0.0
    failures: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, other: Findings) -> None:
        self.inputs += other.inputs
        self.took_s += other.took_s
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        for kind, (count, first) in other.failures.items():
            known, earliest = self.failures.get(kind, (0, first))
            self.failures[kind] = known + count, min(earliest, first)


def sample(target: FuzzTarget, seed: int, number: int) -> Any:
    return target.make(Random(f"{seed} {target.name} {number}"))


def hunt(
    target: FuzzTarget,
    seed: int,
    numbers: range,
    tell: Callable[[int], None] = lambda _: None,
    every: int = 500,
) -> Findings:
    """`tell` hears of every so many inputs that are done."""
    found = Findings()
    with _timed():
        for number in numbers:
            given = sample(target, seed, number)
            began = time.process_time()
            signal.setitimer(signal.ITIMER_VIRTUAL, HANG_S)
            try:
                target.take(given)
            except Exception as error:
                found.add(Findings(failures={_kind_of(error): (1, number)}))
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0.0)
            took_s = time.process_time() - began
            found.add(Findings(inputs=1, took_s=took_s, slowest_s=took_s))
            if found.inputs % every == 0:
                tell(every)
    tell(found.inputs % every)
    return found


def _kind_of(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    places = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    try:
        words = str(error)
    except RecursionError:
        words = "a value too deep to show"
    return f"{type(error).__name__} at {places}: {words[:160]}"


@contextmanager
def _timed() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang(f"more than {HANG_S:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, ring)
    try:
        yield
    finally:
        signal.signal(signal.SIGVTALRM, before)
