"""Answers of Anthropic's Messages API as chat completions give them: whole bodies, and streams chunk by chunk.

In: decoded messages, or events as `messages.read_event` gives their values, in order. Out: a chat completion, or
its chunks. Blocks of Anthropic's own tools have no place there; a chat call cannot have asked for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from gateway.ledger.records import Usage
from gateway.wire import messages
from gateway.wire.errors import UpstreamFailed, UpstreamTimeout, error_event
from gateway.wire.fields import inner

DONE = b"data: [DONE]\n\n"
# By type of a delta: the key of its text in Messages, and in a chunk.
_TEXTS = {"text_delta": ("text", "content"), "thinking_delta": ("thinking", "reasoning_content")}


def response(value: dict[str, Any], model: str, created: int) -> dict[str, Any]:
    """A message as a chat completion of `model`; `created` in Unix seconds. Raises `UpstreamFailed` if it is none."""
    content = value.get("content")
    if not isinstance(content, list):
        raise UpstreamFailed("the target's answer has no content", code="bad_response")
    content = [block for block in content if isinstance(block, dict)]
    text = "".join(str(block.get("text") or "") for block in content if block.get("type") == "text")
    thought = "".join(
        str(block.get("thinking") or "") for block in content if block.get("type") == "thinking"
    )
    calls = [_tool_call(block) for block in content if block.get("type") == "tool_use"]
    message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": None}
    if thought:
        message["reasoning_content"] = thought
    if calls:
        message["tool_calls"] = calls
    finish_reason = messages.finish_reason_of(value) or "stop"
    return {
        "id": value.get("id") or "",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
        "usage": _usage(messages.usage_of(value) or Usage(0, 0)),
    }


def _tool_call(block: dict[str, Any]) -> dict[str, Any]:
    function = {"name": block.get("name") or "", "arguments": orjson.dumps(inner(block, "input")).decode()}
    return {"id": block.get("id") or "", "type": "function", "function": function}


@dataclass(slots=True)
class _Call:
    """A tool call being written. `given` is what its block began with; most begin empty and follow in pieces."""

    index: int
    given: dict[str, Any]
    has_arguments: bool = False


class StreamTranslator:
    """One stream: `feed` every event, then either `finish` or `fail`. Each gives whole events to send."""

    def __init__(self, model: str, created: int, wants_usage: bool) -> None:
        """`model` is what the client is told; `created` is in Unix seconds; `wants_usage`: in a last chunk."""
        self._head = {"id": "", "object": "chat.completion.chunk", "created": created, "model": model}
        self._wants_usage = wants_usage
        self._usage = Usage(0, 0)
        self._calls: dict[int, _Call] = {}  # by index of their block

    def feed(self, value: dict[str, Any]) -> list[bytes]:
        """The chunks of one event; an event that chat has no word for gives none."""
        self._usage = self._usage.merged(messages.usage_of(value) or self._usage)
        kind, index = value.get("type"), value.get("index")
        index = index if isinstance(index, int) else 0
        if kind == "message":
            self._head["id"] = value.get("id") or ""
            return [self._chunk({"role": "assistant", "content": ""})]
        if kind == "content_block_start":
            return self._start(index, inner(value, "content_block"))
        if kind == "content_block_delta":
            return self._delta(index, inner(value, "delta"))
        if kind == "content_block_stop":
            return self._stop(index)
        if kind == "message_delta":
            reason = messages.finish_reason_of(inner(value, "delta"))
            return [self._chunk({}, reason)] if reason else []
        return []

    def finish(self) -> list[bytes]:
        """Usage, if wanted, and the end."""
        usage = self._event({**self._head, "choices": [], "usage": _usage(self._usage)})
        return [usage, DONE] if self._wants_usage else [DONE]

    def fail(self, status: int, message: str) -> list[bytes]:
        """The error as an event, the last one."""
        kind = UpstreamTimeout if status == UpstreamTimeout.status else UpstreamFailed
        return [error_event(kind(message).value())]

    def _start(self, index: int, block: dict[str, Any]) -> list[bytes]:
        if block.get("type") != "tool_use":
            text, thought = block.get("text"), block.get("thinking")
            delta = {"content": text} if text else {"reasoning_content": thought} if thought else None
            return [self._chunk(delta)] if delta else []
        call = self._calls[index] = _Call(len(self._calls), inner(block, "input"))
        function = {"name": block.get("name") or "", "arguments": ""}
        return [self._tool_chunk(call, id=block.get("id") or "", type="function", function=function)]

    def _delta(self, index: int, delta: dict[str, Any]) -> list[bytes]:
        if texts := _TEXTS.get(str(delta.get("type"))):
            key, ours = texts
            return [self._chunk({ours: delta[key]})] if delta.get(key) else []
        call, fragment = self._calls.get(index), delta.get("partial_json")
        if call is None or not fragment:
            return []
        call.has_arguments = True
        return [self._tool_chunk(call, function={"arguments": fragment})]

    def _stop(self, index: int) -> list[bytes]:
        """Arguments that did not come in pieces; an empty text would be no JSON to the client."""
        call = self._calls.get(index)
        if call is None or call.has_arguments:
            return []
        return [self._tool_chunk(call, function={"arguments": orjson.dumps(call.given).decode()})]

    def _tool_chunk(self, call: _Call, **fields: Any) -> bytes:
        return self._chunk({"tool_calls": [{"index": call.index, **fields}]})

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._event({**self._head, "choices": [choice]})

    def _event(self, value: dict[str, Any]) -> bytes:
        return b"data: " + orjson.dumps(value) + b"\n\n"


def _usage(usage: Usage) -> dict[str, Any]:
    """`usage` as chat completions write it."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }
