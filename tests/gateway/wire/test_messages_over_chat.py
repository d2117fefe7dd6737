from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gateway.wire.chat_as_messages import StreamTranslator, response
from gateway.wire.errors import BadRequest, UpstreamFailed
from gateway.wire.messages_over_chat import as_chat_for_count, request
from tests.gateway.wire.chat_streams import JSON, atoms, blocks_of, chunk, exhaust, fragment
from tests.gateway.wire.messages_grammar import message_of, value_of

CALL = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "sky"}}
CHAT_CALL = {"id": "toolu_1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sky"}'}}
SCHEMA = {"type": "object", "properties": {"at": {"type": "string"}}}
TOOL = {"name": "look", "description": "Looks.", "input_schema": SCHEMA}
PIXEL = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
CHAT_PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def user(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def said(*messages: dict[str, Any], **settings: Any) -> dict[str, Any]:
    """The chat request of a Messages request of which nothing is lost."""
    chat, dropped = request({"model": "m", "max_tokens": 9, "messages": list(messages), **settings})
    assert dropped == []
    assert (chat.pop("model"), chat.pop("max_tokens")) == ("m", 9)
    return chat


CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "strings": (
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}],
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}],
    ),
    "one text block": (
        [user(text("hi", cache_control={"type": "ephemeral"}))],
        [{"role": "user", "content": "hi"}],
    ),
    "texts and images": (
        [user(text("a"), PIXEL, {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}})],
        [
            {
                "role": "user",
                "content": [
                    text("a"),
                    CHAT_PIXEL,
                    {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                ],
            }
        ],
    ),
    "documents": (
        [
            user(
                {
                    "type": "document",
                    "title": "T",
                    "source": {"type": "text", "media_type": "text/plain", "data": "abc"},
                },
                {"type": "document", "source": {"type": "content", "content": [text("inner"), PIXEL]}},
                {
                    "type": "document",
                    "title": "p.pdf",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                },
                {"type": "search_result", "source": "https://s", "title": "S", "content": [text("found")]},
            )
        ],
        [
            {
                "role": "user",
                "content": [
                    text("T\n\nabc"),
                    text("inner"),
                    CHAT_PIXEL,
                    {
                        "type": "file",
                        "file": {"filename": "p.pdf", "file_data": "data:application/pdf;base64,JVBE"},
                    },
                    text("S\n\nhttps://s\n\nfound"),
                ],
            }
        ],
    ),
    "a call and its result": (
        [
            {"role": "assistant", "content": [text("Let me"), text(" see."), CALL]},
            user({"type": "tool_result", "tool_use_id": "toolu_1", "content": "blue"}, text("and?")),
        ],
        [
            {"role": "assistant", "content": "Let me see.", "tool_calls": [CHAT_CALL]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": "blue"},
            {"role": "user", "content": "and?"},
        ],
    ),
    "a call without words": (
        [{"role": "assistant", "content": [CALL]}],
        [{"role": "assistant", "content": None, "tool_calls": [CHAT_CALL]}],
    ),
    "results of several kinds": (
        [
            user(
                {"type": "tool_result", "tool_use_id": "a", "content": [text("x"), text("y")]},
                {"type": "tool_result", "tool_use_id": "b", "content": "no such file", "is_error": True},
                {"type": "tool_result", "tool_use_id": "c"},
                {"type": "tool_result", "tool_use_id": "d", "content": [text("seen"), PIXEL]},
            )
        ],
        [
            {"role": "tool", "tool_call_id": "a", "content": "x\n\ny"},
            {"role": "tool", "tool_call_id": "b", "content": "Error: no such file"},
            {"role": "tool", "tool_call_id": "c", "content": ""},
            {"role": "tool", "tool_call_id": "d", "content": "seen"},
            {"role": "user", "content": [text("From the result of tool call d:"), CHAT_PIXEL]},
        ],
    ),
    "thinking": (
        [
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "Eq"},
                    {"type": "redacted_thinking", "data": "x"},
                    text("yes"),
                ],
            }
        ],
        [{"role": "assistant", "content": "yes"}],
    ),
    "a system message in between": (
        [{"role": "system", "content": [text("Be"), text("brief.")]}],
        [{"role": "system", "content": "Be\n\nbrief."}],
    ),
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_conversations(name: str) -> None:
    given_messages, expected = CONVERSATIONS[name]
    assert said(*given_messages) == {"messages": expected}


