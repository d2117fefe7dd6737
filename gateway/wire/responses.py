"""OpenAI's Responses API on the wire: what matters to the gateway in answers, stream events and errors.

In: decoded JSON values and raw events. Out: usage, finish reasons, "is this the first token", our own `error` event.
A stream ends with `response.completed` or `response.incomplete`. Unknown fields and events are left alone.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.ledger.records import Usage
from gateway.wire.billing import apart
from gateway.wire.chat import Piece
from gateway.wire.errors import error_value
from gateway.wire.fields import answered, count, inner, inner_objects
from gateway.wire.sse import data_of, first_of

_TALK = ("message", "reasoning")  # items that say nothing yet when they are added; any other is a tool call
_CALLS_TO_MAKE = (  # what the caller has to do before the model can go on
    *("function_call", "custom_tool_call", "computer_call", "local_shell_call", "shell_call"),
    *("apply_patch_call", "mcp_approval_request"),
)


MARKS = (
    b"response.completed",
    b"response.incomplete",
    b'"error"',
    b"[DONE]",
)  # a failed response has an error


def plain_bytes(data: bytes) -> int:
    """How many bytes from the start may pass unread after the first token: no usage, error or end in them."""
    return first_of(MARKS, data)


def read_event(event: bytes) -> Piece:
    """Never raises: an event that is not a JSON object is `is_malformed`.

    `value` is the response where an event carries one, so that it reads like a whole body; of `error` and
    `response.failed`, which are `is_error`, it is the error as chat completions write it, `{"error": …}`.
    """
    data = data_of(event)
    if data is None:
        return Piece()
    if data.strip() == b"[DONE]":  # not published, but some servers end with it
        return Piece(is_done=True)
    value = answered(data)
    if value is None:
        return Piece(is_malformed=True)
    kind, response = str(value.get("type")), inner(value, "response")
    if kind in ("error", "response.failed") or value.get("error"):
        return Piece(_error_of(value, response), is_error=True, usage=usage_of(response))
    is_done = kind in ("response.completed", "response.incomplete")
    return Piece(
        value=response or value,
        has_token=_has_token(kind, value),
        is_done=is_done,
        finish_reason=finish_reason_of(response) if is_done else None,
        usage=usage_of(response),
    )


def _has_token(kind: str, value: dict[str, Any]) -> bool:
    if kind.endswith(".delta"):
        return bool(value.get("delta"))
    return kind == "response.output_item.added" and inner(value, "item").get("type") not in _TALK


def _error_of(value: dict[str, Any], response: dict[str, Any]) -> dict[str, Any]:
    """The published `error` event is flat; some servers nest it, and a failed response has an error of its own."""
    error = value.get("error") or response.get("error") or value
    error = error if isinstance(error, dict) else {"message": str(error)}
    type_ = error.get("type")
    return error_value(
        str(error.get("message") or "the response failed"),
        type_ if isinstance(type_, str) and type_ not in ("error", "response.failed") else "server_error",
        error.get("code"),
        error.get("param"),
    )


def usage_of(value: dict[str, Any]) -> Usage | None:
    """Token counts of a response; None when it has none that can be. Details that are absent count 0."""
    usage = inner(value, "usage")
    read, written = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    if usage.get("input_tokens") is None or read is None or written is None:
        return None
    into, out_of = inner(usage, "input_tokens_details"), inner(usage, "output_tokens_details")
    return Usage(
        input_tokens=read,
        output_tokens=written,
        cached_tokens=count(into.get("cached_tokens")) or 0,
        cache_write_tokens=count(into.get("cache_write_tokens")) or 0,
        reasoning_tokens=count(out_of.get("reasoning_tokens")) or 0,
        apart=apart((("web_searches", _searches(value)),)),
    )


def _searches(response: dict[str, Any]) -> int:
    """Web searches that the target made itself; opening a page that was found is none."""
    calls = [item for item in inner_objects(response, "output") if item.get("type") == "web_search_call"]
    return sum(inner(item, "action").get("type", "search") == "search" for item in calls)


def usage_value(usage: Usage) -> dict[str, Any]:
    """`usage` as a response has it: the reverse of `usage_of`."""
    cache = {"cached_tokens": usage.cached_tokens, "cache_write_tokens": usage.cache_write_tokens}
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": cache,
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def finish_reason_of(body: dict[str, Any]) -> str | None:
    """In the words of chat completions; None for a response that failed or still runs.

    `tool_calls` are calls for the caller to make: a response after calls that the target made itself ends as `stop`.
    """
    if body.get("status") == "incomplete":
        reason = inner(body, "incomplete_details").get("reason")
        return "content_filter" if reason == "content_filter" else "length"
    if body.get("status") != "completed":
        return None
    is_calling = any(item.get("type") in _CALLS_TO_MAKE for item in inner_objects(body, "output"))
    return "tool_calls" if is_calling else "stop"


def event(kind: str, sequence_number: int, fields: dict[str, Any]) -> bytes:
    """A stream event, its type on both lines as clients expect. `sequence_number`: how many went before it."""
    value = {"type": kind, "sequence_number": sequence_number, **fields}
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps(value) + b"\n\n"


def error_event(message: str, code: str | None, param: str | None = None, sequence_number: int = 0) -> bytes:
    """An error in a stream that has begun. A `sequence_number` of 0 says that nobody counted."""
    return event("error", sequence_number, {"code": code, "message": message, "param": param})
