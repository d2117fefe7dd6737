"""A Responses request as a chat request: every setting in its place, and what a chat target cannot do refused."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.wire.errors import BadRequest
from gateway.wire.responses_over_chat import request
from tests.openapi import errors_of, needs_document

BASE = {"model": "m-1", "input": "hello"}
SAID = {"model": "m-1", "messages": [{"role": "user", "content": "hello"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
WEATHER = {"type": "function", "name": "weather", "description": "now", "parameters": SCHEMA, "strict": True}
CHAT_WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "now", "parameters": SCHEMA, "strict": True},
}
SHELL = {"type": "custom", "name": "shell", "description": "runs text", "format": {"type": "text"}}
ONE_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
CHAT_SHELL = {
    "type": "function",
    "function": {"name": "shell", "description": "runs text", "parameters": ONE_TEXT},
}
BOTH = {"tools": [WEATHER, SHELL]}
CHAT_BOTH = {"tools": [CHAT_WEATHER, CHAT_SHELL]}
LOGPROBS = ["message.output_text.logprobs"]


def choice(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {
        "type": "allowed_tools",
        "mode": mode,
        "tools": [{"type": "function", "name": name} for name in names],
    }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, {}),
        ({"temperature": 0.5, "top_p": 0.9, "user": "u"}, {"temperature": 0.5, "top_p": 0.9, "user": "u"}),
        ({"temperature": None, "metadata": None, "text": None, "reasoning": None}, {}),
        ({"metadata": {"a": "b"}, "service_tier": "flex"}, {"metadata": {"a": "b"}, "service_tier": "flex"}),
        (
            {"prompt_cache_key": "k", "safety_identifier": "s"},
            {"prompt_cache_key": "k", "safety_identifier": "s"},
        ),
        ({"max_output_tokens": 64}, {"max_completion_tokens": 64}),
        ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
        ({"text": {"format": {"type": "text"}, "verbosity": "low"}}, {"verbosity": "low"}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "n", "schema": SCHEMA, "strict": True},
                }
            },
        ),
        ({"stream": False}, {"stream": False}),
        (
            {"stream": True, "stream_options": {"include_obfuscation": False}},
            {"stream": True, "stream_options": {"include_usage": True}},
        ),
        ({"include": LOGPROBS, "top_logprobs": 3}, {"logprobs": True, "top_logprobs": 3}),
        ({"include": LOGPROBS}, {"logprobs": True}),
        ({"top_logprobs": 3}, {}),
        ({"store": True, "truncation": "disabled", "background": False, "max_tool_calls": 4}, {}),
        ({"previous_response_id": None, "conversation": None}, {}),
        ({"seed": 7, "sparkgate": {"speculation": "off"}}, {"seed": 7, "sparkgate": {"speculation": "off"}}),
        (BOTH, CHAT_BOTH),
        (
            {"tools": [{"type": "function", "name": "f", "parameters": None, "strict": None}]},
            {"tools": [choice("f")]},
        ),
        ({**BOTH, "parallel_tool_calls": False}, {**CHAT_BOTH, "parallel_tool_calls": False}),
        ({**BOTH, "tool_choice": "required"}, {**CHAT_BOTH, "tool_choice": "required"}),
        (
            {**BOTH, "tool_choice": {"type": "function", "name": "weather"}},
            {**CHAT_BOTH, "tool_choice": choice("weather")},
        ),
        (
            {**BOTH, "tool_choice": {"type": "custom", "name": "shell"}},
            {**CHAT_BOTH, "tool_choice": choice("shell")},
        ),
        (
            {**BOTH, "tool_choice": allowed("auto", "weather")},
            {"tools": [CHAT_WEATHER], "tool_choice": "auto"},
        ),
        (
            {**BOTH, "tool_choice": allowed("required", "shell")},
            {"tools": [CHAT_SHELL], "tool_choice": "required"},
        ),
        ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
        ({"tool_choice": "required"}, {"tool_choice": "required"}),
    ],
)
def test_settings_in_their_places(given: dict[str, Any], said: dict[str, Any]) -> None:
    chat, lost = request(BASE | given)
    assert chat == SAID | said
    assert lost == []


@needs_document
def test_both_sides_are_as_published() -> None:
    given = {
        **{"max_output_tokens": 64, "reasoning": {"effort": "low"}, "stream": True, "metadata": {"a": "b"}},
        **{"text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}, "verbosity": "low"}},
        **{"include": LOGPROBS, "top_logprobs": 3, "tool_choice": allowed("auto", "weather")},
        **{"service_tier": "flex", "parallel_tool_calls": True},
    }
    assert errors_of("CreateResponse", BASE | BOTH | given) == []
    assert errors_of("CreateChatCompletionRequest", request(BASE | BOTH | given)[0]) == []


def test_a_target_has_its_own_name_for_the_limit_and_its_own_extensions() -> None:
    thought = {
        "type": "reasoning",
        "id": "rs_1",
        "content": [{"type": "reasoning_text", "text": "hm"}],
        "summary": [],
    }
    given = {**BASE, "max_output_tokens": 64, "input": [thought, {"role": "assistant", "content": "hi"}]}
    chat, lost = request(given, limit_name="max_tokens", extensions=("reasoning_content",))
    assert chat["max_tokens"] == 64
    assert chat["messages"] == [{"role": "assistant", "content": "hi", "reasoning_content": "hm"}]
    assert lost == []
    assert request(given)[1] == ["input[0]"]


def test_what_only_shades_the_answer_is_left_out_and_reported() -> None:
    given = {
        **{"include": ["reasoning.encrypted_content", *LOGPROBS], "truncation": "auto"},
        **{"reasoning": {"effort": "low", "summary": "auto"}, "context_management": [{"type": "compaction"}]},
    }
    chat, lost = request(BASE | given)
    assert chat == SAID | {"reasoning_effort": "low", "logprobs": True}
    assert sorted(lost) == [
        *("context_management", "include.reasoning.encrypted_content", "reasoning.summary", "truncation"),
    ]


@pytest.mark.parametrize(
    ("given", "param", "name"),
    [
        ({"previous_response_id": "resp_0"}, "previous_response_id", "previous_response_id"),
        ({"conversation": "conv_0"}, "conversation", "conversation"),
        ({"background": True}, "background", "background"),
        ({"prompt": {"id": "pmpt_0"}}, "prompt", "prompt"),
        ({"tools": [WEATHER, {"type": "web_search"}]}, "tools[1]", "web_search"),
        ({"tools": [{"type": "mcp", "server_label": "a"}]}, "tools[0]", "mcp"),
        ({"tools": [{"type": "namespace", "name": "a", "tools": []}]}, "tools[0]", "namespace"),
        ({"tools": [{**SHELL, "format": {"type": "grammar"}}]}, "tools[0].format", "shell"),
        ({"tool_choice": {"type": "file_search"}}, "tool_choice", "file_search"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format", "grammar"),
    ],
)
def test_what_a_chat_target_cannot_do_is_refused_by_name(
    given: dict[str, Any], param: str, name: str
) -> None:
    with pytest.raises(BadRequest, match="choose a target that speaks Responses") as refused:
        request(BASE | given)
    assert name in refused.value.message
    assert (refused.value.param, refused.value.code) == (param, "unsupported_parameter")


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"instructions": 3}, "instructions"),
        ({"text": "short"}, "text"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"reasoning": "low"}, "reasoning"),
        ({"include": "all"}, "include"),
        ({"tools": "weather"}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({**BOTH, "tool_choice": allowed("auto", "other")}, "tool_choice.tools"),
        ({**BOTH, "tool_choice": {"type": "allowed_tools"}}, "tool_choice.tools"),
        ({**BOTH, "tool_choice": "never"}, "tool_choice"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(given: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        request(BASE | given)
    assert refused.value.param == param