SETTINGS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"temperature": 0.5, "top_p": 0.9}, {"temperature": 0.5, "top_p": 0.9}),
    ({"stop_sequences": ["\n\n", "END"]}, {"stop": ["\n\n", "END"]}),
    ({"stop_sequences": []}, {}),
    ({"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}),
    ({"stream": False}, {"stream": False}),
    ({"metadata": {"user_id": "u" * 80}}, {"user": "u" * 64}),
    ({"metadata": {}, "cache_control": {"type": "ephemeral"}, "mcp_servers": []}, {}),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"reasoning_effort": "low"}),
    ({"thinking": {"type": "enabled", "budget_tokens": 10000}}, {"reasoning_effort": "medium"}),
    ({"thinking": {"type": "enabled", "budget_tokens": 32000}}, {"reasoning_effort": "high"}),
    ({"thinking": {"type": "disabled"}}, {}),
    ({"thinking": {"type": "adaptive"}}, {}),
    ({"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}, {"reasoning_effort": "xhigh"}),
    (
        {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
            }
        },
    ),
    ({"tools": [], "tool_choice": {"type": "auto"}}, {}),
]


@pytest.mark.parametrize(("settings", "expected"), SETTINGS)
def test_settings(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    assert said(**settings) == {"messages": [], **expected}


def test_the_old_name_of_the_output_format_gives_the_same() -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    assert said(output_format=form) == said(output_config={"format": form})


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, {}),
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "look"},
            {"tool_choice": {"type": "function", "function": {"name": "look"}}},
        ),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_tools(choice: dict[str, Any] | None, expected: dict[str, Any]) -> None:
    strict = {"type": "custom", "name": "f", "input_schema": SCHEMA, "strict": True}
    chat = said(tools=[TOOL, strict], tool_choice=choice)
    assert chat == {
        "messages": [],
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": SCHEMA}},
            {"type": "function", "function": {"name": "f", "parameters": SCHEMA, "strict": True}},
        ],
        **expected,
    }


