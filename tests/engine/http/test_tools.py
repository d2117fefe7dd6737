"""Calls of functions over the wire: what a request may ask, and what real servers answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from engine.errors import InvalidRequest
from engine.fetch import BUNDLED_MODEL
from engine.http.requests import read_chat
from engine.http.tools import MAX_PARALLEL_CALLS, MAX_TOOLS
from tests.engine.conftest import EngineProcess, StartEngine
from tests.engine.toy import TOY_SETTINGS, write_toy_model
from tests.openapi import errors_of, needs_document

MESSAGES: list[Any] = [{"role": "user", "content": "Paint it red."}]
PAINT: dict[str, Any] = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "größer"]}, "coats": {"enum": [1, 2]}},
    "required": ["colour", "coats"],
    "additionalProperties": False,
}


def tool(name: str, **changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": PAINT, **changes}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": list(map(named, names))}}


TOOLS = [
    tool("paint", description="Paint something.", strict=True),
    tool("scrape"),
    {"type": "function"} | named("ask"),
]
CHAT: dict[str, Any] = {"model": "toy", "messages": MESSAGES, "tools": TOOLS}


@pytest.mark.parametrize(
    ("changes", "names", "is_required", "max_calls"),
    [
        ({}, {"paint", "scrape", "ask"}, False, MAX_PARALLEL_CALLS),
        (
            {"tool_choice": "auto", "parallel_tool_calls": None},
            {"paint", "scrape", "ask"},
            False,
            MAX_PARALLEL_CALLS,
        ),
        ({"parallel_tool_calls": False}, {"paint", "scrape", "ask"}, False, 1),
        ({"tool_choice": "required"}, {"paint", "scrape", "ask"}, True, MAX_PARALLEL_CALLS),
        ({"tool_choice": named("scrape")}, {"scrape"}, True, 1),
        ({"tool_choice": allowed("auto", "ask", "paint")}, {"ask", "paint"}, False, MAX_PARALLEL_CALLS),
        ({"tool_choice": allowed("required", "ask"), "parallel_tool_calls": False}, {"ask"}, True, 1),
    ],
)
def test_a_choice_says_what_may_be_called(
    changes: dict[str, Any], names: set[str], is_required: bool, max_calls: int
) -> None:
    offer = read_chat({**CHAT, **changes}).tools
    assert offer is not None
    assert [function.name for function in offer.functions] == ["paint", "scrape", "ask"], "all are shown"
    assert offer.names == names
    assert (offer.is_required, offer.max_calls) == (is_required, max_calls)


@pytest.mark.parametrize(
    "changes", [{"tool_choice": "none"}, {"tools": []}, {"tools": None, "tool_choice": "auto"}]
)
def test_without_a_choice_nothing_is_offered(changes: dict[str, Any]) -> None:
    assert read_chat({**CHAT, **changes}).tools is None


def test_functions_get_what_templates_count_on() -> None:
    offer = read_chat(CHAT).tools
    assert offer is not None
    paint, _, ask = offer.functions
    assert (paint.is_strict, ask.is_strict) == (True, False)
    assert json.loads(paint.schema) == PAINT
    assert ask.definition == {
        "type": "function",
        "function": {"name": "ask", "description": "", "parameters": {"type": "object", "properties": {}}},
    }


DEEP = json.loads('{"properties":{"a":' * 60 + "{}" + "}}" * 60)


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"tools": {}}, "tools", "invalid_type"),
        ({"tools": [1]}, "tools[0]", "invalid_type"),
        ({"tools": [{"function": {"name": "f"}}]}, "tools[0].type", "missing_required_parameter"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools[0].function.name", "missing_required_parameter"),
        ({"tools": [tool("a b")]}, "tools[0].function.name", "invalid_value"),
        ({"tools": [tool("x" * 65)]}, "tools[0].function.name", "invalid_value"),
        ({"tools": [tool("f"), tool("f")]}, "tools[1].function.name", "invalid_value"),
        ({"tools": [tool("f", parameters=[])]}, "tools[0].function.parameters", "invalid_type"),
        (
            {"tools": [tool("f", parameters={"type": "string"})]},
            "tools[0].function.parameters",
            "invalid_value",
        ),
        ({"tools": [tool("f", strict=1)]}, "tools[0].function.strict", "invalid_type"),
        ({"tools": [tool(f"f{at}") for at in range(MAX_TOOLS + 1)]}, "tools", "invalid_value"),
        ({"tool_choice": "some"}, "tool_choice", "invalid_value"),
        ({"tool_choice": 1}, "tool_choice", "invalid_type"),
        ({"tool_choice": {"type": "custom"}}, "tool_choice.type", "invalid_value"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function.name", "missing_required_parameter"),
        ({"tool_choice": named("other")}, "tool_choice.function.name", "invalid_value"),
        ({"tool_choice": allowed("none", "ask")}, "tool_choice.allowed_tools.mode", "invalid_value"),
        ({"tool_choice": allowed("auto")}, "tool_choice.allowed_tools.tools", "invalid_value"),
        (
            {"tool_choice": allowed("auto", "other")},
            "tool_choice.allowed_tools.tools[0].function.name",
            "invalid_value",
        ),
        ({"tool_choice": "required", "tools": None}, "tool_choice", "invalid_value"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "invalid_type"),
        ({"min_tokens": 3}, "min_tokens", "invalid_value"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_parameter"),
        ({"function_call": {"name": "f"}}, "function_call", "unsupported_parameter"),
    ],
)
def test_what_cannot_be_honoured_is_named(changes: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_chat({**CHAT, **changes})
    assert (refused.value.param, refused.value.code) == (param, code)


@pytest.fixture(scope="module")
def client(start_engine: StartEngine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A toy with a context that has room for tools."""
    folder = tmp_path_factory.mktemp("models") / "toy"
    write_toy_model(folder, max_position_embeddings=4096)
    server = start_engine("--model", str(folder), "--dtype", "float32", "--threads", "1")
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def ask(client: httpx.Client, **changes: Any) -> dict[str, Any]:
    answer = client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 500, "seed": 3, **changes})
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    found: dict[str, Any] = choice
    return found


