"""Random streams of an upstream, well-formed and broken, and what each must come to, said by construction.

`scripts()` draws a `Script`; `play` sends it over a `Line`; `told` says what a chat client is to get of it and what
the books are to hold. Nothing here reads the streams: every event knows from its making what it means.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from typing import Any, Literal

from hypothesis import strategies as st

from gateway.dispatch.attempt import MAX_HELD_BYTES, MAX_HELD_EVENTS
from tests.gateway.wire.chat_streams import atoms
from tests.raw_upstream import END, Line, framed, head, whole

HUGE_CHARS = 300_000  # more than the gateway holds back, and than it reads at a time
MAX_RESET_BYTES = 30_000
FOREVER_S = 60.0
Ending = Literal["end", "cut", "reset", "stall"]  # after the last byte; "end" is the proper one
Kind = Literal["comment", "start", "token", "finish", "usage", "done", "error", "malformed"]


@dataclass(frozen=True, repr=False)
class Event:
    """`unasked` is what a client gets that did not ask for usage; the same bytes, unless usage is all in them."""

    kind: Kind
    raw: bytes
    unasked: bytes
    delta: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    usage: tuple[int, int] | None = None

    def __repr__(self) -> str:
        """In short: Hypothesis shows hundreds of them at a time."""
        return f"<{self.kind} {len(self.raw)} {self.raw[-40:]!r}>"

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(repr(self))


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
    """What must come of a script that is played to a client of chat completions."""
    if script.refusal is not None:
        status = script.refusal[0]
        return Told(("http_error", status in (401, 404, 429, 500, 503, 529)))
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


@dataclass(frozen=True)
class _Style:
    """How an upstream writes its events."""

    eol: bytes
    comma: str
    colon: str
    is_ascii: bool
    null_at: int | None  # where in each chunk `"usage": null` stands
    lines_before: bytes = b""

    def event(self, data: bytes, unasked: bytes | None = None) -> tuple[bytes, bytes]:
        def framed_as(said: bytes) -> bytes:
            return self.lines_before + b"data: " + said + 2 * self.eol

        return framed_as(data), framed_as(data if unasked is None else unasked)

    def chunk(self, kind: Kind, delta: dict[str, Any] | None, **given: Any) -> Event:
        finish_reason, usage = given.get("finish_reason"), given.get("usage")
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
        value = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
        fields = [self._field(*item) for item in (value | {"choices": choices, "x_unknown": [1]}).items()]
        unasked = self._object(fields)
        if usage is not None:
            counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
            raw, same = self.event(self._object([*fields, self._field("usage", counts)]))
            return Event(kind, raw, same if choices else b"", delta or {}, finish_reason, usage)
        if self.null_at is not None:
            fields.insert(self.null_at, self._field("usage", None))
        return Event(kind, *self.event(self._object(fields), unasked), delta or {}, finish_reason)

    def _object(self, fields: list[str]) -> bytes:
        return f"{{{self.comma.join(fields)}}}".encode()

    def _field(self, name: str, value: Any) -> str:
        said = json.dumps(value, ensure_ascii=self.is_ascii, separators=(self.comma, self.colon))
        return f'"{name}"{self.colon}{said}'


_STYLES = st.builds(
    _Style,
    eol=st.sampled_from([b"\n", b"\n", b"\r\n"]),
    comma=st.sampled_from([",", ", "]),
    colon=st.sampled_from([":", ": "]),
    is_ascii=st.booleans(),
    null_at=st.none() | st.integers(0, 6),
    lines_before=st.sampled_from([b"", b"", b"", b"event: message\n", b"id: 7\n"]),
)
_USAGE = st.tuples(st.integers(0, 9999), st.integers(0, 9999))
_REFUSALS = st.sampled_from(
    [(status, whole({"error": {"message": "no", "code": "c"}}, status)) for status in (202, 400, 422)]
    + [(status, whole({"error": {"message": "no", "code": "c"}}, status)) for status in (401, 404, 429)]
    + [(status, whole({"detail": "no"}, status, "Retry-After: 9")) for status in (302, 500, 503, 529)]
)


@st.composite
def events(draw: st.DrawFn, style: _Style) -> list[Event]:
    """An answer's events, mostly as they should be."""
    deltas = draw(atoms())
    if draw(st.integers(0, 30)) == 0:
        deltas.insert(draw(st.integers(0, len(deltas))), {"content": "h" * HUGE_CHARS})
    drawn = [style.chunk("token", delta, usage=draw(st.none() | _USAGE | st.none())) for delta in deltas]
    start = style.chunk("start", {"role": "assistant", "content": ""})
    drawn = [start] * draw(st.sampled_from([0, 1, 1, 1, 70])) + drawn
    reason = draw(st.sampled_from([None, "stop", "stop", "length", "tool_calls"]))
    if reason:
        last = draw(st.none() | _USAGE)  # some servers tell usage with the end
        drawn.append(style.chunk("finish", {}, finish_reason=reason, usage=last))
    if draw(st.booleans()):
        drawn.append(style.chunk("usage", None, usage=draw(_USAGE)))
    if draw(st.integers(0, 3)):
        drawn.append(Event("done", *style.event(b"[DONE]")))
    faults = st.sampled_from(["comment", "comment", "error", "malformed", "done", "usage"])
    for fault in draw(st.lists(faults, max_size=2)):
        drawn.insert(draw(st.integers(0, len(drawn))), _fault(fault, style))
    return drawn


def _fault(kind: str, style: _Style) -> Event:
    if kind == "comment":
        raw = b": ping" + 2 * style.eol
        return Event("comment", raw, raw)
    if kind == "error":
        return Event("error", *style.event(b'{"error": {"message": "overloaded", "code": "busy"}}'))
    if kind == "malformed":
        return Event("malformed", *style.event(b'{"choices": [{"delta": {"content": "x'))
    if kind == "done":
        return Event("done", *style.event(b"[DONE]"))
    return style.chunk("usage", None, usage=(3, 4))


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    drawn = tuple(draw(events(draw(_STYLES))))
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
        has_framing=draw(st.integers(0, 3)) > 0,
        frames=draw(places),
        writes=draw(places),
        gap_s=draw(st.sampled_from([0.0, 0.0, 0.001])),
        refusal=draw(_REFUSALS) if way == "refusal" else None,
        head_stop=head_stop,
    )
