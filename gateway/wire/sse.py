"""Server-sent events as bytes: cutting an incoming stream into whole events without changing a byte.

In: chunks as the network brought them, cut anywhere (inside a UTF-8 character too). Out: events, each with its
blank line, whose concatenation is the input. Knows nothing of what is inside an event but its `data` lines.
Follows the WHATWG server-sent events grammar: LF, CRLF or CR end a line, an empty line ends an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_EVENT_END = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
MAX_EVENT_BYTES = 8 * 1024 * 1024


class EventTooLarge(Exception):
    """An event grew past `MAX_EVENT_BYTES` without ending."""


def event_end(data: bytes, start: int = 0) -> int:
    """Where the first event in it ends, which is behind `start`; 0 when none does."""
    end = _EVENT_END.search(data, start)
    if end is None or (end.end() == len(data) and end.group().endswith(b"\r")):
        return 0
    return end.end()


class EventSplitter:
    """Collects chunks, gives whole events. Holds at most one unfinished event."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that this chunk completes. Raises `EventTooLarge`."""
        seen = max(0, len(self._rest) - 3)  # an end may be cut in two
        data = self._rest + chunk if self._rest else chunk
        events: list[bytes] = []
        start = 0
        for end in _EVENT_END.finditer(data, seen):
            if end.end() == len(data) and end.group().endswith(b"\r"):
                break  # a CR at the very end may be the first half of CRLF: wait for the next byte
            events.append(data[start : end.end()])
            start = end.end()
        self._rest = data[start:]
        if len(self._rest) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event of more than {MAX_EVENT_BYTES} bytes")
        return events

    def take_rest(self) -> bytes:
        """The unfinished event, which is forgotten."""
        rest, self._rest = self._rest, b""
        return rest

    @property
    def rest(self) -> bytes:
        """The unfinished event."""
        return self._rest


def first_of(marks: Iterable[bytes], data: bytes) -> int:
    """Where the first of the marks begins; the length of `data` when there is none."""
    end = len(data)
    for mark in marks:
        if (at := data.find(mark, 0, end)) >= 0:
            end = at
    return end


def data_of(event: bytes) -> bytes | None:
    """The event's data: its `data` lines joined by LF; None for comments and keep-alives."""
    is_one_line = event.endswith(b"\n\n") and event.find(b"\n") == len(event) - 2 and b"\r" not in event
    if is_one_line and event.startswith(b"data: "):
        return event[6:-2]  # the only form nearly all servers send
    lines = [line for line in re.split(rb"\r\n|\n|\r", event) if line.startswith(b"data")]
    values = [_value(line) for line in lines if line == b"data" or line[4:5] == b":"]
    return b"\n".join(values) if values else None


def _value(line: bytes) -> bytes:
    value = line[5:]
    return value[1:] if value.startswith(b" ") else value
