"""Whether an answer is the JSON that was asked for: of every API, whole and as a stream; and of hostile schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.surfaces.json_answers import is_valid
from gateway.wire.paths import CHAT, COMPLETIONS, MESSAGES, RESPONSES

SCHEMA: dict[str, Any] = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
GOOD, BAD, BROKEN = '{"n": 1}', '{"n": "one"}', '{"n": 1'


def request(path: str, schema: Any) -> dict[str, Any]:
    if path == RESPONSES:
        return {"text": {"format": {"type": "json_schema", "name": "x", "schema": schema}}}
    if path == MESSAGES:
        return {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


def whole(path: str, said: str) -> bytes:
    values: dict[str, Any] = {
        CHAT: {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]},
        COMPLETIONS: {"choices": [{"index": 0, "text": said}]},
        MESSAGES: {
            "type": "message",
            "content": [{"type": "thinking", "thinking": "?"}, {"type": "text", "text": said}],
        },
        RESPONSES: {"object": "response", "output": [{"type": "reasoning"}, _message(said)]},
    }
    return json.dumps(values[path]).encode()


def streamed(path: str, said: str) -> bytes:
    halves = said[:3], said[3:]
    values: dict[str, list[Any]] = {
        CHAT: [{"choices": [{"index": 0, "delta": {"content": half}}]} for half in halves],
        COMPLETIONS: [{"choices": [{"index": 0, "text": half}]} for half in halves],
        MESSAGES: [
            {"type": "message_start", "message": {"content": []}},
            *(
                {"type": "content_block_delta", "delta": {"type": "text_delta", "text": half}}
                for half in halves
            ),
        ],
        RESPONSES: [
            {"type": "response.created", "response": {"output": []}},
            {"type": "response.output_text.delta", "delta": said},
            {"type": "response.completed", "response": {"output": [_message(said)]}},
        ],
    }
    return (
        b"".join(b"data: %b\n\n" % json.dumps(value).encode() for value in values[path]) + b"data: [DONE]\n\n"
    )


def _message(said: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": said}]}


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES, RESPONSES])
@pytest.mark.parametrize("form", [whole, streamed])
def test_an_answer_has_to_be_json_that_fits_the_schema(path: str, form: Any) -> None:
    body = request(path, SCHEMA)
    assert [is_valid(path, body, form(path, said)) for said in (GOOD, BAD, BROKEN)] == [True, False, False]
    assert [is_valid(path, {}, form(path, said)) for said in (GOOD, BAD, BROKEN)] == [True, True, False]


def test_every_choice_counts() -> None:
    choices = [{"index": i, "message": {"content": said}} for i, said in enumerate((GOOD, BAD))]
    assert not is_valid(CHAT, request(CHAT, SCHEMA), json.dumps({"choices": choices}).encode())
    assert not is_valid(CHAT, {}, b'{"choices": []}')
    assert not is_valid(CHAT, {}, b'{"choices": [{"index": 0, "message": {"content": null}}]}')


def test_an_answer_in_parts_or_of_odd_types_is_read() -> None:
    parts = [{"type": "thinking"}, {"type": "text", "text": GOOD[:3]}, {"type": "text", "text": GOOD[3:]}]
    assert is_valid(CHAT, {}, json.dumps({"choices": [{"message": {"content": parts}}]}).encode())
    odd = {"choices": [{"index": [0], "message": {"content": 5}}, {"text": {}}]}
    assert not is_valid(CHAT, {}, json.dumps(odd).encode())


DOUBLING = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(60)} | {"d60": {}}


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/d0", "$defs": DOUBLING},  # 2^60 steps
        {"properties": {"n": {"pattern": "(a+)+$"}}, "patternProperties": {"(.*)*$": False}},
        {"$ref": "http://127.0.0.1:1/never-fetched"},
        {"type": "no such type"},
        {"$ref": "#"},  # without end
        {"properties": 5},
        "no schema",
    ],
)
def test_a_schema_that_cannot_be_judged_lets_json_pass(schema: Any) -> None:
    said = json.dumps({"n": "a" * 60 + "!"})
    assert is_valid(CHAT, request(CHAT, schema), whole(CHAT, said))
    assert not is_valid(CHAT, request(CHAT, schema), whole(CHAT, BROKEN))
