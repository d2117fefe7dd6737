from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway.wire import chat_as_messages, messages, messages_over_chat
from gateway.wire.chat import read_event
from gateway.wire.chat_over_messages import Thinking, request
from gateway.wire.errors import BadRequest, UpstreamFailed
from gateway.wire.messages_as_chat import StreamTranslator, response
from gateway.wire.sse import data_of
from tests.gateway.wire.chat_streams import JSON, atoms, blocks_of, chunk, exhaust

SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}
TOOL = {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sky"}'}}
USE = {"type": "tool_use", "id": "call_1", "name": "look", "input": {"at": "sky"}}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def said(*chat_messages: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The Messages request of a chat request of which nothing is lost."""
    body, dropped = request(
        {"model": "m", "messages": list(chat_messages), **settings}, default_max_tokens=4096
    )
    assert dropped == []
    assert body.pop("model") == "m"
    return body


CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "system and user": (
        [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [text("Be kind.")]},
            {"role": "user", "content": "hi"},
        ],
        {
            "system": [text("Be brief."), text("Be kind.")],
            "messages": [{"role": "user", "content": [text("hi")]}],
        },
    ),
    "one role in a row": (
        [
            {"role": "user", "content": "a"},
            {"role": "user", "content": "b"},
            {"role": "assistant", "content": "c"},
        ],
        {
            "messages": [
                {"role": "user", "content": [text("a"), text("b")]},
                {"role": "assistant", "content": [text("c")]},
            ]
        },
    ),
    "images and files": (
        [
            {
                "role": "user",
                "content": [
                    text("what?"),
                    {
                        "type": "image_url",
                        "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"},
                    },
                    {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                    {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE"}},
                ],
            }
        ],
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        text("what?"),
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"},
                        },
                        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
                        {
                            "type": "document",
                            "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                        },
                    ],
                }
            ]
        },
    ),
    "calls and results in one turn": (
        [
            {"role": "assistant", "content": None, "tool_calls": [CALL, CALL | {"id": "functions.look:1"}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "blue"},
            {"role": "tool", "tool_call_id": "functions.look:1", "content": [text("grey")]},
            {"role": "user", "content": "and?"},
        ],
        {
            "messages": [
                {"role": "assistant", "content": [USE, USE | {"id": "functions_look_1"}]},
                {
                    "role": "user",
                    "content": [
                        {"type": "tool_result", "tool_use_id": "call_1", "content": [text("blue")]},
                        {"type": "tool_result", "tool_use_id": "functions_look_1", "content": [text("grey")]},
                        text("and?"),
                    ],
                },
            ]
        },
    ),
    "what Anthropic refuses is left out": (
        [
            {"role": "system", "content": ""},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "", "reasoning_content": "hm"},
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "tool", "tool_call_id": "a", "content": ""},
        ],
        {
            "messages": [
                {"role": "user", "content": [text("q")]},
                {"role": "assistant", "content": [text("no")]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": []}]},
            ]
        },
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations(name: str) -> None:
    chat_messages, expected = CONVERSATIONS[name]
    assert said(*chat_messages) == {"max_tokens": 4096, **expected}


SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"max_tokens": 5}, {"max_tokens": 5}),
    ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}),
    ({"temperature": 0.5, "top_p": 0.9, "top_k": 7}, {"temperature": 0.5, "top_p": 0.9, "top_k": 7}),
    ({"stop": "END"}, {"stop_sequences": ["END"]}),
    ({"stop": ["a", "b"]}, {"stop_sequences": ["a", "b"]}),
    ({"user": "u"}, {"metadata": {"user_id": "u"}}),
    ({"user": "u", "safety_identifier": "s"}, {"metadata": {"user_id": "s"}}),
    ({"stream": True, "stream_options": {"include_usage": True}}, {"stream": True}),
    ({"response_format": {"type": "text"}}, {}),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": SCHEMA, "strict": True},
            }
        },
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
    ),
    ({"reasoning_effort": None, "seed": None, "tools": []}, {}),
    (
        {
            "n": 1,
            "temperature": 1,
            "top_p": 1.0,
            "frequency_penalty": 0.0,
            "presence_penalty": 0,
            "logprobs": False,
        },
        {},
    ),
    (
        {"logit_bias": {}, "modalities": ["text"], "store": False, "service_tier": "auto", "top_logprobs": 0},
        {},
    ),
]


@pytest.mark.parametrize(("settings", "expected"), SETTINGS)
def test_settings(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert said(**settings) == {"max_tokens": 4096, "messages": [], **expected}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {}),
        ({"tool_choice": "auto"}, {"tool_choice": {"type": "auto"}}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"tool_choice": {"type": "none"}}),
        ({"tool_choice": "required"}, {"tool_choice": {"type": "any"}}),
        (
            {"tool_choice": {"type": "function", "function": {"name": "look"}}},
            {"tool_choice": {"type": "tool", "name": "look"}},
        ),
        ({"parallel_tool_calls": True}, {}),
        (
            {"parallel_tool_calls": False},
            {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        ),
        (
            {"tool_choice": "required", "parallel_tool_calls": False},
            {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}},
        ),
    ],
)
def test_tools(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    bare = {"type": "function", "function": {"name": "f", "strict": True}}
    body = said(tools=[TOOL, bare], **settings)
    assert body == {
        "max_tokens": 4096,
        "messages": [],
        "tools": [
            {"name": "look", "description": "Looks.", "input_schema": SCHEMA},
            {"name": "f", "input_schema": {"type": "object"}, "strict": True},
        ],
        **expected,
    }


def test_tool_settings_without_tools_say_nothing() -> None:
    assert said(tool_choice="none", parallel_tool_calls=False) == {"max_tokens": 4096, "messages": []}


IN_TOOL_LOOP = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "blue"},
]
SAMPLED = {"temperature": 0.2, "top_p": 0.9, "top_k": 1}


@pytest.mark.parametrize(
    ("settings", "thinking", "expected", "lost"),
    [
        (
            {"reasoning_effort": "high", **SAMPLED},
            "adaptive",
            {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "high"}},
            ["temperature", "top_k", "top_p"],
        ),
        (
            {"reasoning_effort": "minimal", "messages": IN_TOOL_LOOP},
            "adaptive",
            {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "low"}},
            [],
        ),
        (
            {"reasoning_effort": "medium", "max_tokens": 32000, **SAMPLED},
            "budget",
            {"thinking": {"type": "enabled", "budget_tokens": 8192}},
            ["temperature", "top_k", "top_p"],
        ),
        (
            {"reasoning_effort": "medium", "max_tokens": 4096},
            "budget",
            {"thinking": {"type": "enabled", "budget_tokens": 2048}},
            [],
        ),
        (
            {"reasoning_effort": "medium", "max_tokens": 2000, **SAMPLED},
            "budget",
            SAMPLED,
            ["reasoning_effort"],
        ),
        ({"reasoning_effort": "low", "messages": IN_TOOL_LOOP}, "budget", {}, ["reasoning_effort"]),
        (
            {"reasoning_effort": "low", "tools": [TOOL], "tool_choice": "required"},
            "budget",
            {"tool_choice": {"type": "any"}},
            ["reasoning_effort"],
        ),
        (
            {"reasoning_effort": "none", **SAMPLED},
            "budget",
            {"thinking": {"type": "disabled"}, **SAMPLED},
            [],
        ),
    ],
)
def test_thinking(
    settings: dict[str, Any], thinking: Thinking, expected: dict[str, Any], lost: list[str]
) -> None:
    """Anthropic takes no sampling settings beside it, and a budget only where there is room for it."""
    body, dropped = request({"messages": [], **settings}, default_max_tokens=8192, thinking=thinking)
    for name in ("messages", "max_tokens", "tools"):
        body.pop(name, None)
    assert (body, dropped) == (expected, lost)


def test_effort_and_schema_go_together() -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    body = said(reasoning_effort="low", response_format=form)
    assert body["output_config"] == {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}}


def test_what_has_no_equivalent_is_named() -> None:
    body = {
        "messages": [],
        "seed": 1,
        "logprobs": True,
        "frequency_penalty": 0.5,
        "temperature": 1.5,
        "stop": ["END", "\n"],
        "metadata": {"a": "b"},
        "x_unknown": 1,
    }
    said, dropped = request(body, default_max_tokens=9)
    assert said == {"messages": [], "max_tokens": 9, "stop_sequences": ["END"]}
    assert dropped == [
        "frequency_penalty",
        "logprobs",
        "metadata",
        "seed",
        "stop",
        "temperature",
        "x_unknown",
    ]


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "several answers": ({"n": 2}, "n", "one answer"),
    "JSON without a schema": ({"response_format": {"type": "json_object"}}, "response_format", "json_schema"),
    "functions": ({"functions": [{"name": "f"}]}, "functions", "'tools'"),
    "tool": ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]", "'custom'"),
    "choice": ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}, "tool_choice", "a function"),
    "effort": ({"reasoning_effort": "huge"}, "reasoning_effort", "'huge'"),
    "role": ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "'function'"),
    "audio": (
        {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
        "messages[0].content[0]",
        "'input_audio'",
    ),
    "file id": (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]},
        "messages[0].content[0].file.file_data",
        "a string",
    ),
    "image path": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///x"}}]}
            ]
        },
        "messages[0].content[0].image_url.url",
        "data URL",
    ),
    "arguments": (
        {
            "messages": [
                {"role": "assistant", "tool_calls": [CALL | {"function": {"name": "f", "arguments": "[1]"}}]}
            ]
        },
        "messages[0].tool_calls[0].function.arguments",
        "a JSON object",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused_by_name(name: str) -> None:
    body, param, words = REFUSED[name]
    with pytest.raises(BadRequest) as refusal:
        request({"messages": [], **body}, default_max_tokens=9)
    assert refusal.value.param == param
    assert words in refusal.value.message


FIELDS = st.sampled_from(
    [
        *("messages", "tools", "tool_choice", "parallel_tool_calls", "stop", "user", "response_format"),
        *("reasoning_effort", "temperature", "max_tokens", "n"),
    ]
)


@given(st.dictionaries(FIELDS, JSON), JSON, st.sampled_from(["user", "assistant", "tool", "system"]))
def test_any_body_is_translated_or_refused(body: dict[str, Any], content: Any, role: str) -> None:
    """What a caller sends never ends as a failure of ours."""
    for chat_messages in ([{"role": role, "content": content}], body.get("messages")):
        for thinking in ("adaptive", "budget"):
            try:
                said, _ = request(body | {"messages": chat_messages}, default_max_tokens=9, thinking=thinking)
            except BadRequest:
                continue
            json.dumps(said)


def test_translated_requests_are_anthropics() -> None:
    """By the types that Anthropic publishes."""
    pytest.importorskip("anthropic")
    from anthropic.types.message_create_params import MessageCreateParamsNonStreaming

    settings: dict[str, Any] = {"tools": [TOOL], "tool_choice": "auto"}
    for ours, _ in SETTINGS:
        settings |= ours
    adapter = TypeAdapter(MessageCreateParamsNonStreaming)
    for chat_messages, _ in CONVERSATIONS.values():
        exhaust(
            adapter.validate_python({"model": "m", **said(*chat_messages, **(settings | {"stream": False}))})
        )


words = st.text(min_size=1, max_size=12)
ids = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Whole conversations as OpenAI has them: calls are answered at once, roles take turns."""
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": word} for word in draw(st.lists(words, max_size=1))
    ]
    for _ in range(draw(st.integers(1, 3))):
        parts = st.lists(words, min_size=2, max_size=3).map(lambda texts: [text(item) for item in texts])
        turns.append({"role": "user", "content": draw(words | parts)})
        called = draw(st.lists(ids, max_size=3, unique=True))
        turn: dict[str, Any] = {"role": "assistant", "content": draw(words | st.none() if called else words)}
        if called:
            turn["tool_calls"] = [
                {
                    "id": call_id,
                    "type": "function",
                    "function": {
                        "name": draw(ids),
                        "arguments": json.dumps(
                            draw(st.dictionaries(words, words | st.integers(0, 9), max_size=2))
                        ),
                    },
                }
                for call_id in called
            ]
        turns.append(turn)
        turns += [{"role": "tool", "tool_call_id": call_id, "content": draw(words)} for call_id in called]
    return turns


@given(conversations(), st.sampled_from(["auto", "none", "required", TOOL | {"function": {"name": "look"}}]))
def test_a_request_survives_the_way_there_and_back(chat_messages: list[dict[str, Any]], choice: Any) -> None:
    body = {
        "model": "m",
        "messages": chat_messages,
        "max_tokens": 77,
        "temperature": 0.5,
        "stop": ["END"],
        "user": "u",
        "tools": [TOOL],
        "tool_choice": choice,
        "parallel_tool_calls": False,
    }
    there, lost_there = request(body, default_max_tokens=9)
    back, lost_back = messages_over_chat.request(there)
    if choice == "none":
        del body["parallel_tool_calls"]  # nothing to say it of
    assert lost_there == lost_back == []
    assert _parsed(back) == _parsed(body)


def _parsed(body: dict[str, Any]) -> dict[str, Any]:
    """Arguments as values: their JSON may be spaced otherwise."""
    body = json.loads(json.dumps(body))
    for message in body["messages"]:
        for call in message.get("tool_calls", ()):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return body


COUNTED = {
    "input_tokens": 10,
    "cache_read_input_tokens": 30,
    "cache_creation_input_tokens": 5,
    "output_tokens": 7,
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "Eq"},
        text("Let me "),
        text("see."),
        USE,
    ],
    "stop_reason": "tool_use",
    "usage": COUNTED,
}
USAGE = {
    "prompt_tokens": 45,
    "completion_tokens": 7,
    "total_tokens": 52,
    "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 5},
    "completion_tokens_details": {"reasoning_tokens": 0},
}


