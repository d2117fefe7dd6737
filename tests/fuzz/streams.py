"""The parser of server-sent events: however a stream is cut, its events are the same, and the standard's."""

from __future__ import annotations

import re
from collections.abc import Iterable
from random import Random

from gateway.wire.sse import EventSplitter, data_of
from tests.fakes import DONE, GOOD_STREAM
from tests.fuzz import mutate
from tests.fuzz.base import FuzzTarget, must

CORPUS = (
    b"".join(GOOD_STREAM),
    b"".join(GOOD_STREAM).replace(b"\n", b"\r\n"),
    b"".join(GOOD_STREAM).replace(b"\n", b"\r"),
    b": ping\n\nevent: message_start\ndata: {\"type\": \"message_start\"}\n\nevent: ping\ndata: {}\n\n" + DONE,
    "id: 3\nretry: 10\ndata: a\ndata:b\ndata\ndata:  é\U0001f600\n\ndatabase: no\n\n".encode(),
    b"\xef\xbb\xbfdata: x\r\n\r\n\n\r\r\ndata:\n\n\n\n",
)  # fmt: skip
_LINE_END = re.compile(rb"\r\n|\n|\r")
_EMPTY_LINE = re.compile(rb"\n\n|\r\r|\n\r")


def make(chance: Random) -> tuple[bytes, list[bytes]]:
    """A stream, and the same in pieces."""
    kind = chance.random()
    if kind < 0.05:
        data = chance.randbytes(chance.randint(0, 200))
    elif kind < 0.3:
        data = b"".join(chance.choices(mutate.PIECES, k=chance.randint(1, 30)))
    else:
        data = mutate.raw(chance, chance.choice(CORPUS))
    return data, mutate.cuts(chance, data)


def take(given: tuple[bytes, list[bytes]]) -> None:
    data, pieces = given
    events, rest = _events([data])
    must(_events(pieces) == (events, rest), "cut elsewhere, other events")
    must(b"".join(events) + rest == data, "bytes were lost or changed")
    must(rest.endswith(b"\r") or not _EMPTY_LINE.search(rest), "a whole event is held back")
    told = [found for event in events if (found := data_of(event)) is not None]
    must(told == _told_by_the_standard(b"".join(events)), "other data than the standard's parser finds")


def _events(pieces: Iterable[bytes]) -> tuple[list[bytes], bytes]:
    splitter = EventSplitter()
    events = [event for piece in pieces for event in splitter.feed(piece)]
    return events, splitter.rest


def _told_by_the_standard(stream: bytes) -> list[bytes]:
    """The data of each event, found line by line as the WHATWG has it, but for a byte order mark."""
    told: list[bytes] = []
    lines: list[bytes] = []
    for line in _LINE_END.split(stream):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
        elif not line and lines:
            told.append(b"\n".join(lines))
            lines = []
    return told


TARGETS = (FuzzTarget("SSE parser", 0.30, make, take),)
