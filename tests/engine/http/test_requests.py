from __future__ import annotations

import json
from typing import Any

import pytest

from engine.errors import InvalidRequest
from engine.http.requests import MAX_BIASES, SCHEMA_PARAM, read_chat, read_completion

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"model": "m", "prompt": "Hi"}
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


def test_defaults_leave_the_distribution_alone() -> None:
    request = read_chat(CHAT)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, 0, 0.0)
    assert not sampling.has_penalties
    assert sampling.top_logprobs is None
    assert request.max_new_tokens is None
    assert sampling.logit_bias == ()
    assert request.stops == ()
    assert not request.stream
    assert request.json_schema is None
    assert request.speculation == "auto"


def test_requests_without_a_seed_differ() -> None:
    assert read_chat(CHAT).sampling.seed != read_chat(CHAT).sampling.seed


def test_null_means_absent() -> None:
    nulls = dict.fromkeys(["temperature", "stop", "seed", "max_tokens", "n", "stream", "tools", "logprobs"])
    assert read_chat({**CHAT, **nulls}).sampling.temperature == 1.0


def test_every_field_arrives() -> None:
    request = read_chat(
        {
            **CHAT,
            "temperature": 0.5,
            "top_p": 0.9,
            "top_k": 40,
            "min_p": 0.1,
            "presence_penalty": 1,
            "frequency_penalty": -1,
            "repetition_penalty": 1.2,
            "seed": -5,
            "stop": ["a", "b"],
            "max_tokens": 9,
            "max_completion_tokens": 7,
            "logprobs": True,
            "top_logprobs": 3,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
            "min_tokens": 4,
            "stop_token_ids": [3, 9],
            "logit_bias": {"7": -100, "12": 2.5},
            "sparkgate": {"speculation": "static"},
        }
    )
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 40, 0.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (
        1,
        -1,
        1.2,
    )
    assert (sampling.seed, sampling.top_logprobs) == (2**64 - 5, 3)
    assert (request.stops, request.max_new_tokens) == (("a", "b"), 7)
    assert (request.stream, request.include_usage) == (True, True)
    assert (request.ignore_end, request.min_new_tokens) == (True, 4)
    assert request.stop_ids == {3, 9}
    assert sampling.logit_bias == ((7, -100.0), (12, 2.5))
    assert request.speculation == "static"


def test_text_parts_are_joined_and_developers_speak_as_system() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    request = read_chat({"model": "m", "messages": [{"role": "developer", "content": parts}]})
    assert request.messages == [{"role": "system", "content": "one\ntwo"}]


@pytest.mark.parametrize(
    ("prompt", "text", "ids"),
    [
        ("Hi", "Hi", None),
        (["Hi"], "Hi", None),
        ([1, 2], None, [1, 2]),
        ([[1, 2]], None, [1, 2]),
    ],
)
def test_a_prompt_may_be_text_or_tokens(prompt: object, text: str | None, ids: list[int] | None) -> None:
    request = read_completion({"model": "m", "prompt": prompt})
    assert (request.prompt, request.prompt_ids) == (text, ids)


def test_harmless_and_unknown_fields_are_ignored() -> None:
    extras = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "none",
        "n": 1,
        "logit_bias": {},
        "modalities": ["text"],
        "reasoning_effort": "low",
        "some_vendors_field": [1],
        "sparkgate": {"speculation": "auto"},
    }
    assert read_chat({**CHAT, **extras}).messages == read_chat(CHAT).messages


def schema_format(**changes: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, **changes}}


@pytest.mark.parametrize(
    ("response_format", "schema", "is_strict"),
    [
        (None, None, False),
        ({"type": "text"}, None, False),
        ({"type": "json_object"}, {"type": "object"}, True),
        (schema_format(), SCHEMA, False),
        (schema_format(strict=None), SCHEMA, False),
        (schema_format(strict=True, description="d"), SCHEMA, True),
    ],
)
def test_a_response_format_becomes_a_schema(
    response_format: object, schema: dict[str, Any] | None, is_strict: bool
) -> None:
    for request in (
        read_chat({**CHAT, "response_format": response_format}),
        read_completion({**COMPLETION, "response_format": response_format}),
    ):
        found = None if request.json_schema is None else json.loads(request.json_schema)
        assert (found, request.is_strict) == (schema, is_strict)
        if found and "properties" in found:
            assert list(found["properties"]) == ["b", "a"]  # the order in which the answer has them


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"response_format": []}, "response_format", "invalid_type"),
        ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
            "response_format.json_schema.name",
            "missing_required_parameter",
        ),
        ({"response_format": schema_format(schema=None)}, SCHEMA_PARAM, "missing_required_parameter"),
        ({"response_format": schema_format(schema=True)}, SCHEMA_PARAM, "invalid_type"),
        (
            {"response_format": schema_format(strict="yes")},
            "response_format.json_schema.strict",
            "invalid_type",
        ),
        ({"response_format": {"type": "json_object"}, "min_tokens": 3}, "min_tokens", "invalid_value"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {5000 * "1": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "invalid_value"),
        ({"logit_bias": {"1": "much"}}, "logit_bias.1", "invalid_type"),
        ({"logit_bias": {str(at): 1 for at in range(MAX_BIASES + 1)}}, "logit_bias", "invalid_value"),
        ({"sparkgate": {"speculation": "maybe"}}, "sparkgate.speculation", "invalid_value"),
        ({"sparkgate": {"speculation": 4}}, "sparkgate.speculation", "invalid_type"),
    ],
)
def test_fields_that_cannot_be_honoured_are_named(changes: dict[str, Any], param: str, code: str) -> None:
    for body, read in ((CHAT, read_chat), (COMPLETION, read_completion)):
        with pytest.raises(InvalidRequest) as refused:
            read({**body, **changes})
        assert (refused.value.param, refused.value.code) == (param, code)
