"""`POST /v1/responses`: from a request of OpenAI's Responses API to a `Call`.

A target that speaks it gets the caller's bytes; a chat target, or one that speaks Anthropic's Messages, gets a
translation and keeps no state: what needs state is refused for it.
"""

from __future__ import annotations

import time
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
from gateway.wire import chat, responses, responses_over_chat
from gateway.wire.errors import BadRequest
from gateway.wire.responses_from_chat import StreamTranslator, response
from router.catalog import Target
from router.query import Query

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
OUTSIDE = ("previous_response_id", "conversation", "prompt", "background")  # more than the body counts
OWN_TOOLS = ("function", "custom")  # all others are run by the provider

ERRORS = ErrorForm(
    body=lambda error: orjson.dumps(error.value()),
    event=lambda error: responses.error_event(error.message, error.code, error.param),
)


def call_of(asked: Asked) -> Call:
    """Raises `BadRequest` for what no upstream could make sense of."""
    body = asked.body
    check(body)
    given = body.get("input")
    if given is not None and not isinstance(given, str | list):
        raise BadRequest("'input' must be a text or a list of items", param="input")
    items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    metadata = metadata_of(body)
    return Call(
        query=_query(asked, items, metadata, settings_of(asked.headers, metadata)),
        form_for=_Forms(asked),
        errors=ERRORS,
        is_repeatable=not (_has_hosted_tools(body.get("tools")) or body.get("background")),
        fingerprint=None if any(map(body.get, OUTSIDE)) else fingerprint(asked),
    )


def _query(
    asked: Asked, items: list[dict[str, Any]], metadata: Mapping[str, str], settings: Settings
) -> Query:
    body = asked.body
    size = text_bytes(body.get("input")) + text_bytes(body.get("instructions"))
    text = body.get("text")
    text_format = text.get("format") if isinstance(text, dict) else None
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
        input_tokens=size // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * max(1, len(items)),
        max_output_tokens=limit_of(body.get("max_output_tokens")),
        temperature=number(body.get("temperature")),
        message_count=max(1, len(items)),
        has_tools=bool(body.get("tools")),
        has_tool_messages=any(
            str(item.get("type")).startswith(("function_call", "custom_tool")) for item in items
        ),
        has_images=any(has_image(item.get(key)) for item in items for key in ("content", "output")),
        wants_json=isinstance(text_format, dict)
        and text_format.get("type") in ("json_object", "json_schema"),
        slo_ttft_s=settings.slo_ttft_s,
        slo_tpot_s=settings.slo_tpot_s,
        deadline_s=settings.deadline_s,
    )


def _parts(content: Any) -> list[dict[str, Any]]:
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def _has_hosted_tools(tools: Any) -> bool:
    """Tools that the provider runs itself: their effects must not happen twice."""
    return any(tool.get("type") not in OWN_TOOLS for tool in _parts(tools))


@dataclass(frozen=True, slots=True)
class _Forms:
    """The call as each target is to get it."""

    asked: Asked

    def __call__(self, target: Target) -> Form:
        asked, headers = self.asked, passed_headers(self.asked.headers)
        if asked.path in target.native:
            return Form(asked.path, body_for(asked, target, asks_usage=False), responses, headers)
        if CHAT not in target.native:
            raise BadRequest(
                f"target '{target.name}' speaks neither Responses nor chat completions", param="model"
            )
        body, dropped = responses_over_chat.request(value_for(asked, target))
        refuse_dropped(target.refuses_unsupported, dropped, target.name)
        translation = _FromChat(asked.body, f"resp_{uuid4().hex}", int(time.time()))
        return Form(CHAT, orjson.dumps(body), chat, headers, translation)


@dataclass(frozen=True, slots=True)
class _FromChat:
    """A chat target's answer, as a response."""

    body: dict[str, Any]
    response_id: str
    created_at: int

    def whole(self, value: dict[str, Any]) -> dict[str, Any]:
        return response(value, self.body, self.response_id, self.created_at)

    def stream(self) -> StreamTranslator:
        return StreamTranslator(self.body, self.response_id, self.created_at)
