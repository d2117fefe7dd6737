"""`POST /v1/chat/completions` and `/v1/completions`: from an OpenAI request to a `Call`.

Targets that speak it get the caller's bytes; a target that speaks Anthropic's Messages gets a translation. Only what
routing needs is looked at.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.dispatch.call import Call, Form
from gateway.surfaces.common import (
    BYTES_PER_TOKEN,
    OPENAI_ERRORS,
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
from gateway.wire import chat, chat_over_messages, messages, messages_as_chat
from gateway.wire.errors import BadRequest
from router.catalog import Target
from router.query import Query

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
MESSAGES = "/v1/messages"
DEFAULT_MAX_TOKENS = 8192  # Messages requires a limit; chat does not
_THINKS_BY_BUDGET = re.compile(r"claude-(?:3|(?:opus|sonnet|haiku)-4(?:-[0-5])?(?:-20\d{6})?$)")


def call_of(asked: Asked) -> Call:
    """Raises `BadRequest` for what no upstream could make sense of."""
    body = asked.body
    _check(asked)
    metadata = metadata_of(body)
    options = body.get("stream_options")
    wants_usage = isinstance(options, dict) and options.get("include_usage") is True
    return Call(
        query=_query(asked, metadata, settings_of(asked.headers, metadata)),
        form_for=_Forms(asked, body.get("stream") is True and not wants_usage, wants_usage),
        errors=OPENAI_ERRORS,
        wants_usage=wants_usage,
        fingerprint=fingerprint(asked),
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


def _query(asked: Asked, metadata: Mapping[str, str], settings: Settings) -> Query:
    body = asked.body
    listed = body["messages"] if asked.path == CHAT else ()
    size = text_bytes([message.get("content") for message in listed] if listed else body.get("prompt"))
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
        max_output_tokens=limit_of(body.get("max_completion_tokens"), body.get("max_tokens")),
        temperature=number(body.get("temperature")),
        message_count=len(listed),
        has_tools=bool(body.get("tools") or body.get("functions")),
        has_tool_messages=any(m["role"] in ("tool", "function") or m.get("tool_calls") for m in listed),
        has_images=any(has_image(message.get("content")) for message in listed),
        wants_json=_wants_json(body.get("response_format")),
        slo_ttft_s=settings.slo_ttft_s,
        slo_tpot_s=settings.slo_tpot_s,
        deadline_s=settings.deadline_s,
    )


def _wants_json(response_format: Any) -> bool:
    return isinstance(response_format, dict) and response_format.get("type") in ("json_object", "json_schema")


@dataclass(frozen=True, slots=True)
class _Forms:
    """The call as each target is to get it."""

    asked: Asked
    asks_usage: bool  # for ourselves
    wants_usage: bool

    def __call__(self, target: Target) -> Form:
        asked, headers = self.asked, passed_headers(self.asked.headers)
        if asked.path in target.native:
            return Form(asked.path, body_for(asked, target, asks_usage=self.asks_usage), chat, headers)
        if MESSAGES not in target.native or asked.path != CHAT:
            raise BadRequest(f"target '{target.name}' does not serve {asked.path}", param="model")
        body, dropped = chat_over_messages.request(
            value_for(asked, target),
            default_max_tokens=DEFAULT_MAX_TOKENS,
            thinking="budget" if _THINKS_BY_BUDGET.search(target.model) else "adaptive",
        )
        refuse_dropped(target.refuses_unsupported, dropped, target.name)
        translation = _FromMessages(target.model, self.wants_usage)
        return Form(MESSAGES, orjson.dumps(body), messages, headers, translation)


@dataclass(frozen=True, slots=True)
class _FromMessages:
    """A Messages target's answer, as chat completions."""

    model: str
    wants_usage: bool

    def whole(self, value: dict[str, Any]) -> dict[str, Any]:
        return messages_as_chat.response(value, self.model, int(time.time()))

    def stream(self) -> messages_as_chat.StreamTranslator:
        return messages_as_chat.StreamTranslator(self.model, int(time.time()), self.wants_usage)
