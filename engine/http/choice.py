"""One choice of an answer: from its sequence's events to what a client is told, piece by piece.

In: events of the engine. Out: `Delta`s: content, calls, log probabilities, the finish reason. Knows no JSON shapes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field

from engine.sequence import Event, Sequence, Timings, TokenLogprob
from engine.tool_calls import CallReader, Pieces

PlacedLogprob = tuple[TokenLogprob, int]  # with the token's offset in the text


@dataclass(slots=True)
class Call:
    """A call of a function, or a part of one: then only the first has id and name."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(slots=True)
class Delta:
    """What comes to an answer. `finish_reason` is set in the last one."""

    content: str = ""
    calls: list[Call] = field(default_factory=list)
    logprobs: list[PlacedLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.content or self.calls)

    def add(self, later: Delta) -> None:
        self.content += later.content
        self.logprobs += later.logprobs
        self.finish_reason = later.finish_reason
        for call in later.calls:
            if call.name is None:
                self.calls[call.index].arguments += call.arguments
            else:
                self.calls.append(call)


class Choice:
    """Takes the events of one sequence, in order."""

    def __init__(self, index: int, sequence: Sequence, call_reader: CallReader | None) -> None:
        self.index, self.sequence = index, sequence
        self.timings: Timings | None = None  # once it has ended
        self._call_reader = call_reader
        self._unsent: list[PlacedLogprob] = []
        self._num_decided = 0  # characters of the sequence's text

    def take(self, event: Event) -> Delta:
        """What the event makes certain. Log probabilities wait for something to go along with."""
        self._num_decided += len(event.text)
        self._unsent += event.logprobs
        pieces = self._read(event)
        calls = [
            Call(piece.index, None if piece.name is None else _new_id(), piece.name, piece.arguments)
            for piece in pieces.calls
        ]
        delta = Delta(pieces.content, calls)
        if event.finish_reason is not None:
            self.timings = event.timings
            is_call = self._call_reader is not None and self._call_reader.has_ended_call
            delta.finish_reason = (
                "tool_calls" if is_call and event.finish_reason == "stop" else event.finish_reason
            )
        if not delta.is_empty or event.is_last:
            delta.logprobs = self._ready_logprobs(is_last=event.is_last)
        return delta

    def _read(self, event: Event) -> Pieces:
        reader = self._call_reader
        if reader is None:
            return Pieces(event.text)
        pieces = reader.push(event.text)
        if event.is_last:
            pieces.content += reader.close().content
        return pieces

    def _ready_logprobs(self, *, is_last: bool) -> list[PlacedLogprob]:
        """Those of tokens whose text is decided; at the end all but a cut-off stop string's."""
        keeps_rest = is_last and not self.sequence.text.is_stopped
        count = 0
        while count < len(self._unsent) and (keeps_rest or self._unsent[count][1] < self._num_decided):
            count += 1
        ready, self._unsent = self._unsent[:count], self._unsent[count:]
        return ready


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"
