"""`POST /v1/chat/completions` and `/v1/completions`: from an OpenAI request to a `Call`.

Targets that speak it get the caller's bytes; a target that speaks Anthropic's Messages gets a translation. Only what
routing needs is looked at.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.dispatch.call import Call, Form
from gateway.surfaces.common import (
    BYTES_PER_TOKEN,
    OPENAI_ERRORS,
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
from gateway.wire import chat, chat_over_messages, messages, messages_as_chat
from gateway.wire.errors import BadRequest
from gateway.wire.paths import CHAT, COMPLETIONS, MESSAGES
from router.catalog import Target
from router.query import Query

DEFAULT_MAX_TOKENS = 8192  # Messages requires a limit; chat does not
_THINKS_BY_BUDGET = re.compile(r"claude-(?:3|(?:opus|sonnet|haiku)-4(?:-[0-5])?(?:-20\d{6})?$)")


def call_of(asked: Asked) -> Call:
    """Raises `BadRequest` for what no upstream could make sense of."""
    body = asked.body
    _check(asked)
    options = body.get("stream_options")
    wants_usage = isinstance(options, dict) and options.get("include_usage") is True
    return Call(
        query=_query(asked),
        form_for=_Forms(asked, body.get("stream") is True and not wants_usage, wants_usage),
        errors=OPENAI_ERRORS,
        wants_usage=wants_usage,
        keeps_state=body.get("store") is True,
        fingerprint=lambda: fingerprint(asked),
        history=body["messages"] if asked.path == CHAT else (),
        is_valid_json=partial(is_valid, asked.path, body),
    )


def _check(asked: Asked) -> None:
    body = asked.body
    check(body)
    if asked.path == COMPLETIONS:
        if "prompt" not in body:
            raise BadRequest("'prompt' is missing", param="prompt")
        return
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("'messages' must be a non-empty list", param="messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequest(f"messages[{index}] must be an object with a 'role'", param=f"messages[{index}]")


def _query(asked: Asked) -> Query:
    body = asked.body
    listed: list[dict[str, Any]] = body["messages"] if asked.path == CHAT else []
    has_tool_messages = has_images = False
    size = 0
    for message in listed:
        content, calls = message.get("content"), message.get("tool_calls")
        size += text_bytes(content)
        if calls or message["role"] in ("tool", "function"):
            size += text_bytes(calls)
            has_tool_messages = True
        has_images = has_images or has_image(content)
    tools = body.get("tools") or body.get("functions")
    size += json_bytes(tools) if listed else text_bytes(body.get("prompt"))
    return query_of(
        asked,
        input_tokens=size // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * len(listed),
        max_output_tokens=limit_of(body.get("max_completion_tokens"), body.get("max_tokens")),
        message_count=len(listed),
        has_tools=bool(tools),
        has_tool_messages=has_tool_messages,
        has_images=has_images,
        wants_json=_wants_json(body.get("response_format")),
    )


def _wants_json(response_format: Any) -> bool:
    return isinstance(response_format, dict) and response_format.get("type") in ("json_object", "json_schema")


@dataclass(slots=True)
class _Forms:
    """The call as each target is to get it."""

    asked: Asked
    asks_usage: bool  # for ourselves
    wants_usage: bool

    def __call__(self, target: Target) -> Form:
        asked, headers = self.asked, passed_headers(self.asked.headers)
        if asked.path in target.native:
            return Form(asked.native_path, body_for(asked, target, asks_usage=self.asks_usage), chat, headers)
        if MESSAGES not in target.native or asked.path != CHAT:
            raise BadRequest(f"target '{target.name}' does not serve {asked.path}", param="model")
        body, dropped = over_messages(value_for(asked, target), target)
        refuse_dropped(target.refuses_unsupported, dropped, target.name)
        translation = FromMessages(target.model, self.wants_usage)
        return Form(MESSAGES, encoded(body), messages, messages.VERSION_HEADER | headers, translation)


def over_messages(body: dict[str, Any], target: Target) -> tuple[dict[str, Any], list[str]]:
    """A chat request for a Messages target, and the names of what is lost in it. Raises `BadRequest`."""
    thinking: chat_over_messages.Thinking = "budget" if _THINKS_BY_BUDGET.search(target.model) else "adaptive"
    return chat_over_messages.request(body, default_max_tokens=DEFAULT_MAX_TOKENS, thinking=thinking)


@dataclass(frozen=True, slots=True)
class FromMessages:
    """A Messages target's answer, as chat completions."""

    model: str
    wants_usage: bool

    def whole(self, value: dict[str, Any]) -> dict[str, Any]:
        return messages_as_chat.response(value, self.model, int(time.time()))

    def stream(self) -> messages_as_chat.StreamTranslator:
        return messages_as_chat.StreamTranslator(self.model, int(time.time()), self.wants_usage)