def stream(client: httpx.Client, **changes: Any) -> list[dict[str, Any]]:
    """Each chunk's choice."""
    body = {**CHAT, "max_tokens": 500, "seed": 3, "stream": True, **changes}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    *events, done, end = answer.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: "))["choices"][0] for event in events]


def joined(choices: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """Content and calls of a stream, put together as clients do."""
    content, calls = "", list[dict[str, Any]]()
    for choice in choices:
        delta = choice["delta"]
        content += delta.get("content") or ""
        for call in delta.get("tool_calls", []):
            if "id" in call:
                assert (call["index"], call["type"]) == (len(calls), "function")
                calls.append({"id": call["id"], **call["function"]})
            else:
                assert set(call) == {"index", "function"}
                calls[call["index"]]["arguments"] += call["function"]["arguments"]
    return content, calls


PAINT_ONLY = {"tools": [tool("paint"), tool("scrape")]}


@pytest.mark.parametrize(
    "sampling",
    [{}, {"temperature": 0, "parallel_tool_calls": False}, {"temperature": 1.8, "presence_penalty": 2}],
)
def test_a_required_call_comes_and_matches_its_schema(client: httpx.Client, sampling: dict[str, Any]) -> None:
    for seed in range(3):
        asked = {**PAINT_ONLY, **sampling, "tool_choice": "required", "seed": seed, "max_tokens": 1600}
        choice = ask(client, **asked)
        answer = choice["message"]
        assert (choice["finish_reason"], answer["content"]) == ("tool_calls", None)
        assert 1 <= len(answer["tool_calls"]) <= MAX_PARALLEL_CALLS
        assert len({call["id"] for call in answer["tool_calls"]}) == len(answer["tool_calls"])
        for call in answer["tool_calls"]:
            assert call["id"].startswith("call_")
            assert call["type"] == "function"
            assert call["function"]["name"] in ("paint", "scrape")
            Draft202012Validator(PAINT).validate(json.loads(call["function"]["arguments"]))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"tool_choice": named("scrape")}, "scrape"),
        ({"tool_choice": allowed("required", "paint"), "parallel_tool_calls": False}, "paint"),
    ],
)
def test_only_what_may_be_called_is_called_once(
    client: httpx.Client, changes: dict[str, Any], name: str
) -> None:
    for seed in range(3):
        (call,) = ask(client, **PAINT_ONLY, **changes, seed=seed)["message"]["tool_calls"]
        assert call["function"]["name"] == name


