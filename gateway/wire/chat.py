"""OpenAI's chat completions on the wire: what matters to the gateway in requests, answers and stream chunks.

In: decoded JSON values and raw events. Out: usage, finish reasons, "is this the first token", and the one edit of
a native stream: dropping the usage that only the gateway asked for. Unknown fields are left alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.ledger.records import Usage
from gateway.wire.billing import apart
from gateway.wire.fields import answered, count, inner
from gateway.wire.sse import data_of, first_of

MARKS = (
    b'"usage":{',
    b'"usage": {',
    b'"finish_reason":"',
    b'"finish_reason": "',
    b'"error"',
    b"[DONE]",
    b'"sparkgate"',
)
_USAGE_NULL = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,\s*')


@dataclass(slots=True)
class Piece:
    """What one stream event means. `value` is None for comments, keep-alives and `[DONE]`."""

    value: dict[str, Any] | None = None
    has_token: bool = False  # content, refusal, reasoning or tool calls: the first is the first token
    is_done: bool = False
    is_error: bool = False
    is_malformed: bool = False
    finish_reason: str | None = None
    usage: Usage | None = None


def read_event(event: bytes) -> Piece:
    """Never raises: an event that is not a JSON object is `is_malformed`."""
    data = data_of(event)
    if data is None:
        return Piece()
    if data.strip() == b"[DONE]":
        return Piece(is_done=True)
    value = answered(data)
    if value is None:
        return Piece(is_malformed=True)
    if value.get("error"):
        return Piece(value=value, is_error=True)
    choices = _choices(value)
    return Piece(
        value=value,
        has_token=any(map(_has_token, choices)),
        finish_reason=_finish_reason(choices),
        usage=usage_of(value),
    )


def plain_bytes(data: bytes) -> int:
    """How many bytes from the start may pass unread after the first token: no end, error, usage or engine's figures."""
    return first_of(MARKS, data)


def _choices(value: dict[str, Any]) -> list[dict[str, Any]]:
    choices = value.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _has_token(choice: dict[str, Any]) -> bool:
    if choice.get("text"):  # /v1/completions
        return True
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return False
    keys = ("content", "refusal", "tool_calls", "function_call", "reasoning_content", "reasoning", "audio")
    return any(delta.get(key) for key in keys)


def usage_of(value: dict[str, Any]) -> Usage | None:
    """Token counts of a body or chunk; None when it has none that can be. Details that are absent count 0."""
    usage = value.get("usage")
    if not isinstance(usage, dict) or usage.get("prompt_tokens") is None:
        return None
    read, written = count(usage["prompt_tokens"]), count(usage.get("completion_tokens"))
    if read is None or written is None:
        return None
    into, out_of = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    into = into if isinstance(into, dict) else {}
    out_of = out_of if isinstance(out_of, dict) else {}
    reasoning = count(out_of.get("reasoning_tokens")) or 0
    if reasoning and usage.get("total_tokens") == read + written + reasoning:
        written += reasoning  # xAI counts them beside the others
    return Usage(
        input_tokens=read,
        output_tokens=written,
        cached_tokens=count(into.get("cached_tokens")) or 0,
        cache_write_tokens=count(into.get("cache_write_tokens")) or 0,
        reasoning_tokens=reasoning,
        apart=_apart(usage, into, out_of),
    )


def _apart(usage: dict[str, Any], into: dict[str, Any], out_of: dict[str, Any]) -> dict[str, int] | None:
    """The times of cache writes and the searches are told by litellm, and the latter by Perplexity."""
    writes, tools = into.get("cache_creation_token_details"), usage.get("server_tool_use")
    audio, images = into.get("audio_tokens"), into.get("image_tokens")
    spoken, drawn = out_of.get("audio_tokens"), out_of.get("image_tokens")
    searches = into.get("web_search_requests") or usage.get("num_search_queries")
    if not (writes or tools or audio or images or spoken or drawn or searches):
        return None
    counts = (
        (
            "cache_write_1h_tokens",
            inner(into, "cache_creation_token_details").get("ephemeral_1h_input_tokens"),
        ),
        ("audio_input_tokens", audio),
        ("image_input_tokens", images),
        ("audio_output_tokens", spoken),
        ("image_output_tokens", drawn),
        (
            "web_searches",
            inner(usage, "server_tool_use").get("web_search_requests") or searches,
        ),
    )
    return apart(counts)


def finish_reason_of(body: dict[str, Any]) -> str | None:
    return _finish_reason(_choices(body))


def _finish_reason(choices: list[dict[str, Any]]) -> str | None:
    reasons = (choice.get("finish_reason") for choice in choices)
    return next((reason for reason in reasons if reason and isinstance(reason, str)), None)


def without_usage_nulls(events: bytes) -> bytes | None:
    """Whole events, each with a `"usage": null`, without it; None where it cannot be cut blindly."""
    num_events = events.count(b"\n\n")
    if events.count(b',"usage":null') == num_events:  # as nearly all servers write it
        edited = events.replace(b',"usage":null', b"")
    else:
        edited, cuts = _USAGE_NULL.subn(b"", events)
        if cuts != num_events:
            return None
    return None if b'"usage"' in edited else edited


def without_asked_usage(event: bytes, piece: Piece) -> bytes | None:
    """The event as the caller would have got it had nobody asked for usage; None = drop it.

    The extra chunk (empty `choices`, usage) goes; `"usage": null` is cut out of the others byte-wise, so that
    all else stays as the upstream wrote it.
    """
    value = piece.value
    if value is None or "usage" not in value:
        return event
    if value["usage"] is not None:
        return None if value.get("choices") == [] else event
    edited, cuts = _USAGE_NULL.subn(b"", event)
    if cuts == 1:
        return edited
    return b"data: " + orjson.dumps({key: item for key, item in value.items() if key != "usage"}) + b"\n\n"
