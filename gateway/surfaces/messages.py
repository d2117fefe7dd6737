"""`POST /v1/messages`: from a request of Anthropic's Messages API to a `Call`.

A target that speaks it gets the caller's bytes and beta headers; a chat target gets a translation. Errors have
Anthropic's shape, before a stream and in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson

from gateway.dispatch.call import Call, ErrorForm, Form
from gateway.surfaces.common import (
    BYTES_PER_TOKEN,
    TOKENS_PER_MESSAGE,
    Asked,
    Settings,
    body_for,
    check,
    fingerprint,
    has_image,
    limit_of,
    metadata_of,
    number,
    passed_headers,
    refuse_dropped,
    settings_of,
    text_bytes,
    value_for,
)
from gateway.wire import chat, chat_as_messages, messages, messages_over_chat
from gateway.wire.errors import BadRequest, GatewayError
from router.catalog import Target
from router.query import Query

CHAT = "/v1/chat/completions"
MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"  # who speaks it is up to date with OpenAI: its newest models refuse `max_tokens`
COUNT_TOKENS = "/v1/messages/count_tokens"
ANTHROPIC_HEADERS = ("traceparent", "tracestate", "anthropic-version", "anthropic-beta")
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
    if not isinstance(listed, list) or not all(isinstance(turn, dict) for turn in listed):
        raise BadRequest("'messages' must be a list of objects", param="messages")
    metadata = metadata_of(body)
    return Call(
        query=_query(asked, listed, metadata, settings_of(asked.headers, metadata)),
        form_for=_Forms(asked),
        errors=ERRORS,
        is_repeatable=not _has_server_tools(body),
        fingerprint=fingerprint(asked),
    )


def _query(
    asked: Asked, listed: list[dict[str, Any]], metadata: Mapping[str, str], settings: Settings
) -> Query:
    body = asked.body
    contents = [turn.get("content") for turn in listed]
    size = text_bytes(contents) + text_bytes(body.get("system"))
    blocks = [block for content in contents if isinstance(content, list) for block in content]
    return Query(
        endpoint=asked.path,
        model=body["model"],
        caller=asked.caller,
        stream=body.get("stream") is True,
        headers=asked.headers,
        metadata=metadata,
        workflow=settings.workflow,
        task_id=settings.task_id,
        declared_shape=settings.shape,
        input_tokens=size // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(listed),
        max_output_tokens=limit_of(body.get("max_tokens")),
        temperature=number(body.get("temperature")),
        message_count=len(listed),
        has_tools=bool(body.get("tools")),
        has_tool_messages=any(_type(block) in ("tool_use", "tool_result") for block in blocks),
        has_images=any(map(has_image, contents)),
        wants_json=isinstance(body.get("output_config"), dict) and "format" in body["output_config"],
        slo_ttft_s=settings.slo_ttft_s,
        slo_tpot_s=settings.slo_tpot_s,
        deadline_s=settings.deadline_s,
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
            headers = passed_headers(asked.headers, ANTHROPIC_HEADERS)
            return Form(asked.path, _native_body(asked, target), messages, headers)
        is_engine = target.kind == "engine"
        body, dropped = messages_over_chat.request(
            value_for(asked, target),
            limit_name="max_completion_tokens" if is_engine or RESPONSES in target.native else "max_tokens",
            extensions=("top_k",) if is_engine else (),
        )
        refuse_dropped(target.refuses_unsupported, dropped, target.name)
        translation = _FromChat(asked.body, f"msg_{uuid4().hex}")
        return Form(CHAT, orjson.dumps(body), chat, passed_headers(asked.headers), translation)


def _native_body(asked: Asked, target: Target) -> bytes:
    """The caller's bytes, unless a turn holds thinking that another target gave and Anthropic would refuse."""
    kept = messages.without_unsigned_thinking(asked.body)
    if kept == asked.body:
        return body_for(asked, target, asks_usage=False)
    return orjson.dumps(value_for(Asked(asked.path, asked.headers, b"", kept, asked.caller), target))


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
