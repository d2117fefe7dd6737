"""`POST /v1/messages`: from a request of Anthropic's Messages API to a `Call`.

A target that speaks it gets the caller's bytes and beta headers; a chat target gets a translation. Errors have
Anthropic's shape, before a stream and in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

import orjson

from gateway.dispatch.call import Call, ErrorForm, Form
from gateway.surfaces.common import (
    BYTES_PER_TOKEN,
    TOKENS_PER_MESSAGE,
    Asked,
    body_for,
    check,
    encoded,
    fingerprint,
    has_image,
    json_bytes,
    limit_of,
    passed_headers,
    query_of,
    refuse_dropped,
    text_bytes,
    value_for,
)
from gateway.surfaces.json_answers import is_valid
from gateway.telemetry.trace_context import TRACE_HEADERS
from gateway.wire import chat, chat_as_messages, messages, messages_over_chat
from gateway.wire.errors import BadRequest, GatewayError
from gateway.wire.paths import CHAT, MESSAGES, RESPONSES
from router.catalog import Target
from router.query import Query

ANTHROPIC_HEADERS = (*TRACE_HEADERS, "anthropic-version", "anthropic-beta")
SERVER_TOOLS = ("web_search_", "web_fetch_", "code_execution_", "tool_search_", "advisor_")

ERRORS = ErrorForm(
    body=lambda error: orjson.dumps(_value(error)), event=lambda error: messages.event(_value(error))
)


def _value(error: GatewayError) -> dict[str, Any]:
    return messages.error_value(error.status, error.message)


def call_of(asked: Asked) -> Call:
    """Raises `BadRequest` for what no upstream could make sense of."""
    body = asked.body
    check(body)
    listed = body.get("messages")
    if not isinstance(listed, list) or not listed or not all(isinstance(turn, dict) for turn in listed):
        raise BadRequest("'messages' must be a non-empty list of objects", param="messages")
    return Call(
        query=_query(asked, listed),
        form_for=_Forms(asked),
        errors=ERRORS,
        is_repeatable=not _has_server_tools(body),
        fingerprint=lambda: fingerprint(asked),
        history=listed,
        is_valid_json=partial(is_valid, asked.path, body),
    )


def _query(asked: Asked, listed: list[dict[str, Any]]) -> Query:
    body = asked.body
    contents = [turn.get("content") for turn in listed]
    size = text_bytes([contents, body.get("system")]) + json_bytes(body.get("tools"))
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    results = [block.get("content") for block in blocks if isinstance(block, dict)]
    return query_of(
        asked,
        input_tokens=size // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(listed),
        max_output_tokens=limit_of(body.get("max_tokens")),
        message_count=len(listed),
        has_tools=bool(body.get("tools")),
        has_tool_messages=any(_type(block) in ("tool_use", "tool_result") for block in blocks),
        has_images=any(map(has_image, contents + results)),
        wants_json=isinstance(body.get("output_config"), dict) and "format" in body["output_config"],
    )


def _type(block: Any) -> Any:
    return block.get("type") if isinstance(block, dict) else None


def _has_server_tools(body: dict[str, Any]) -> bool:
    """Tools that the provider runs itself: their effects must not happen twice."""
    tools = body.get("tools")
    named = [str(_type(tool)) for tool in tools] if isinstance(tools, list) else []
    return bool(body.get("mcp_servers")) or any(name.startswith(SERVER_TOOLS) for name in named)


@dataclass(frozen=True, slots=True)
class _Forms:
    """The call as each target is to get it."""

    asked: Asked

    def __call__(self, target: Target) -> Form:
        asked = self.asked
        if MESSAGES in target.native:
            headers = messages.VERSION_HEADER | passed_headers(asked.headers, ANTHROPIC_HEADERS)
            return Form(asked.native_path, _native_body(asked, target), messages, headers)
        is_ours = target.kind in ("engine", "vllm", "sglang")
        is_new = is_ours or RESPONSES in target.native  # OpenAI's newest models refuse `max_tokens`
        body, dropped = messages_over_chat.request(
            value_for(asked, target),
            limit_name="max_completion_tokens" if is_new else "max_tokens",
            extensions=("top_k",) if is_ours else (),
        )
        refuse_dropped(target.refuses_unsupported, dropped, target.name)
        translation = _FromChat(asked.body, f"msg_{uuid4().hex}")
        return Form(CHAT, encoded(body), chat, passed_headers(asked.headers), translation)


def _native_body(asked: Asked, target: Target) -> bytes:
    """The caller's bytes, unless a turn holds thinking that another target gave and Anthropic would refuse."""
    kept = messages.without_unsigned_thinking(asked.body)
    if kept == asked.body:
        return body_for(asked, target, asks_usage=False)
    return encoded(value_for(replace(asked, body=kept), target))


@dataclass(frozen=True, slots=True)
class _FromChat:
    """A chat target's answer, as a message."""

    body: dict[str, Any]
    message_id: str

    def whole(self, value: dict[str, Any]) -> dict[str, Any]:
        return chat_as_messages.response(value, self.message_id, self.body["model"], self._stops())

    def stream(self) -> chat_as_messages.StreamTranslator:
        return chat_as_messages.StreamTranslator(self.message_id, self.body["model"], self._stops())

    def _stops(self) -> list[str]:
        stops = self.body.get("stop_sequences")
        return [stop for stop in stops if isinstance(stop, str)] if isinstance(stops, list) else []
