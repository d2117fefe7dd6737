from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.sse import MAX_EVENT_BYTES, EventSplitter, EventTooLarge, data_of

ENDS = ("\n\n", "\r\n\r\n", "\r\r", "\n\r\n", "\r\n\n", "\r\n\r", "\n\r")
texts = st.text(st.characters(blacklist_characters="\r\n", blacklist_categories=["Cs"]), max_size=20)


@given(
    st.lists(texts, max_size=12), st.sampled_from(ENDS), st.lists(st.integers(1, 9), min_size=1, max_size=9)
)
def test_events_come_out_whole_however_the_bytes_were_cut(
    payloads: list[str], end: str, sizes: list[int]
) -> None:
    """Cuts inside UTF-8 characters and inside line ends included."""
    stream = "".join(f"data: {payload}{end}" for payload in payloads).encode()
    splitter, events, position, step = EventSplitter(), [], 0, 0
    while position < len(stream):
        size = sizes[step % len(sizes)]
        events += splitter.feed(stream[position : position + size])
        position, step = position + size, step + 1
    assert b"".join(events) + splitter.rest == stream
    found = [data_of(event) for event in [*events, splitter.rest] if event.strip()]
    assert found == [payload.encode() for payload in payloads]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: x\n\n", b"x"),
        (b"data: x\r\n\n", b"x"),
        (b"data:x\n\n", b"x"),
        (b"data:  x\n\n", b" x"),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"event: ping\r\ndata: {}\r\n\r\n", b"{}"),
        (b": keep-alive\n\n", None),
        (b"database: x\n\n", None),
        (b"id: 3\n\n", None),
        (b"data\n\n", b""),
    ],
)
def test_data_of_an_event(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


def test_an_event_without_end_is_not_collected_for_ever() -> None:
    splitter = EventSplitter()
    splitter.feed(b"x" * MAX_EVENT_BYTES)
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x")