def test_a_stream_tells_the_same_calls_and_nothing_of_their_markup(client: httpx.Client) -> None:
    for seed in range(3):
        asked = {**PAINT_ONLY, "tool_choice": "required", "seed": seed}
        whole = [call["function"] for call in ask(client, **asked)["message"]["tool_calls"]]
        choices = stream(client, **asked)
        content, calls = joined(choices)
        assert content == ""
        assert [{"name": call["name"], "arguments": call["arguments"]} for call in calls] == whole
        assert choices[0]["delta"] == {"role": "assistant", "content": None}
        assert choices[-1]["delta"] == {}
        assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["tool_calls"]
        assert len(choices) > 10, "arguments come in pieces"


def test_a_call_cut_by_the_limit_is_told_as_far_as_it_came(client: httpx.Client) -> None:
    asked = {**PAINT_ONLY, "tool_choice": named("paint"), "max_tokens": 58}
    choice = ask(client, **asked)
    assert choice["finish_reason"] == "length"
    (call,) = choice["message"]["tool_calls"]
    written = call["function"]["arguments"]
    assert written.startswith("{")
    assert not written.endswith("}")
    _, calls = joined(stream(client, **asked))
    assert calls[0]["arguments"] == written


def test_a_limit_after_whole_calls_is_told_too(client: httpx.Client) -> None:
    endless = {"temperature": 0, "logit_bias": {str(TOY_SETTINGS["eos_token_id"]): -100}, "max_tokens": 400}
    asked = {**PAINT_ONLY, **endless, "tool_choice": "required"}
    choice = ask(client, **asked)
    assert choice["finish_reason"] == "length"
    Draft202012Validator(PAINT).validate(
        json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])
    )
    _, calls = joined(stream(client, **asked))
    assert len(calls) == len(choice["message"]["tool_calls"])


def test_a_call_cut_by_a_stop_string_is_none_that_was_made(client: httpx.Client) -> None:
    choice = ask(client, **PAINT_ONLY, tool_choice=named("paint"), stop="colour")
    (call,) = choice["message"]["tool_calls"]
    assert call["function"]["arguments"].rstrip(" \n") in ('{"', '{\n"', '{ "')
    assert choice["finish_reason"] == "stop"


def test_a_free_answer_is_content(client: httpx.Client) -> None:
    for seed in range(3):
        asked = {"seed": seed, "max_tokens": 40, "tool_choice": allowed("auto", "ask")}
        choice = ask(client, **asked)
        assert "tool_calls" not in choice["message"]
        assert choice["finish_reason"] in ("stop", "length")
        content, calls = joined(stream(client, **asked))
        assert (content, calls) == (choice["message"]["content"], [])


def test_without_a_choice_tools_are_not_shown(client: httpx.Client) -> None:
    def num_prompt_tokens(**changes: Any) -> int:
        body = {**CHAT, "max_tokens": 1, **changes}
        count: int = client.post("/v1/chat/completions", json=body).json()["usage"]["prompt_tokens"]
        return count

    assert num_prompt_tokens() > num_prompt_tokens(tool_choice="none") + 300
    assert num_prompt_tokens(tool_choice="none") == num_prompt_tokens(tools=None)


def test_logprobs_cover_calls_too(client: httpx.Client) -> None:
    asked = {**PAINT_ONLY, "tool_choice": named("paint"), "logprobs": True}
    choice = ask(client, **asked)
    text = "".join(entry["token"] for entry in choice["logprobs"]["content"])
    written = choice["message"]["tool_calls"][0]["function"]["arguments"]
    assert text == f'<tool_call>\n{{"name": "paint", "arguments": {written}}}\n</tool_call>'
    parts = [part["logprobs"]["content"] for part in stream(client, **asked) if part["logprobs"]]
    assert "".join(entry["token"] for part in parts for entry in part) == text


