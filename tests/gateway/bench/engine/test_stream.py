"""From the bytes of an answer to its trace."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.bench.engine.stream import trace_of


def event(**content: Any) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


def text(content: str) -> bytes:
    return event(choices=[{"delta": {"content": content}}])


OPENING = event(choices=[{"delta": {"role": "assistant", "content": ""}}])
FINISH = event(choices=[{"delta": {}, "finish_reason": "length"}])
LAST = event(
    choices=[],
    usage={"completion_tokens": 9},
    sparkgate={"queue_s": 0.1, "rounds": 3, "drafted": 12, "verified": 8, "accepted": 6},
)
DONE = b"data: [DONE]\n\n"


def test_text_counts_when_its_event_is_whole() -> None:
    whole = text("größer")
    arrivals = [
        (0.1, OPENING),
        (0.2, whole[:30]),
        (0.3, whole[30:] + text("ab")),
        (0.5, FINISH + LAST + DONE),
    ]
    trace = trace_of(200, arrivals)
    assert trace.pieces == ((0.3, 6), (0.3, 2))
    assert (trace.ttft_s, trace.end_s, trace.tokens, trace.error) == (0.3, 0.5, 9, None)
    assert (trace.rounds, trace.drafted, trace.verified, trace.accepted) == (3, 12, 8, 6)


def test_a_server_that_says_nothing_of_speculation_has_no_counts() -> None:
    last = event(choices=[], usage={"completion_tokens": 2})
    trace = trace_of(200, [(0.1, text("a")), (0.2, FINISH + last)])
    assert (trace.tokens, trace.rounds, trace.verified, trace.accepted) == (2, None, None, None)


@pytest.mark.parametrize(
    ("status", "body", "broken", "message"),
    [
        (400, b'{"error": {"message": "no schemas here"}}', "", "HTTP 400: no schemas here"),
        (502, b"<html>bad gateway", "", "HTTP 502: <html>bad gateway"),
        (200, text("a") + event(error={"message": "out of memory"}), "", "out of memory"),
        (200, text("a"), "", "without a finish reason"),
        (None, b"", "ClientConnectorError: refused", "refused"),
    ],
)
def test_a_failed_answer_is_a_trace_with_its_error(
    status: int | None, body: bytes, broken: str, message: str
) -> None:
    trace = trace_of(status, [(0.1, body)], broken)
    assert trace.error is not None
    assert message in trace.error
