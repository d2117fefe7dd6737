"""What the engine loop reports of its work, for whoever counts it; see `engine.metrics`."""

from __future__ import annotations

from typing import Protocol

from engine.sequence import Sequence


class Observer(Protocol):
    """Called in the loop's thread. Must not fail and must not wait."""

    def step_done(self, seconds: float) -> None:
        """A step was computed."""

    def admitted(self, sequence: Sequence) -> None:
        """It begins for the first time; `num_cached` says what it need not compute."""

    def first_token(self, sequence: Sequence) -> None:
        """Its first token is out."""

    def preempted(self, count: int) -> None:
        """So many sequences lost their blocks and wait again."""

    def ended(self, sequence: Sequence, reason: str) -> None:
        """It is over: a finish reason, "cancelled" or "error"."""
