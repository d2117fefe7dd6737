"""`POST /v1/responses`: from a request of OpenAI's Responses API to a `Call`.

A target that speaks it gets the caller's bytes, and a response that goes on from another goes where that one came
from. A chat target, or one that speaks Anthropic's Messages, gets a translation and keeps no state: what needs state
is refused for it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import orjson

from gateway.dispatch.call import Call, ErrorForm, Form
from gateway.ledger.records import Usage
from gateway.surfaces.chat import FromMessages, over_messages
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
from gateway.surfaces.homes import ResponseHomes
from gateway.surfaces.json_answers import is_valid
from gateway.wire import chat, messages, responses, responses_from_chat, responses_over_chat
from gateway.wire.base import StreamTranslator, Translation
from gateway.wire.chat import Piece
from gateway.wire.errors import BadRequest, NotFound
from gateway.wire.paths import CHAT, MESSAGES
from router.catalog import Target
from router.query import Query

OUTSIDE = ("previous_response_id", "conversation", "prompt", "background")  # more than the body counts
OWN_TOOLS = ("function", "custom")  # all others are run by the provider

ERRORS = ErrorForm(
    body=lambda error: orjson.dumps(error.value()),
    event=lambda error: responses.error_event(error.message, error.code, error.param),
)


async def recall(asked: Asked) -> None:
    """Finds out where the response is that this call goes on from, before `call_of` reads it.

    Raises `NotFound` for one that is not the caller's, and what `ResponseHomes.find` raises.
    """
    previous = asked.body.get("previous_response_id")
    if not (isinstance(previous, str) and previous and asked.homes.has_keepers):
        return
    if await asked.homes.find(previous, asked.caller) is None:
        raise NotFound(
            f"Previous response with id '{previous}' not found.",
            code="previous_response_not_found",
            param="previous_response_id",
        )


def call_of(asked: Asked) -> Call:
    """Raises `BadRequest` for what no upstream could make sense of."""
    body = asked.body
    check(body)
    given = body.get("input")
    if given is not None and not isinstance(given, str | list):
        raise BadRequest("'input' must be a text or a list of items", param="input")
    if not isinstance(body.get("previous_response_id"), str | None):
        raise BadRequest("'previous_response_id' must be a text", param="previous_response_id")
    items = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    return Call(
        query=_query(asked, items),
        form_for=_Forms(asked),
        errors=ERRORS,
        is_repeatable=not (_has_hosted_tools(body.get("tools")) or body.get("background")),
        keeps_state=body.get("store") is not False or any(map(body.get, OUTSIDE)),
        fingerprint=lambda: None if any(map(body.get, OUTSIDE)) else fingerprint(asked),
        history=[{"role": "user", "content": given}] if isinstance(given, str) else given or (),
        goes_on_from=body.get("previous_response_id") or _conversation(body),
        is_valid_json=partial(is_valid, asked.path, body),
    )


def _conversation(body: dict[str, Any]) -> str | None:
    """Its id, of a conversation that the provider keeps."""
    named = body.get("conversation")
    named = named.get("id") if isinstance(named, dict) else named
    return named if isinstance(named, str) else None


def _query(asked: Asked, items: list[dict[str, Any]]) -> Query:
    body = asked.body
    size = text_bytes([body.get("input"), body.get("instructions")]) + json_bytes(body.get("tools"))
    text, previous = body.get("text"), body.get("previous_response_id")
    text_format = text.get("format") if isinstance(text, dict) else None
    return query_of(
        asked,
        target=asked.homes.of(previous, asked.caller) if previous else None,
        input_tokens=size // BYTES_PER_TOKEN + TOKENS_PER_MESSAGE * max(1, len(items)),
        max_output_tokens=limit_of(body.get("max_output_tokens")),
        message_count=max(1, len(items)),
        has_tools=bool(body.get("tools")),
        has_tool_messages=any(
            str(item.get("type")).startswith(("function_call", "custom_tool")) for item in items
        ),
        has_images=any(has_image(item.get(key)) for item in items for key in ("content", "output")),
        wants_json=isinstance(text_format, dict)
        and text_format.get("type") in ("json_object", "json_schema"),
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
            body = body_for(asked, target, asks_usage=False)
            return Form(asked.native_path, body, _Noting(asked.homes, target.name, asked.caller), headers)
        said, dropped = responses_over_chat.request(value_for(asked, target))
        translation = _FromChat(asked.body, f"resp_{uuid4().hex}", int(time.time()))
        if CHAT in target.native:
            refuse_dropped(target.refuses_unsupported, dropped, target.name)
            return Form(CHAT, encoded(said), chat, headers, translation)
        said, lost = over_messages(said, target)
        refuse_dropped(target.refuses_unsupported, dropped + lost, target.name)
        chain = _ThroughChat(FromMessages(target.model, wants_usage=True), translation)
        return Form(MESSAGES, encoded(said), messages, messages.VERSION_HEADER | headers, chain)


@dataclass(frozen=True, slots=True)
class _Noting:
    """The format as it is, noting which target gave a response: what is read of one passes here."""

    homes: ResponseHomes
    target: str
    caller: str

    def plain_bytes(self, data: bytes) -> int:
        return responses.plain_bytes(data)

    def read_event(self, event: bytes) -> Piece:
        piece = responses.read_event(event)
        if piece.value is not None:
            self._note(piece.value)
        return piece

    def usage_of(self, value: dict[str, Any]) -> Usage | None:
        self._note(value)
        return responses.usage_of(value)

    def finish_reason_of(self, body: dict[str, Any]) -> str | None:
        return responses.finish_reason_of(body)

    def _note(self, value: dict[str, Any]) -> None:
        is_stored = value.get("object") == "response" and value.get("store") is not False
        if is_stored and isinstance(value.get("id"), str):
            self.homes.keep(value["id"], self.target, self.caller)


@dataclass(frozen=True, slots=True)
class _FromChat:
    """A chat target's answer, as a response."""

    body: dict[str, Any]
    response_id: str
    created_at: int

    def whole(self, value: dict[str, Any]) -> dict[str, Any]:
        return responses_from_chat.response(value, self.body, self.response_id, self.created_at)

    def stream(self) -> responses_from_chat.StreamTranslator:
        return responses_from_chat.StreamTranslator(self.body, self.response_id, self.created_at)


@dataclass(frozen=True, slots=True)
class _ThroughChat:
    """A Messages target's answer as chat completions, and those as a response."""

    to_chat: Translation
    to_response: Translation

    def whole(self, value: dict[str, Any]) -> dict[str, Any]:
        return self.to_response.whole(self.to_chat.whole(value))

    def stream(self) -> _StreamThroughChat:
        return _StreamThroughChat(self.to_chat.stream(), self.to_response.stream())


@dataclass(frozen=True, slots=True)
class _StreamThroughChat:
    to_chat: StreamTranslator
    to_response: StreamTranslator

    def feed(self, value: dict[str, Any]) -> list[bytes]:
        return self._onwards(self.to_chat.feed(value))

    def finish(self) -> list[bytes]:
        return [*self._onwards(self.to_chat.finish()), *self.to_response.finish()]

    def fail(self, status: int, message: str) -> list[bytes]:
        return self.to_response.fail(status, message)

    def _onwards(self, events: list[bytes]) -> list[bytes]:
        chunks = [chat.read_event(event).value for event in events]
        return [said for chunk in chunks if chunk is not None for said in self.to_response.feed(chunk)]