def test_each_choice_makes_its_own_calls(client: httpx.Client) -> None:
    body = {**CHAT, **PAINT_ONLY, "tool_choice": named("paint"), "max_tokens": 500, "n": 3, "seed": 3}
    choices = client.post("/v1/chat/completions", json=body).json()["choices"]
    calls = [call for choice in choices for call in choice["message"]["tool_calls"]]
    assert [choice["finish_reason"] for choice in choices] == ["tool_calls"] * 3
    assert len({call["id"] for call in calls}) == 3
    alone = [ask(client, **PAINT_ONLY, tool_choice=named("paint"), seed=3 + at)["message"] for at in range(3)]
    assert [call["function"] for call in calls] == [one["tool_calls"][0]["function"] for one in alone]


@needs_document
def test_answers_with_calls_are_as_openai_published(client: httpx.Client) -> None:
    body = {**CHAT, **PAINT_ONLY, "tool_choice": named("paint"), "max_tokens": 500, "n": 2, "logprobs": True}
    whole = client.post("/v1/chat/completions", json=body).json()
    assert errors_of("CreateChatCompletionResponse", whole) == []
    options = {"include_usage": True}
    text = client.post("/v1/chat/completions", json={**body, "stream": True, "stream_options": options}).text
    chunks = [json.loads(event.removeprefix("data: ")) for event in text.split("\n\n")[:-2]]
    assert len(chunks) > 10
    for chunk in chunks:
        assert errors_of("CreateChatCompletionStreamResponse", chunk) == []


def test_an_answer_is_json_or_a_call(client: httpx.Client) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": PAINT, "strict": True}}
    for seed in range(3):
        message = ask(client, **PAINT_ONLY, response_format=form, seed=seed)["message"]
        if message.get("tool_calls"):
            assert message["content"] is None
        else:
            Draft202012Validator(PAINT).validate(json.loads(message["content"]))


def test_a_schema_that_cannot_be_enforced_is_refused_only_where_it_must_hold(client: httpx.Client) -> None:
    wrong = [tool("f", parameters={"type": "object", "properties": {"a": {"type": "thing"}}})]
    answer = client.post("/v1/chat/completions", json={**CHAT, "tools": wrong, "tool_choice": "required"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "tools"
    assert "Invalid type: thing" in error["message"]
    assert ask(client, tools=wrong, max_tokens=1)


def test_a_schema_nested_without_end_is_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/chat/completions", json={**CHAT, "tools": [tool("f", parameters=DEEP)]})
    assert answer.status_code == 400
    assert "deep" in answer.json()["error"]["message"]


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
WEATHER_CHAT: dict[str, Any] = {
    "model": BUNDLED_MODEL,
    "messages": [{"role": "user", "content": "What is the weather in Rome?"}],
    "tools": [WEATHER],
    "temperature": 0,
    "max_tokens": 120,
}


@pytest.fixture(scope="module")
def sdk(real_server: EngineProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{real_server.url}/v1", api_key="none", max_retries=0, timeout=120) as sdk:
        yield sdk


def test_the_official_client_streams_a_call_and_gets_its_result_told(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(**WEATHER_CHAT, tool_choice=named("get_weather")) as events:
        kinds = {event.type for event in events}
        final = events.get_final_completion()
    assert "content.delta" not in kinds
    (choice,) = final.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    (call,) = choice.message.tool_calls
    assert call.function.name == "get_weather"
    arguments = call.function.parsed_arguments
    assert isinstance(arguments, dict)
    assert arguments["city"] == "Rome"
    assert arguments["unit"] in ("C", "F")
    told = [
        *WEATHER_CHAT["messages"],
        choice.message.model_dump(include={"role", "content", "tool_calls"}),
        {"role": "tool", "tool_call_id": call.id, "content": "21 degrees, sunny"},
    ]
    answer = sdk.chat.completions.create(**{**WEATHER_CHAT, "messages": told, "max_tokens": 8})
    assert answer.choices[0].message.role == "assistant"


@pytest.mark.parametrize("choice", ["required", named("get_weather"), "auto"])
def test_drafts_change_no_call(sdk: openai.OpenAI, choice: Any) -> None:
    def answer(speculation: str) -> tuple[Any, ...]:
        body = {"sparkgate": {"speculation": speculation}}
        given = sdk.chat.completions.create(
            **{**WEATHER_CHAT, "max_tokens": 32}, tool_choice=choice, extra_body=body
        ).choices[0]
        calls = [(call.function.name, call.function.arguments) for call in given.message.tool_calls or []]
        return given.message.content, calls, given.finish_reason

    assert answer("off") == answer("fixed")
