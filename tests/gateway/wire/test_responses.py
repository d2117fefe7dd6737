from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import ResponseErrorEvent

from gateway.ledger.records import Usage
from gateway.wire.responses import (
    error_event,
    event,
    finish_reason_of,
    plain_bytes,
    read_event,
    usage_of,
    usage_value,
)
from gateway.wire.sse import data_of
from tests.openapi import errors_of, needs_document

USAGE = {
    "input_tokens": 30,
    "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 5},
    "output_tokens": 40,
    "output_tokens_details": {"reasoning_tokens": 10},
    "total_tokens": 70,
}
DONE: dict[str, Any] = {"id": "resp_1", "status": "completed", "model": "m-1", "output": [], "usage": USAGE}
ERROR = {"code": "server_error", "message": "no luck"}


def as_event(type_: str, **fields: Any) -> bytes:
    return event(type_, 0, fields)


@pytest.mark.parametrize(
    ("said", "is_first_token"),
    [
        (as_event("response.output_text.delta", delta="a"), True),
        (as_event("response.output_text.delta", delta=""), False),
        (as_event("response.refusal.delta", delta="no"), True),
        (as_event("response.reasoning_text.delta", delta="hm"), True),
        (as_event("response.reasoning_summary_text.delta", delta="hm"), True),
        (as_event("response.function_call_arguments.delta", delta="{"), True),
        (as_event("response.custom_tool_call_input.delta", delta="ls"), True),
        (as_event("response.output_item.added", item={"type": "function_call"}), True),
        (as_event("response.output_item.added", item={"type": "web_search_call"}), True),
        (as_event("response.output_item.added", item={"type": "message", "content": []}), False),
        (as_event("response.output_item.added", item={"type": "reasoning", "summary": []}), False),
        (as_event("response.content_part.added", part={"type": "output_text", "text": ""}), False),
        (as_event("response.created", response={"status": "in_progress"}), False),
        (as_event("some.day.new", data=1), False),
    ],
)
def test_what_counts_as_the_first_token(said: bytes, is_first_token: bool) -> None:
    assert read_event(said).has_token is is_first_token


@pytest.mark.parametrize(
    ("type_", "response", "finish_reason"),
    [
        ("response.completed", DONE, "stop"),
        ("response.incomplete", {**DONE, "status": "incomplete", "incomplete_details": {}}, "length"),
    ],
)
def test_the_end_of_a_stream(type_: str, response: dict[str, Any], finish_reason: str) -> None:
    piece = read_event(as_event(type_, response=response))
    assert piece.is_done
    assert not piece.is_error
    assert piece.finish_reason == finish_reason
    assert piece.usage == Usage(30, 40, 20, 5, 10)
    assert piece.value == response


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (as_event("error", code="server_error", message="no luck", param=None), "server_error"),
        (as_event("error", error={**ERROR, "type": "server_error"}), "server_error"),
        (as_event("response.failed", response={**DONE, "status": "failed", "error": ERROR}), "server_error"),
        (b'data: {"error": {"message": "no luck", "type": "server_error"}}\n\n', None),
    ],
)
def test_an_error_reads_as_in_chat_whatever_its_form(said: bytes, code: str | None) -> None:
    piece = read_event(said)
    assert piece.is_error
    assert not piece.is_done
    error = {"message": "no luck", "type": "server_error", "param": None, "code": code}
    assert piece.value == {"error": error}


def test_events_of_other_kinds() -> None:
    assert read_event(b"data: [DONE]\n\n").is_done
    assert read_event(b"event: x\ndata: {oops\n\n").is_malformed
    assert read_event(b"data: [1]\n\n").is_malformed
    assert read_event(b": ping\n\n").value is None
    created = read_event(
        as_event("response.created", response={"status": "in_progress", "error": None, "model": "m"})
    )
    assert not created.is_error
    assert created.value is not None
    assert created.value["model"] == "m"
    assert created.finish_reason is None


def test_what_may_pass_unread() -> None:
    passing = [
        as_event("response.output_text.delta", delta='say "error" and [done]'),
        as_event("response.output_item.done", item={"type": "message", "status": "completed"}),
    ]
    noted = [
        as_event("response.completed", response=DONE),
        as_event("response.incomplete", response=DONE),
        as_event("response.failed", response={"error": ERROR}),
        as_event("error", code=None, message="no luck", param=None),
        b'data: {"error": {"message": "no luck"}}\n\n',
        b"data: [DONE]\n\n",
    ]
    assert all(plain_bytes(data) == len(data) for data in passing)
    assert all(plain_bytes(data) < len(data) for data in noted)


def test_usage_with_and_without_details() -> None:
    assert usage_of({"usage": USAGE}) == Usage(30, 40, 20, 5, 10)
    assert usage_value(Usage(30, 40, 20, 5, 10)) == USAGE
    assert usage_of({"usage": {"input_tokens": 3, "output_tokens": 4}}) == Usage(3, 4)
    assert usage_of({"usage": None}) is None
    assert usage_of({}) is None


@pytest.mark.parametrize(
    ("status", "more", "finish_reason"),
    [
        ("completed", {}, "stop"),
        ("completed", {"output": [{"type": "reasoning"}, {"type": "function_call"}]}, "tool_calls"),
        ("completed", {"output": [{"type": "custom_tool_call"}]}, "tool_calls"),
        ("completed", {"output": [{"type": "web_search_call"}, {"type": "message"}]}, "stop"),
        ("incomplete", {"incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ("incomplete", {"incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ("failed", {"error": ERROR}, None),
        ("in_progress", {}, None),
    ],
)
def test_how_a_response_ended(status: str, more: dict[str, Any], finish_reason: str | None) -> None:
    assert finish_reason_of({"status": status, "output": [], **more}) == finish_reason


def test_an_error_of_our_own() -> None:
    said = error_event("no luck", "cut_off", sequence_number=7)
    value = json.loads(data_of(said) or b"")
    assert said.startswith(b"event: error\ndata: {")
    assert ResponseErrorEvent.model_validate(value).to_dict() == value
    assert value["sequence_number"] == 7
    assert read_event(said).is_error


@needs_document
def test_an_error_of_our_own_is_as_published() -> None:
    assert errors_of("ResponseErrorEvent", json.loads(data_of(error_event("no luck", None)) or b"")) == []
