from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.ledger.records import Usage
from gateway.wire.messages import (
    error_value,
    event,
    finish_reason_of,
    plain_bytes,
    read_event,
    usage_of,
    usage_value,
    without_unsigned_thinking,
)
from tests.gateway.wire.messages_grammar import value_of


def start(block: dict[str, Any]) -> bytes:
    return event({"type": "content_block_start", "index": 0, "content_block": block})


def delta(**given: Any) -> bytes:
    return event({"type": "content_block_delta", "index": 0, "delta": given})


@pytest.mark.parametrize(
    ("raw", "is_first_token"),
    [
        (delta(type="text_delta", text="a"), True),
        (delta(type="text_delta", text=""), False),
        (delta(type="thinking_delta", thinking="hm"), True),
        (delta(type="input_json_delta", partial_json="{"), True),
        (delta(type="input_json_delta", partial_json=""), False),
        (delta(type="signature_delta", signature="x"), False),
        (start({"type": "text", "text": ""}), False),
        (start({"type": "thinking", "thinking": "", "signature": ""}), False),
        (start({"type": "tool_use", "id": "t", "name": "f", "input": {}}), True),
        (start({"type": "redacted_thinking", "data": "x"}), True),
        (event({"type": "ping"}), False),
    ],
)
def test_what_counts_as_the_first_token(raw: bytes, is_first_token: bool) -> None:
    assert read_event(raw).has_token is is_first_token


def test_a_stream_tells_its_usage_in_two_parts_and_its_end() -> None:
    """Anthropic counts input without what the cache served or took in."""
    first = {
        "input_tokens": 10,
        "cache_read_input_tokens": 30,
        "cache_creation_input_tokens": 5,
        "output_tokens": 1,
    }
    message = {"type": "message", "id": "msg_1", "model": "claude", "usage": first}
    begun = read_event(event({"type": "message_start", "message": message}))
    assert begun.value == message
    assert begun.usage == Usage(45, 1, 30, 5)
    last = {"output_tokens": 20, "output_tokens_details": {"thinking_tokens": 8}}
    ended = read_event(
        event({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}, "usage": last})
    )
    assert ended.finish_reason == "length"
    assert ended.usage is not None
    assert begun.usage.merged(ended.usage) == Usage(45, 20, 30, 5, 8)
    assert not ended.is_done
    assert read_event(event({"type": "message_stop"})).is_done


def test_events_of_other_kinds() -> None:
    assert read_event(b"event: x\ndata: {oops\n\n").is_malformed
    assert read_event(b"data: [1]\n\n").is_malformed
    assert read_event(b": ping\n\n").value is None
    broken = read_event(event(error_value(529, "full")))
    assert broken.is_error
    assert broken.value == error_value(529, "full")
    assert read_event(event({"type": "from_the_future", "delta": 3})).value is not None


def test_only_events_with_nothing_to_note_pass_unread() -> None:
    noted = [
        event({"type": "message_start", "message": {}}),
        event({"type": "message_delta", "delta": {}}),
        event({"type": "message_stop"}),
        event(error_value(500, "x")),
    ]
    assert all(plain_bytes(data) < len(data) for data in noted)
    passing = delta(type="text_delta", text="say error, please") + event({"type": "ping"})
    assert plain_bytes(passing) == len(passing)


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"),
    [
        ("end_turn", "stop"),
        ("stop_sequence", "stop"),
        ("pause_turn", "stop"),
        ("max_tokens", "length"),
        ("model_context_window_exceeded", "length"),
        ("tool_use", "tool_calls"),
        ("refusal", "content_filter"),
        (None, None),
    ],
)
def test_finish_reasons_in_the_words_of_chat(stop_reason: str | None, finish_reason: str | None) -> None:
    assert finish_reason_of({"stop_reason": stop_reason}) == finish_reason


@pytest.mark.parametrize("usage", [Usage(45, 20, 30, 5, 8), Usage(3, 4), Usage(0, 0)])
def test_usage_reads_back_as_written(usage: Usage) -> None:
    assert usage_of({"usage": usage_value(usage)}) == usage
    assert usage_of({"usage": None}) is None


@pytest.mark.parametrize(
    ("status", "type_"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (402, "billing_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (422, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
        (529, "overloaded_error"),
    ],
)
def test_errors_have_the_type_of_their_status(status: int, type_: str) -> None:
    value = error_value(status, "no", "req_1")
    assert value == {"type": "error", "error": {"type": type_, "message": "no"}, "request_id": "req_1"}
    assert value_of(event(value)) == value


def test_thinking_that_anthropic_did_not_sign_is_taken_out() -> None:
    ours = {"type": "thinking", "thinking": "hm", "signature": ""}
    theirs = {"type": "thinking", "thinking": "hm", "signature": "EqQB"}
    text = {"type": "text", "text": "a"}
    question = {"role": "user", "content": "q"}
    body = {
        "model": "m",
        "messages": [
            question,
            {"role": "assistant", "content": [ours, text]},
            question,
            {"role": "assistant", "content": [theirs, text]},
            question,
            {"role": "assistant", "content": [ours]},
            question,
        ],
    }
    before = json.dumps(body)
    kept = without_unsigned_thinking(body)
    assert [turn["content"] for turn in kept["messages"]] == ["q", [text], "q", [theirs, text], "q", "q"]
    assert json.dumps(body) == before