@pytest.mark.parametrize("system", ["Be brief.", [text("Be brief.", cache_control={"type": "ephemeral"})]])
def test_the_system_prompt_comes_first(system: Any) -> None:
    chat = said({"role": "user", "content": "hi"}, system=system)
    assert chat["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]


def test_what_has_no_equivalent_is_named() -> None:
    body = {
        "model": "m",
        "messages": [],
        "service_tier": "auto",
        "top_k": 5,
        "container": "c",
        "metadata": {"user_id": "u", "team": "t"},
        "output_config": {"effort": "low", "task_budget": {}},
        "x_unknown": 1,
        "speed": None,
    }
    chat, dropped = request(body)
    assert chat == {"model": "m", "messages": [], "user": "u", "reasoning_effort": "low"}
    assert dropped == ["container", "metadata", "output_config", "service_tier", "top_k", "x_unknown"]
    _, dropped = request(
        {"messages": [], "thinking": {"type": "disabled"}, "output_config": {"effort": "low"}}
    )
    assert dropped == ["output_config"]


def test_what_a_target_reads_beyond_openai() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": ""}
    body = {
        "messages": [{"role": "assistant", "content": [thought, text("yes")]}],
        "top_k": 5,
        "max_tokens": 7,
    }
    chat, dropped = request(
        body, limit_name="max_completion_tokens", extensions=("top_k", "reasoning_content")
    )
    turn = {"role": "assistant", "content": "yes", "reasoning_content": "hm"}
    assert chat == {"messages": [turn], "top_k": 5, "max_completion_tokens": 7}
    assert dropped == []


REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "server tool": (
        {"tools": [TOOL, {"type": "web_search_20250305", "name": "web_search"}]},
        "tools[1]",
        "web_search_20250305",
    ),
    "typed client tool": ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools[0]", "'bash'"),
    "MCP server": ({"mcp_servers": [{"type": "url", "name": "files"}]}, "mcp_servers[0]", "'files'"),
    "its result": (
        {"messages": [{"role": "assistant", "content": [{"type": "server_tool_use"}]}]},
        "messages[0].content[0]",
        "server_tool_use",
    ),
    "file id": (
        {"messages": [user({"type": "image", "source": {"type": "file", "file_id": "f"}})]},
        "messages[0].content[0]",
        "file id",
    ),
    "document by URL": (
        {"messages": [user({"type": "document", "source": {"type": "url", "url": "https://x"}})]},
        "messages[0].content[0]",
        "document by URL",
    ),
    "citations": (
        {"messages": [user({"type": "document", "citations": {"enabled": True}})]},
        "messages[0].content[0]",
        "citations",
    ),
    "role": ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "'tool'"),
    "no messages": ({"messages": None}, "messages", "a list"),
    "text of a wrong type": (
        {"messages": [user({"type": "text", "text": 5})]},
        "messages[0].content[0].text",
        "a string",
    ),
    "tool without schema": ({"tools": [{"name": "f"}]}, "tools[0].input_schema", "an object"),
    "tool choice": ({"tools": [TOOL], "tool_choice": {"type": "all"}}, "tool_choice.type", "'all'"),
    "budget": (
        {"thinking": {"type": "enabled", "budget_tokens": True}},
        "thinking.budget_tokens",
        "an integer",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_said_is_refused_by_name(name: str) -> None:
    body, param, words = REFUSED[name]
    with pytest.raises(BadRequest) as refusal:
        request({"messages": [], **body})
    assert refusal.value.param == param
    assert words in refusal.value.message


FIELDS = st.sampled_from(
    [
        *("messages", "system", "tools", "tool_choice", "thinking", "output_config", "output_format"),
        *("metadata", "stop_sequences", "mcp_servers"),
    ]
)


@given(st.dictionaries(FIELDS, JSON), JSON)
def test_any_body_is_translated_or_refused(body: dict[str, Any], content: Any) -> None:
    """What a caller sends never ends as a failure of ours."""
    for messages in ([{"role": "user", "content": content}], body.get("messages")):
        try:
            chat, _ = request(body | {"messages": messages})
        except BadRequest:
            continue
        json.dumps(chat)


def test_translated_requests_are_openais() -> None:
    """By the types that OpenAI publishes."""
    from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming

    settings: dict[str, Any] = {}
    for ours, _ in SETTINGS:
        settings |= ours
    chats = [
        said(*messages, **(settings | {"tools": [TOOL], "stream": False}))
        for messages, _ in CONVERSATIONS.values()
    ]
    adapter = TypeAdapter(CompletionCreateParamsNonStreaming)
    for chat in chats:
        exhaust(adapter.validate_python({"model": "m", **chat}))


def test_tokens_are_counted_as_the_target_gets_them() -> None:
    body = {"model": "m", "system": "s", "messages": [{"role": "user", "content": "hi"}]}
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    assert as_chat_for_count(body) == {"model": "m", "messages": messages}


def completion(message: dict[str, Any], finish_reason: str = "stop", **choice: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 6}}
    return {
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason, **choice}],
        "usage": usage,
    }


def test_a_whole_answer() -> None:
    message = {
        "role": "assistant",
        "content": "Let me see.",
        "reasoning_content": "hm",
        "tool_calls": [CHAT_CALL],
    }
    assert response(completion(message, "tool_calls"), "msg_1", "claude") == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [{"type": "thinking", "thinking": "hm", "signature": ""}, text("Let me see."), CALL],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 4,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 6,
            "output_tokens": 4,
        },
    }


@pytest.mark.parametrize(
    ("answer", "stop_reason", "stop_sequence"),
    [
        (completion({"content": "a"}), "end_turn", None),
        (completion({"content": "a"}, "length"), "max_tokens", None),
        (completion({"content": ""}, "content_filter"), "refusal", None),
        (completion({"content": None, "refusal": "no"}), "refusal", None),
        (completion({"content": None, "tool_calls": [CHAT_CALL]}), "tool_use", None),
        (completion({"content": "a"}, "tool_calls"), "end_turn", None),
        (completion({"content": "a"}, stop_reason="END"), "stop_sequence", "END"),
        (completion({"content": "a"}, matched_stop="END"), "stop_sequence", "END"),
        (completion({"content": "a"}, stop_reason="other"), "end_turn", None),
        (completion({"content": "a"}, matched_stop=[151643]), "end_turn", None),
    ],
)
def test_why_an_answer_stopped(answer: dict[str, Any], stop_reason: str, stop_sequence: str | None) -> None:
    message = response(answer, "msg_1", "m", ["\n\n", "END"])
    assert (message["stop_reason"], message["stop_sequence"]) == (stop_reason, stop_sequence)