def test_a_whole_answer() -> None:
    from openai.types.chat import ChatCompletion

    value = response(MESSAGE, "claude", 1_700_000_000)
    assert value["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Let me see.",
                "refusal": None,
                "reasoning_content": "hm",
                "tool_calls": [CALL],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
        }
    ]
    assert (value["id"], value["model"], value["created"]) == ("msg_1", "claude", 1_700_000_000)
    assert value["usage"] == USAGE
    assert (
        TypeAdapter(ChatCompletion).validate_python(value, strict=True).choices[0].message.content
        == "Let me see."
    )
    with pytest.raises(UpstreamFailed, match="no content"):
        response({"type": "message"}, "claude", 0)


def streamed(*events: dict[str, Any], wants_usage: bool = True) -> list[bytes]:
    """Chunks of a stream that begins and ends as `MESSAGE` does."""
    translator = StreamTranslator("claude", 1_700_000_000, wants_usage)
    begun = MESSAGE | {"content": [], "stop_reason": None, "usage": COUNTED | {"output_tokens": 1}}
    ended = {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 7}}
    events = (
        {"type": "message_start", "message": begun},
        {"type": "ping"},
        *events,
        ended,
        {"type": "message_stop"},
    )
    chunks: list[bytes] = []
    for event in events:
        value = messages.read_event(messages.event(event)).value
        assert value is not None
        chunks += translator.feed(value)
    return chunks + translator.finish()


