"""What one wave of answers shows: N streams that began together, and the rates that may be read off them.

In: `Trace`s, times as their client saw them. Out: tokens per second. Pure: no clock, no I/O.

Servers send text, not tokens, and a chunk may carry several: a stream's tokens are spread over its chunks as
its characters are. The *steady part* of a wave lies between the last stream's first chunk and the first
stream's end; there all N streams decode and none is in prefill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Trace:
    """One answer. Times in seconds since the wave began; `pieces` are (arrival, characters), in order.

    `rounds`, `drafted`, `verified`, `accepted` are what the engine says of its speculation, None where it says
    nothing.
    """

    pieces: tuple[tuple[float, int], ...] = ()
    end_s: float = 0.0
    tokens: int = 0
    rounds: int | None = None
    drafted: int | None = None
    verified: int | None = None
    accepted: int | None = None
    error: str | None = None

    @property
    def ttft_s(self) -> float | None:
        """Until the first text."""
        return self.pieces[0][0] if self.pieces else None

    @property
    def tokens_per_s(self) -> float | None:
        """Of this stream alone, after its first chunk."""
        if self.ttft_s is None or self.end_s <= self.ttft_s:
            return None
        return self.tokens_between(self.ttft_s, self.end_s) / (self.end_s - self.ttft_s)

    def tokens_between(self, after_s: float, until_s: float) -> float:
        """Tokens that arrived later than `after_s` and not later than `until_s`."""
        inside = sum(characters for at_s, characters in self.pieces if after_s < at_s <= until_s)
        everything = sum(characters for _, characters in self.pieces)
        return self.tokens * inside / everything if everything else 0.0


@dataclass(frozen=True, slots=True)
class Wave:
    """The answers of one variant to `streams` prompts sent at once."""

    variant: str
    kind: str
    streams: int
    round: int
    traces: tuple[Trace, ...]

    @property
    def errors(self) -> list[str]:
        return [trace.error for trace in self.traces if trace.error is not None]

    @property
    def decode_tokens_per_s(self) -> float | None:
        """All streams together in the steady part; None where there is none, or a stream failed."""
        firsts = [trace.ttft_s for trace in self.traces if trace.ttft_s is not None]
        if self.errors or not firsts or len(firsts) < len(self.traces):
            return None
        began_s, ended_s = max(firsts), min(trace.end_s for trace in self.traces)
        tokens = sum(trace.tokens_between(began_s, ended_s) for trace in self.traces)
        return tokens / (ended_s - began_s) if ended_s > began_s and tokens else None

    def as_json(self) -> dict[str, Any]:
        """Its figures, without what came when."""
        return {
            "variant": self.variant,
            "kind": self.kind,
            "streams": self.streams,
            "round": self.round,
            "decode_tokens_per_s": self.decode_tokens_per_s,
            "stream_tokens_per_s": [trace.tokens_per_s for trace in self.traces],
            "ttft_s": [trace.ttft_s for trace in self.traces],
            "tokens": [trace.tokens for trace in self.traces],
            "verified_length": verified_length(self.traces),
            "accepted_length": accepted_length(self.traces),
            "errors": self.errors,
        }


def verified_length(traces: Sequence[Trace]) -> float | None:
    """Drafted tokens that go through the target in a round, on average; None if no trace tells of rounds."""
    rounds = sum(trace.rounds or 0 for trace in traces)
    return sum(trace.verified or 0 for trace in traces) / rounds if rounds else None


def accepted_length(traces: Sequence[Trace]) -> float | None:
    """Tokens that a round commits, on average, the target's own included; None if no trace tells of rounds."""
    rounds = sum(trace.rounds or 0 for trace in traces)
    return 1 + sum(trace.accepted or 0 for trace in traces) / rounds if rounds else None
