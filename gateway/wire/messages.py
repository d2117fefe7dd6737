"""Anthropic's Messages API on the wire: what matters to the gateway in requests, answers, stream events and errors.

In: decoded JSON values and raw events. Out: usage, finish reasons, "is this the first token", errors in Anthropic's
shape, and the one edit of a native request. Unknown fields and events are left alone.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.ledger.records import Usage
from gateway.wire.billing import apart
from gateway.wire.chat import Piece
from gateway.wire.fields import MAX_TOKENS, answered, count, inner
from gateway.wire.sse import data_of, first_of

VERSION_HEADER = {"anthropic-version": "2023-06-01"}  # what ours are written for
_FINISH_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def plain_bytes(data: bytes) -> int:
    """How many bytes from the start may pass unread after the first token: no usage, error or end in them."""
    return first_of((b"message_", b'"error"'), data)


def read_event(event: bytes) -> Piece:
    """Never raises: an event that is not a JSON object is `is_malformed`.

    `value` is the message where an event carries one, so that it reads like a whole body. `message_start` and
    `message_delta` each bring a `Usage` of what they know; merged, they are the stream's.
    """
    data = data_of(event)
    if data is None:
        return Piece()
    value = answered(data)
    if value is None:
        return Piece(is_malformed=True)
    kind = value.get("type")
    return Piece(
        value=inner(value, "message") or value,
        has_token=_has_token(value),
        is_done=kind == "message_stop",
        is_error=kind == "error" or bool(value.get("error")),
        finish_reason=finish_reason_of(inner(value, "delta")) if kind == "message_delta" else None,
        usage=usage_of(inner(value, "message") or value),
    )


def _has_token(value: dict[str, Any]) -> bool:
    if value.get("type") == "content_block_delta":
        delta = inner(value, "delta")
        return any(delta.get(key) for key in ("text", "thinking", "partial_json"))
    if value.get("type") != "content_block_start":
        return False
    block = inner(value, "content_block")
    return block.get("type") not in ("text", "thinking") or bool(block.get("text") or block.get("thinking"))


def usage_of(value: dict[str, Any]) -> Usage | None:
    """Token counts of a message or a `message_delta`; None when it has none that can be. Absent ones count 0.

    Anthropic's `input_tokens` leaves out what the cache served or took in; ours is the sum.
    """
    usage = inner(value, "usage")
    if not usage:
        return None
    fresh, output = count(usage.get("input_tokens")), count(usage.get("output_tokens"))
    cached = count(usage.get("cache_read_input_tokens")) or 0
    written = count(usage.get("cache_creation_input_tokens")) or 0
    if fresh is None or output is None or (read := fresh + cached + written) > MAX_TOKENS:
        return None
    return Usage(
        input_tokens=read,
        output_tokens=output,
        cached_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=count(inner(usage, "output_tokens_details").get("thinking_tokens")) or 0,
        apart=_apart(usage) if "cache_creation" in usage or "server_tool_use" in usage else None,
    )


def _apart(usage: dict[str, Any]) -> dict[str, int] | None:
    writes, tools = inner(usage, "cache_creation"), inner(usage, "server_tool_use")
    return apart(
        (
            ("cache_write_1h_tokens", writes.get("ephemeral_1h_input_tokens")),
            ("web_searches", tools.get("web_search_requests")),
        )
    )


def usage_value(usage: Usage) -> dict[str, Any]:
    """`usage` as Anthropic writes it: the reverse of `usage_of`."""
    value: dict[str, Any] = {
        "input_tokens": max(0, usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        value["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return value


def finish_reason_of(body: dict[str, Any]) -> str | None:
    """In the words of chat completions; None for a message that has not ended."""
    reason = body.get("stop_reason")
    return _FINISH_REASONS.get(reason, "stop") if isinstance(reason, str) else None


def event(value: dict[str, Any]) -> bytes:
    """A stream event; its name is the value's `type`, as clients expect."""
    return b"event: " + str(value["type"]).encode() + b"\ndata: " + orjson.dumps(value) + b"\n\n"


def error_value(status: int, message: str, request_id: str | None = None) -> dict[str, Any]:
    """Anthropic's error object, of the type that belongs to the HTTP status."""
    type_ = _ERROR_TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": type_, "message": message}, "request_id": request_id}


def without_unsigned_thinking(body: dict[str, Any]) -> dict[str, Any]:
    """The request without the thinking that `chat_as_messages` made of other targets' reasoning.

    Only Anthropic's own thinking is signed, and it refuses any other. A turn of nothing else goes as a whole.
    """
    turns = body.get("messages")
    if not isinstance(turns, list):
        return body
    return {**body, "messages": [kept for kept in map(_signed, turns) if kept is not None]}


def _signed(turn: Any) -> Any:
    content = turn.get("content") if isinstance(turn, dict) else None
    if not isinstance(content, list):
        return turn
    kept = [block for block in content if not _is_unsigned(block)]
    if len(kept) == len(content):
        return turn
    return {**turn, "content": kept} if kept else None


def _is_unsigned(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "thinking" and not block.get("signature")
