"""Random streams of an upstream, well-formed and broken, and what each must come to, said by construction.

`scripts(api)` draws a `Script`; `play` sends it over a `Line`; `told` says what a client of that API is to get of it
and what the books are to hold, by what its events are made to mean.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from typing import Literal

from hypothesis import strategies as st

from gateway.dispatch.attempt import MAX_HELD_BYTES, MAX_HELD_EVENTS
from tests.gateway.dispatch.upstream_events import Api, Event, events
from tests.raw_upstream import END, Line, framed, head, whole

MAX_RESET_BYTES = 30_000
FOREVER_S = 60.0
Ending = Literal["end", "cut", "reset", "stall"]  # after the last byte; "end" is the proper one


@dataclass(frozen=True)
class Script:
    """One answer: `refusal` is all of it where there is one; else `events` up to `stop` bytes, then `ending`."""

    events: tuple[Event, ...]
    stop: int
    ending: Ending
    has_framing: bool  # chunked; without it the connection's end is the body's
    frames: tuple[int, ...] = ()  # where the body is cut into chunks
    writes: tuple[int, ...] = ()  # where what goes over the wire is cut into pieces
    gap_s: float = 0.0  # before each of them
    refusal: tuple[int, bytes] | None = None  # status, and the whole answer
    head_stop: int | None = None  # the connection closes after so many bytes of the head

    @property
    def body(self) -> bytes:
        return b"".join(event.raw for event in self.events)[: self.stop]


@dataclass
class Told:
    """`failure` before the first token, as (result, may another target be tried); else `shown` and how it ends."""

    failure: tuple[str, bool] | None = None
    shown: list[Event] = field(default_factory=list)
    result: str = "ok"
    code: str | None = None
    finish_reason: str | None = None
    usage: tuple[int, int] | None = None

    def take(self, event: Event) -> None:
        self.shown.append(event)
        self.finish_reason = event.finish_reason or self.finish_reason
        if event.usage is not None:
            before = self.usage or (0, 0)
            self.usage = max(before[0], event.usage[0]), max(before[1], event.usage[1])

    def breaks(self, result: str, code: str) -> Told:
        self.result, self.code = result, code
        return self


def told(script: Script) -> Told:
    """What must come of a script."""
    if script.refusal is not None:
        status = script.refusal[0]
        return Told(("http_error", status not in (400, 422)))
    if script.head_stop is not None:
        return Told(("connect_error", True))
    whole_events, tail = _received(script)
    ends_well = script.ending == "end" or (script.ending == "cut" and not script.has_framing)
    if tail is not None and ends_well:
        whole_events.append(tail)
    opening = _opening(whole_events)
    if isinstance(opening, str):
        silent = "timeout_first_token" if script.ending == "stall" else "cut_off"
        failed = Told((opening or silent, True))
        for event in takewhile(lambda event: event.kind not in ("error", "malformed"), whole_events):
            failed.take(event)
        return failed
    said = Told()
    for event in whole_events:
        if event is not tail or event.kind != "malformed":
            said.take(event)
        if event.kind == "error":
            return said.breaks("cut_off", "upstream_error")
        if event.kind == "done":
            return said
    if script.ending == "stall":
        return said.breaks("timeout_idle", "timeout_idle")
    if ends_well and said.finish_reason is not None:
        return said
    if tail in said.shown and tail is not opening:
        said.shown.remove(tail)  # the end that it is part of is none
    return said.breaks("cut_off", "cut_off")


def _received(script: Script) -> tuple[list[Event], Event | None]:
    """The whole events within `stop`, and what is there of the one behind them."""
    received: list[Event] = []
    left = script.stop
    for event in script.events:
        if left < len(event.raw):
            return received, _part(event, left)
        received.append(event)
        left -= len(event.raw)
    return received, None


def _part(event: Event, size: int) -> Event | None:
    """The first bytes of an event as one of its own: the same, if but its blank line is missing."""
    part = event.raw[:size]
    if size >= len(event.raw.rstrip(b"\r\n")):
        missing = len(event.raw) - size
        return replace(event, raw=part, unasked=event.unasked[:-missing])
    if not part.strip():
        return None
    has_data = any(line == b"data" or line.startswith(b"data:") for line in part.splitlines())
    return Event("malformed" if has_data else "comment", part, part)


def _opening(events: list[Event]) -> Event | str:
    """The event that commits the call to its target; else the failure that came before it, "" for none."""
    held_bytes = 0
    for number, event in enumerate(events, 1):
        if event.kind == "error":
            return "http_error"
        if event.kind == "malformed":
            return "bad_response"
        held_bytes += len(event.raw)
        is_full = number >= MAX_HELD_EVENTS or held_bytes >= MAX_HELD_BYTES
        if event.kind in ("token", "done") or event.finish_reason or is_full:
            return event
    return ""


async def play(script: Script, line: Line) -> None:
    """The script as the answer to one request."""
    if script.refusal is not None:
        await line.send(script.refusal[1])
        return
    top = head() if script.has_framing else head(framing="Connection: close")
    if script.head_stop is not None:
        await line.send(top[: script.head_stop])
        line.close()
        return
    parts = _cut(script.body, script.frames)
    raw = top + b"".join(map(framed, parts) if script.has_framing else parts)
    if script.ending == "end" and script.has_framing:
        raw += END
    for piece in _cut(raw, script.writes):
        await asyncio.sleep(script.gap_s)
        await line.send(piece)
    if script.ending == "stall":
        await asyncio.sleep(FOREVER_S)
    elif script.ending == "reset":
        line.reset()
    elif script.ending == "cut" or not script.has_framing:
        line.close()


def _cut(raw: bytes, places: tuple[int, ...]) -> list[bytes]:
    bounds = [0, *sorted(min(place, len(raw)) for place in places), len(raw)]
    return [raw[start:end] for start, end in pairwise(bounds) if end > start]


PATIENCE_S = 0.01
_REFUSALS = st.sampled_from(
    [(status, whole({"error": {"message": "no", "code": "c"}}, status)) for status in (202, 400, 422)]
    + [(status, whole({"error": {"message": "no", "code": "c"}}, status)) for status in (401, 404, 429)]
    + [
        (status, whole({"detail": "no"}, status, f"Retry-After: {PATIENCE_S}"))
        for status in (302, 500, 503, 529)
    ]
)


@st.composite
def scripts(draw: st.DrawFn, api: Api) -> Script:
    drawn = tuple(draw(events(api)))
    size = sum(len(event.raw) for event in drawn)
    way = draw(st.sampled_from(["whole"] * 30 + ["part"] * 8 + ["refusal"] * 4 + ["no head"] * 2 + ["stall"]))
    places = st.lists(st.integers(0, size + 400), max_size=6).map(tuple)
    ending: Ending = "end"
    stop, head_stop = size, None
    if way == "stall":
        ending, stop = "stall", draw(st.integers(0, size))
    elif way == "part":
        ending, stop = draw(st.sampled_from(["cut", "reset", "end"])), draw(st.integers(0, size))
        if stop > MAX_RESET_BYTES:  # a reset loses what the kernel still holds
            ending = "cut"
    elif way == "no head":
        head_stop = draw(st.integers(0, 40))  # of some eighty bytes
    return Script(
        events=drawn,
        stop=stop,
        ending=ending,
        has_framing=draw(st.integers(0, 3)) < 3,
        frames=draw(places),
        writes=draw(places),
        gap_s=draw(st.sampled_from([0.0, 0.0, 0.001])),
        refusal=draw(_REFUSALS) if way == "refusal" else None,
        head_stop=head_stop,
    )