def block(index: int, content_block: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": content_block},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def completion_of(chunks: list[bytes]) -> dict[str, Any]:
    """The message that OpenAI's own client puts together, with every chunk read strictly."""
    from openai.lib.streaming.chat import ChatCompletionStreamState
    from openai.types.chat import ChatCompletionChunk

    *values, done = map(data_of, chunks)
    assert done == b"[DONE]"
    state = ChatCompletionStreamState()
    adapter = TypeAdapter(ChatCompletionChunk)
    reasoning = ""
    for value in values:
        read = adapter.validate_python(json.loads(value or b""), strict=True)
        state.handle_chunk(read)
        for choice in read.choices:
            reasoning += getattr(choice.delta, "reasoning_content", "")
    whole: dict[str, Any] = state.get_final_completion().to_dict()
    whole["choices"][0]["message"]["reasoning_content"] = reasoning
    return whole


def test_a_stream_as_openai_writes_it() -> None:
    chunks = streamed(
        *block(
            0,
            {"type": "thinking", "thinking": "", "signature": ""},
            {"type": "thinking_delta", "thinking": "hm"},
            {"type": "signature_delta", "signature": "Eq"},
        ),
        *block(1, text(""), *({"type": "text_delta", "text": part} for part in ("Let me", " see."))),
        *block(
            2,
            USE | {"input": {}},
            *({"type": "input_json_delta", "partial_json": part} for part in ("", '{"at":', '"sky"}')),
        ),
    )
    assert [read_event(event).has_token for event in chunks] == [False, *[True] * 6, False, False, False]
    whole = completion_of(chunks)
    [choice] = whole["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert (choice["message"]["content"], choice["message"]["reasoning_content"]) == ("Let me see.", "hm")
    [call] = choice["message"]["tool_calls"]
    assert (call["id"], call["function"]["name"], call["function"]["arguments"]) == (
        "call_1",
        "look",
        '{"at":"sky"}',
    )
    assert (whole["id"], whole["model"], whole["usage"]) == ("msg_1", "claude", USAGE)


def test_usage_comes_only_where_it_is_wanted() -> None:
    assert not any(b'"usage"' in event for event in streamed(wants_usage=False))
    assert sum(b'"usage"' in event for event in streamed()) == 1


def test_arguments_that_do_not_come_in_pieces() -> None:
    """A tool without arguments, and a server that gives them at once."""
    chunks = streamed(*block(0, USE | {"input": {}}), *block(1, USE), *block(2, text("so")))
    message = completion_of(chunks)["choices"][0]["message"]
    assert [call["function"]["arguments"] for call in message["tool_calls"]] == ["{}", '{"at":"sky"}']
    assert message["content"] == "so"


def test_a_stream_that_fails_ends_with_the_error() -> None:
    translator = StreamTranslator("claude", 0, True)
    assert [read_event(event).is_error for event in translator.fail(502, "cut off")] == [True]
    [event] = translator.fail(504, "nothing came")
    assert json.loads(data_of(event) or b"")["error"]["type"] == "timeout_error"


@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.sampled_from(["content_block_start", "content_block_delta", "content_block_stop"])},
            optional={"index": JSON, "content_block": JSON, "delta": JSON},
        )
    )
)
def test_whatever_a_target_sends_becomes_a_stream(events: list[dict[str, Any]]) -> None:
    assert all(data_of(event) for event in streamed(*events))


@given(atoms())
def test_a_stream_survives_the_way_there_and_back(deltas: list[dict[str, Any]]) -> None:
    """Chunks become Anthropic's events and then chunks again: texts, reasoning and calls are the same."""
    there = chat_as_messages.StreamTranslator("msg_1", "m")
    events = [event for delta in deltas for event in there.feed(chunk(**delta))]
    back = StreamTranslator("m", 0, True)
    chunks: list[bytes] = []
    for event in [*events, *there.feed(chunk("stop")), *there.finish()]:
        chunks += back.feed(messages.read_event(event).value or {})
    message = completion_of(chunks + back.finish())["choices"][0]["message"]
    blocks = blocks_of(deltas)
    assert message["content"] == "".join(item["text"] for item in blocks if item["type"] == "text")
    assert message["reasoning_content"] == "".join(i["thinking"] for i in blocks if i["type"] == "thinking")
    calls = [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls") or ()
    ]
    uses = [
        (item["id"], item["name"], item["input"] or "{}") for item in blocks if item["type"] == "tool_use"
    ]
    assert calls == uses
