"""What a fuzzed target is, and what it says when something does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any


class Fault(AssertionError):
    """Something that must hold for every input does not."""


def must(holds: bool, what: str) -> None:
    if not holds:
        raise Fault(what)


@dataclass(frozen=True, slots=True)
class FuzzTarget:
    """`make` draws an input, `take` gets it and raises nothing if all is well. `share` is its part of all inputs."""

    name: str
    share: float
    make: Callable[[Random], Any]
    take: Callable[[Any], None]
