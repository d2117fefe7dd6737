"""What the engine loop reports of its work, for whoever counts it; see `engine.metrics`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from engine.sequence import Round, Sequence


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Where a step's seconds went."""

    draft_s: float  # proposing tokens, and taking in what the target computed
    verify_s: float  # the target's forward
    sample_s: float  # judging proposals and choosing tokens
    overhead_s: float  # planning, books, text

    @property
    def total_s(self) -> float:
        return self.draft_s + self.verify_s + self.sample_s + self.overhead_s


class Observer(Protocol):
    """Called in the loop's thread. Must not fail and must not wait."""

    def step_done(self, times: StepTimes) -> None:
        """A step was computed."""

    def round_done(self, sequence: Sequence, done: Round, num_decoding: int) -> None:
        """A sequence, one of `num_decoding` of this step, went through a round."""

    def admitted(self, sequence: Sequence) -> None:
        """It begins for the first time; `num_cached` says what it need not compute."""

    def first_token(self, sequence: Sequence) -> None:
        """Its first token is out."""

    def preempted(self, count: int) -> None:
        """So many sequences lost their blocks and wait again."""

    def ended(self, sequence: Sequence, reason: str) -> None:
        """It is over: a finish reason, "cancelled" or "error"."""