def test_tool_calls_that_are_not_as_they_should_be() -> None:
    def call(arguments: Any, **more: Any) -> dict[str, Any]:
        return {"content": None, "tool_calls": [{"function": {"name": "f", "arguments": arguments}, **more}]}

    [block] = response(completion(call("")), "msg_1", "m")["content"]
    assert block == {"type": "tool_use", "id": "toolu_msg_1_0", "name": "f", "input": {}}
    [block] = response(completion(call({"a": 1}, id="x")), "msg_1", "m")["content"]
    assert (block["id"], block["input"]) == ("x", {"a": 1})
    cut = response(completion(call('{"a": '), "length"), "msg_1", "m")
    assert (cut["content"], cut["stop_reason"]) == ([], "max_tokens")
    for arguments in ('{"a": ', "[1]"):
        with pytest.raises(UpstreamFailed, match="'f'"):
            response(completion(call(arguments)), "msg_1", "m")
    with pytest.raises(UpstreamFailed, match="no message"):
        response({"choices": []}, "msg_1", "m")


def stream(*chunks: dict[str, Any]) -> list[bytes]:
    translator = StreamTranslator("msg_1", "claude", ["END"])
    return [event for value in chunks for event in translator.feed(value)] + translator.finish()


def test_a_stream_as_anthropic_writes_it() -> None:
    usage = {"prompt_tokens": 12, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 8}}
    events = stream(
        chunk(role="assistant", content=""),
        chunk(reasoning="hm"),
        chunk(content="Hel"),
        chunk(content="lo"),
        chunk("tool_calls", tool_calls=[fragment(0, '{"at":', id="t1", name="look"), fragment(0, '"sky"}')]),
        {"choices": [], "usage": usage},
    )
    assert [value_of(event)["type"] for event in events] == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop"),
        "message_delta",
        "message_stop",
    ]
    message = message_of(events)
    assert message["content"] == [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        text("Hello"),
        {"type": "tool_use", "id": "t1", "name": "look", "input": '{"at":"sky"}'},
    ]
    assert (message["id"], message["model"], message["stop_reason"]) == ("msg_1", "claude", "tool_use")
    assert message["usage"] == {
        "input_tokens": 4,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 8,
        "output_tokens": 5,
    }


def test_what_can_be_shown_is_shown_at_once() -> None:
    translator = StreamTranslator("msg_1", "m")

    def shown(**delta: Any) -> list[str]:
        values = map(value_of, translator.feed(chunk(**delta)))
        deltas = [value["delta"] for value in values if value["type"] == "content_block_delta"]
        return [given.get("text") or given["partial_json"] for given in deltas]

    assert shown(content="a") == ["a"]
    assert shown(content="b") == ["b"]
    assert shown(tool_calls=[fragment(0, '{"x":{}', id="t1", name="f")]) == ['{"x":{}']
    assert shown(tool_calls=[fragment(1, '{"y":', id="t2", name="g")]) == []
    assert shown(tool_calls=[fragment(0, "}")]) == ["}", '{"y":']
    assert shown(tool_calls=[fragment(1, "2}")]) == ["2}"]
    assert shown(tool_calls=[fragment(2, "{}", id="t3", name="h")]) == ["{}"]
    assert shown(content="so") == ["so"]
    assert [value_of(event)["type"] for event in translator.finish()][-3:] == [
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]


def test_tool_calls_as_careless_servers_stream_them() -> None:
    """One index for all, no index, no id, name after the arguments began, no name at all."""
    one_index = stream(
        chunk(tool_calls=[fragment(0, "{}", id="a", name="f")]),
        chunk(tool_calls=[fragment(0, "{}", id="b", name="g")]),
    )
    assert [(block["id"], block["name"]) for block in message_of(one_index)["content"]] == [
        ("a", "f"),
        ("b", "g"),
    ]
    no_index = stream(
        chunk(tool_calls=[fragment(None, "{", id="a", name="f")]), chunk(tool_calls=[fragment(None, "}")])
    )
    assert message_of(no_index)["content"] == [{"type": "tool_use", "id": "a", "name": "f", "input": "{}"}]
    no_id = stream(chunk(tool_calls=[fragment(0, "{}", name="f"), fragment(1, "{}", name="f")]))
    assert [block["id"] for block in message_of(no_id)["content"]] == ["toolu_msg_1_0", "toolu_msg_1_1"]
    late_name = stream(
        chunk(tool_calls=[fragment(0, "{", id="a")]), chunk(tool_calls=[fragment(0, "}", name="f")])
    )
    assert message_of(late_name)["content"] == [{"type": "tool_use", "id": "a", "name": "f", "input": "{}"}]
    no_name = stream(chunk(tool_calls=[fragment(0, "{}", id="a")]), chunk(content="b"))
    assert [block["type"] for block in message_of(no_name)["content"]] == ["tool_use", "text"]


