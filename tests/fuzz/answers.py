"""What upstreams answer, read and translated: figures are numbers, events are whole, and nothing else is raised than
`UpstreamFailed` for a whole answer that cannot be said in the caller's format."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from random import Random
from typing import Any

import orjson

from gateway.app import SURFACES
from gateway.ledger.records import Usage
from gateway.surfaces.common import Asked
from gateway.wire import chat, messages, responses
from gateway.wire.base import Translation, Wire
from gateway.wire.errors import UpstreamFailed
from gateway.wire.fields import answered
from gateway.wire.sse import data_of
from tests.fakes import GOOD_BODY, GOOD_STREAM
from tests.fuzz import mutate
from tests.fuzz.base import FuzzTarget, must
from tests.gateway.surfaces.rich_bodies import BODIES, CALL
from tests.gateway.surfaces.test_any_body import TARGETS as ASKED

WIRES: dict[str, Wire] = {"chat": chat, "messages": messages, "responses": responses}
_CHAT_USAGE = {
    "prompt_tokens": 7,
    "completion_tokens": 2,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 1},
    "completion_tokens_details": {"reasoning_tokens": 1, "audio_tokens": 0},
}
_MESSAGES_USAGE = {
    "input_tokens": 7,
    "output_tokens": 2,
    "cache_read_input_tokens": 3,
    "cache_creation_input_tokens": 2,
    "cache_creation": {"ephemeral_5m_input_tokens": 1, "ephemeral_1h_input_tokens": 1},
    "server_tool_use": {"web_search_requests": 1},
}
_RESPONSES_USAGE = {
    "input_tokens": 7,
    "output_tokens": 2,
    "total_tokens": 9,
    "input_tokens_details": {"cached_tokens": 3},
    "output_tokens_details": {"reasoning_tokens": 1},
}
_TOOL_DELTA = {"tool_calls": [{"index": 0, **CALL}], "reasoning_content": "hm"}
_LOGPROB = {"token": "Hel", "logprob": -0.5, "bytes": [72, 101, 108]}
_LOGPROBS = {"content": [_LOGPROB | {"top_logprobs": [_LOGPROB]}], "refusal": None}
_ITEM = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hello", "annotations": []}],
}
_RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [_ITEM],
    "usage": _RESPONSES_USAGE,
    "incomplete_details": {"reason": "max_output_tokens"},
}
_MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": _MESSAGES_USAGE,
}


def _chunk(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": _LOGPROBS, "finish_reason": finish_reason}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }


def _block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


_EVENTS: dict[str, list[dict[str, Any]]] = {
    "chat": [
        *(orjson.loads(data) for event in GOOD_STREAM[:-1] if (data := data_of(event))),
        _chunk({"content": "Hel"}),
        _chunk(_TOOL_DELTA),
        _chunk({}, "tool_calls") | {"usage": _CHAT_USAGE},
        {"error": {"message": "no luck", "type": "server_error", "param": None, "code": 500}},
    ],
    "messages": [
        {"type": "message_start", "message": _MESSAGE | {"content": [], "stop_reason": None}},
        *_block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "hm"}),
        *_block(1, {"type": "text", "text": ""}, {"type": "text_delta", "text": "Hello"}),
        *_block(
            2,
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
            {"type": "input_json_delta", "partial_json": '{"city": '},
            {"type": "input_json_delta", "partial_json": '"Paris"}'},
        ),
        {"type": "ping"},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": _MESSAGES_USAGE},
        {"type": "message_stop"},
        {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}},
    ],
    "responses": [
        {"type": "response.created", "sequence_number": 0, "response": _RESPONSE | {"status": "in_progress"}},
        {"type": "response.output_item.added", "output_index": 0, "item": _ITEM},
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "Hello"},
        {"type": "response.output_item.done", "output_index": 0, "item": _ITEM},
        {"type": "response.completed", "response": _RESPONSE},
        {"type": "response.failed", "response": _RESPONSE | {"error": {"code": "x", "message": "no"}}},
        {"type": "error", "code": "x", "message": "no"},
    ],
}
_WHOLE: dict[str, list[dict[str, Any]]] = {
    "chat": [
        GOOD_BODY,
        GOOD_BODY
        | {
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
                    "logprobs": _LOGPROBS,
                    "finish_reason": "tool_calls",
                }
            ],
            "usage": _CHAT_USAGE,
        },
    ],
    "messages": [_MESSAGE],
    "responses": [_RESPONSE],
}
EVENTS = {name: orjson.dumps(values) for name, values in _EVENTS.items()}
WHOLE = {name: orjson.dumps(values) for name, values in _WHOLE.items()}


def _translation(path: str, target: str) -> Translation:
    body = {key: value for key, value in BODIES[path].items() if key not in ("n", "logprobs")}
    form = SURFACES[path].call_of(Asked(path, {}, orjson.dumps(body), body, "web")).form_for(ASKED[target])
    assert form.translation is not None
    return form.translation


# How answers of each format reach callers of the others.
TRANSLATIONS: dict[str, tuple[Translation, ...]] = {
    "chat": (_translation("/v1/messages", "chat"), _translation("/v1/responses", "chat")),
    "messages": (_translation("/v1/chat/completions", "claude"), _translation("/v1/responses", "claude")),
    "responses": (),
}
Given = tuple[str, bool, list[dict[str, Any]]]


def make(chance: Random) -> Given:
    """The format, whether it is a stream, and its events or whole answers."""
    name, is_stream = chance.choice(tuple(WIRES)), chance.random() < 0.6
    values = orjson.loads((EVENTS if is_stream else WHOLE)[name])
    other = orjson.loads(EVENTS[chance.choice(tuple(WIRES))])
    spoiled = mutate.tree(chance, values, other, times=4)
    return name, is_stream, [value for value in spoiled if isinstance(value, dict)]


def take(given: Given) -> None:
    name, is_stream, values = given
    if is_stream:
        _take_stream(WIRES[name], TRANSLATIONS[name], values)
    else:
        for value in values:
            if (body := answered(mutate.json_of(value))) is not None:
                _take_whole(WIRES[name], TRANSLATIONS[name], body)


def _take_whole(wire: Wire, translations: Iterable[Translation], value: dict[str, Any]) -> None:
    _check_figures(wire.usage_of(value), wire.finish_reason_of(value))
    for translation in translations:
        with suppress(UpstreamFailed):
            orjson.dumps(translation.whole(value))


def _take_stream(wire: Wire, translations: Iterable[Translation], values: list[dict[str, Any]]) -> None:
    pieces = []
    for value in values:
        event = b"data: " + mutate.json_of(value) + b"\n\n"
        wire.plain_bytes(event)
        pieces.append(wire.read_event(event))
        _check_figures(pieces[-1].usage, pieces[-1].finish_reason)
    for translation in translations:
        translator = translation.stream()
        for piece in pieces:
            if piece.value is not None and not piece.is_error:
                _check_events(translator.feed(piece.value))
        _check_events(translator.finish())


def _check_figures(usage: Usage | None, finish_reason: object) -> None:
    must(isinstance(finish_reason, str | None), f"a finish reason {finish_reason!r}")
    if usage is not None:
        counts = asdict(usage)
        apart = counts.pop("apart") or {}
        for name, count in (counts | apart).items():
            must(type(count) is int and 0 <= count < 2**63, f"{name} is {count!r}")


def _check_events(events: list[bytes]) -> None:
    for event in events:
        must(event.endswith(b"\n\n"), "an event without its end")


TARGETS = (FuzzTarget("upstreams' answers", 0.13, make, take),)