def test_streams_that_say_little() -> None:
    assert message_of(stream())["content"] == []
    assert message_of(stream(chunk("length")))["stop_reason"] == "max_tokens"
    refused = message_of(stream(chunk(refusal="no"), chunk("stop")))
    assert (refused["content"], refused["stop_reason"]) == ([text("no")], "refusal")
    stopped = chunk("stop")
    stopped["choices"][0]["stop_reason"] = "END"
    assert message_of(stream(chunk(content="a"), stopped))["stop_sequence"] == "END"


def test_a_stream_that_fails_ends_with_the_error() -> None:
    translator = StreamTranslator("msg_1", "m")
    translator.feed(chunk(content="a"))
    [event] = translator.fail(504, "nothing came")
    assert value_of(event)["error"] == {"type": "timeout_error", "message": "nothing came"}


DELTA_KEYS = ("content", "reasoning", "reasoning_content", "refusal", "tool_calls")
USAGE = {"prompt_tokens": 9, "completion_tokens": 4}


@given(atoms(), st.lists(st.booleans()), st.sampled_from(["stop", "tool_calls", "length"]), st.booleans())
def test_any_stream_becomes_well_formed_and_loses_nothing(
    deltas: list[dict[str, Any]], joins: list[bool], finish_reason: str, is_late: bool
) -> None:
    joined: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    for delta, join in zip(deltas, joins + [False] * len(deltas), strict=False):
        if join and "tool_calls" in delta and "tool_calls" in joined[-1]:
            joined[-1] = {"tool_calls": joined[-1]["tool_calls"] + delta["tool_calls"]}
        else:
            joined.append(delta)
    chunks = [chunk(**delta) for delta in joined]
    chunks.append(chunk(finish_reason, None if is_late else USAGE))
    if is_late:
        chunks.append({"choices": [], "usage": USAGE})
    message = message_of(stream(*chunks))
    assert message["content"] == blocks_of(deltas)
    assert message["usage"]["output_tokens"] == 4
    has_tools = any(block["type"] == "tool_use" for block in message["content"])
    expected = "max_tokens" if finish_reason == "length" else "tool_use" if has_tools else "end_turn"
    assert message["stop_reason"] == expected


@given(st.lists(st.dictionaries(st.sampled_from(DELTA_KEYS), JSON)), JSON)
def test_whatever_a_target_sends_becomes_a_stream(deltas: list[dict[str, Any]], choices: Any) -> None:
    chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
    assert value_of(stream(*chunks, {"choices": choices})[-1]) == {"type": "message_stop"}


def test_anthropics_own_client_reads_a_translated_stream() -> None:
    anthropic = pytest.importorskip("anthropic")
    http = pytest.importorskip("httpx2")
    events = stream(
        chunk(reasoning_content="hm"),
        chunk(content="Hello"),
        chunk(tool_calls=[fragment(0, '{"at":', id="t1", name="look"), fragment(1, id="t2", name="f")]),
        chunk("tool_calls", USAGE, tool_calls=[fragment(0, '"sky"}'), fragment(1, "{}")]),
    )
    adapter = TypeAdapter(anthropic.types.RawMessageStreamEvent)
    for event in events:
        adapter.validate_python(value_of(event), strict=True)

    def answer(_: Any) -> Any:
        return http.Response(200, headers={"Content-Type": "text/event-stream"}, content=b"".join(events))

    with (
        http.Client(transport=http.MockTransport(answer)) as transport,
        anthropic.Anthropic(api_key="k", base_url="http://gateway", http_client=transport) as client,
        client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        ) as received,
    ):
        message = received.get_final_message()
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert [block.input for block in message.content[2:]] == [{"at": "sky"}, {}]
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == (
        "tool_use",
        9,
        4,
    )


def test_anthropics_types_read_a_translated_answer() -> None:
    anthropic = pytest.importorskip("anthropic")
    message = {"content": "a", "reasoning": "hm", "tool_calls": [CHAT_CALL]}
    value = response(completion(message, "tool_calls"), "msg_1", "m")
    assert (
        TypeAdapter(anthropic.types.Message).validate_python(value, strict=True).content[2].input
        == CALL["input"]
    )
