"""Chat answers as Responses: any order of chunks gives a stream of the published grammar that says the same."""

from __future__ import annotations

import itertools
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from gateway.wire.errors import UpstreamFailed
from gateway.wire.responses_from_chat import StreamTranslator, response
from tests.gateway.wire.responses_grammar import response_of, values_of
from tests.openapi import errors_of, needs_document

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
WEATHER = {"type": "function", "name": "weather", "description": "now", "parameters": {"type": "object"}}
SHELL = {"type": "custom", "name": "shell", "description": "runs text"}
ASKED: dict[str, Any] = {
    "model": "auto",
    "input": "hello",
    "instructions": "be brief",
    "max_output_tokens": 64,
    "metadata": {"team": "a"},
    "reasoning": {"effort": "low"},
    "temperature": 0.5,
    "text": {"verbosity": "low"},
    "tools": [WEATHER, SHELL],
    "tool_choice": "required",
    "top_p": None,
    "user": "u-1",
}
USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "total_tokens": 14,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def chunk(delta: dict[str, Any] | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish, **more}]
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m-1",
        "choices": choices,
    }


def call(index: int, arguments: str, name: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk with one fragment of a tool call; the first has a name and an id."""
    first = {"id": f"call-{index}", "type": "function"} if name else {}
    function = {"arguments": arguments} | ({"name": name} if name else {})
    return chunk({"tool_calls": [{"index": index, **first, "function": function, **more}]})


def translated(*chunks: dict[str, Any]) -> list[bytes]:
    translator = StreamTranslator(ASKED, "resp_1", 17)
    events = [event for one in chunks for event in translator.feed(one)]
    return events + translator.finish()


def types_of(events: list[bytes]) -> list[str]:
    return [value["type"].removeprefix("response.") for value in values_of(events)]


def unknown_fields(parsed: Any, path: str = "") -> list[str]:
    """Fields that OpenAI's own types do not have."""
    if isinstance(parsed, list):
        return [
            found for index, one in enumerate(parsed) for found in unknown_fields(one, f"{path}[{index}]")
        ]
    if not isinstance(parsed, BaseModel):
        return []
    known = [
        found
        for name in parsed.model_fields_set
        for found in unknown_fields(getattr(parsed, name, None), name)
    ]
    return [f"{path}.{name}" for name in parsed.model_extra or ()] + known


def as_openai_parses(model: Any, value: dict[str, Any]) -> None:
    """Nothing is refused, lost, changed or unknown; `store` stands in the document's examples only."""
    parsed = model.validate_python(value)
    assert parsed.to_dict() == value
    assert getattr(parsed, "type", value.get("type")) == value.get("type")
    assert [name for name in unknown_fields(parsed) if not name.endswith(".store")] == []


TEXT = (chunk({"role": "assistant", "content": ""}), chunk({"content": "Hel"}), chunk({"content": "lo"}))
ALL_KINDS = (
    chunk({"reasoning_content": "hm"}),
    *TEXT,
    chunk({"refusal": "but no"}),
    call(0, "", "weather"),
    call(0, '{"at":'),
    call(1, '{"input": "ls', "shell"),
    call(0, '"Oslo"}'),
    call(1, '\\n"}'),
    chunk({}, "tool_calls"),
    {**chunk(), "usage": USAGE},
)


def test_a_text_takes_the_published_course() -> None:
    events = translated(*TEXT, chunk({}, "stop"), {**chunk(), "usage": USAGE})
    assert types_of(events) == [
        *("created", "in_progress", "output_item.added", "content_part.added"),
        *("output_text.delta", "output_text.delta", "output_text.done", "content_part.done"),
        *("output_item.done", "completed"),
    ]
    told = response_of(events)
    part = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
    message = {
        "type": "message",
        "id": "msg_1_0",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }
    assert told["output"] == [message]
    assert told["usage"] == {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 14,
    }
    assert (told["id"], told["created_at"], told["model"], told["store"]) == ("resp_1", 17, "m-1", False)


def test_the_request_is_echoed() -> None:
    told = response_of(translated(*TEXT))
    same = (
        "instructions",
        "max_output_tokens",
        "metadata",
        "reasoning",
        "temperature",
        "tool_choice",
        "top_p",
        "user",
    )
    assert {name: told[name] for name in same} == {name: ASKED[name] for name in same}
    assert told["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert told["tools"] == [{**WEATHER, "strict": None}, SHELL]


def test_events_go_out_as_chunks_come_and_the_end_waits() -> None:
    translator = StreamTranslator(ASKED, "resp_1", 17)
    assert types_of(translator.feed(TEXT[0])) == ["created", "in_progress"]
    assert len(translator.feed(TEXT[1])) == 3
    assert len(translator.feed(TEXT[2])) == 1
    assert translator.feed(chunk({}, "stop")) == []
    assert translator.feed({**chunk(), "usage": USAGE}) == []
    assert len(translator.finish()) == 4


def test_an_item_ends_when_another_begins() -> None:
    """What is thought, said and called in order comes in the order of the published streams."""
    assert types_of(
        translated(
            chunk({"reasoning": "hm"}),
            chunk({"content": "so"}),
            call(0, "{}", "weather"),
            call(1, "{}", "weather"),
        )
    )[2:] == [
        *("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done"),
        *("content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.done"),
        *("content_part.done", "output_item.done"),
        *(
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
        )
        * 2,
        "completed",
    ]


def test_calls_written_in_turns_stay_apart() -> None:
    events = translated(*ALL_KINDS)
    output = response_of(events)["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "custom_tool_call"]
    assert output[2]["arguments"] == '{"at":"Oslo"}'
    assert output[3]["input"] == "ls\n"
    assert [item["call_id"] for item in output[2:]] == ["call-0", "call-1"]


@pytest.mark.parametrize("index", [0, None])
def test_calls_under_one_index_are_told_apart_by_their_ids(index: int | None) -> None:
    def whole(call_id: str) -> dict[str, Any]:
        given = {"id": call_id, "function": {"name": "weather", "arguments": "{}"}}
        return chunk({"tool_calls": [given if index is None else {**given, "index": index}]})

    output = response_of(translated(whole("a"), whole("b")))["output"]
    assert [(item["call_id"], item["arguments"]) for item in output] == [("a", "{}"), ("b", "{}")]


def test_a_call_without_an_id_gets_one() -> None:
    (item,) = response_of(translated(chunk({"tool_calls": [{"function": {"name": "weather"}}]})))["output"]
    assert item["call_id"] == "call_1_0"


def test_a_custom_tool_that_was_not_given_its_one_text_gets_what_was_written() -> None:
    (item,) = response_of(translated(call(0, "ls -l", "shell")))["output"]
    assert item["input"] == "ls -l"


def test_logprobs_reach_deltas_and_parts() -> None:
    top = [{"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": "b", "logprob": -1.5, "bytes": [98]}]
    said = chunk({"content": "a"}, logprobs={"content": [{**top[0], "top_logprobs": top}], "refusal": None})
    events = translated(said)
    (item,) = response_of(events)["output"]
    assert item["content"][0]["logprobs"] == [{**top[0], "top_logprobs": top}]
    assert values_of(events)[4]["logprobs"][0]["top_logprobs"][1] == {"token": "b", "logprob": -1.5}


@needs_document
def test_logprobs_of_a_target_that_knows_no_bytes_are_as_published() -> None:
    token = {"token": "a", "logprob": -0.5, "bytes": None}
    for value in values_of(
        translated(chunk({"content": "a"}, logprobs={"content": [{**token, "top_logprobs": [token]}]}))
    ):
        assert errors_of("ResponseStreamEvent", value) == []


@pytest.mark.parametrize(
    ("finish", "status", "details", "last"),
    [
        ("stop", "completed", None, "completed"),
        ("tool_calls", "completed", None, "completed"),
        (None, "completed", None, "completed"),
        ("length", "incomplete", {"reason": "max_output_tokens"}, "incomplete"),
        ("content_filter", "incomplete", {"reason": "content_filter"}, "incomplete"),
    ],
)
def test_how_an_answer_ends(finish: str | None, status: str, details: Any, last: str) -> None:
    told = response_of(translated(chunk({"reasoning_content": "hm"}), *TEXT, chunk({}, finish)))
    assert (told["status"], told["incomplete_details"]) == (status, details)
    assert [item["status"] for item in told["output"]] == ["completed", last]


def test_every_call_that_was_cut_is_incomplete() -> None:
    chunks = (
        call(0, '{"at":', "weather"),
        call(1, '{"at":', "weather"),
        call(2, "{", "weather"),
        call(1, "1}"),
    )
    told = response_of(translated(*chunks, chunk({}, "length")))
    assert [item["status"] for item in told["output"]] == ["incomplete", "completed", "incomplete"]


def test_blanks_after_a_call_that_has_ended_are_dropped() -> None:
    told = response_of(translated(call(0, "{}", "weather"), call(1, "{}", "weather"), call(0, " \n")))
    assert [item["arguments"] for item in told["output"]] == ["{}", "{}"]


def test_other_choices_have_no_place() -> None:
    told = response_of(translated(chunk({"content": "a"}), chunk({"content": "b"}, index=1)))
    assert summary_of(told["output"])["text"] == "a"


@pytest.mark.parametrize(("status", "code"), [(429, "rate_limit_exceeded"), (504, "server_error")])
def test_a_failure_keeps_what_was_said(status: int, code: str) -> None:
    translator = StreamTranslator(ASKED, "resp_1", 17)
    events = [event for one in ALL_KINDS[:6] for event in translator.feed(one)]
    told = response_of(events + translator.fail(status, "the target broke off"))
    assert (told["status"], told["error"]) == ("failed", {"code": code, "message": "the target broke off"})
    assert [item["status"] for item in told["output"]] == ["completed", "completed", "incomplete"]
    assert told["output"][1]["content"][0]["text"] == "Hello"
    assert "usage" not in told


def test_a_failure_before_the_first_chunk_is_a_whole_stream() -> None:
    events = StreamTranslator(ASKED, "resp_1", 17).fail(502, "no luck")
    assert response_of(events)["model"] == "auto"


def test_a_whole_body() -> None:
    calls = [
        {"id": "call-0", "type": "function", "function": {"name": "weather", "arguments": {"at": "Oslo"}}}
    ]
    message = {"role": "assistant", "content": [{"type": "text", "text": "Hello"}], "tool_calls": calls}
    value = {"model": "m-1", "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
    told = response({**value, "usage": USAGE, "service_tier": "flex"}, ASKED, "resp_1", 17)
    assert told["service_tier"] == "flex"
    assert told["usage"]["total_tokens"] == 14
    assert told["output"][0]["content"][0]["text"] == "Hello"
    assert told["output"][1]["arguments"] == '{"at":"Oslo"}'


@pytest.mark.parametrize("value", [{}, {"choices": []}, {"choices": [{"index": 0, "finish_reason": "stop"}]}])
def test_what_is_no_answer_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(UpstreamFailed, match="no message"):
        response(value, ASKED, "resp_1", 17)


@needs_document
def test_every_event_is_as_published() -> None:
    translator = StreamTranslator(ASKED, "resp_1", 17)
    failed = [event for one in ALL_KINDS[:6] for event in translator.feed(one)] + translator.fail(
        502, "no luck"
    )
    for events in (translated(*ALL_KINDS), translated(*TEXT, chunk({}, "length")), failed):
        for value in values_of(events):
            assert errors_of("ResponseStreamEvent", value) == []
        assert errors_of("Response", response_of(events)) == []


def test_openais_client_follows_a_stream() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        stream = b"".join(translated(*ALL_KINDS))
        return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=stream)

    http = httpx.Client(transport=httpx.MockTransport(answer))
    client = OpenAI(api_key="k", base_url="http://localhost/v1", http_client=http)
    with client, client.responses.stream(model="auto", input="hello") as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert (said, final.output_text) == ("Hello", "Hello")
    assert [item.type for item in final.output][2:] == ["function_call", "custom_tool_call"]


texts = st.text(min_size=1, max_size=6)
KEYS = {"reasoning": "reasoning_content", "text": "content", "refusal": "refusal"}


@st.composite
def written_calls(draw: st.DrawFn) -> list[tuple[str, list[str]]]:
    """Calls: the name of each, and its arguments in fragments."""
    calls = []
    for name in draw(st.lists(st.sampled_from(["weather", "shell"]), max_size=3)):
        key = "input" if name == "shell" else "at"
        whole = draw(
            st.sampled_from(
                ["", " ", "not json", "{}", f'{{"{key}": "x {{}} \\n y"}}', f'{{"{key}": "z"}}  ']
            )
        )
        cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
        places = [0, *cuts, len(whole)]
        calls.append((name, [whole[start:end] for start, end in itertools.pairwise(places)]))
    return calls


@st.composite
def answers(draw: st.DrawFn, *, in_order: bool) -> list[dict[str, Any]]:
    """Chunks of an answer. In order: reasoning, text, refusal, then the calls; else mixed in any way."""
    kinds = draw(st.lists(st.tuples(st.sampled_from(list(KEYS)), texts), max_size=8))
    if in_order:
        kinds.sort(key=lambda said: list(KEYS).index(said[0]))
    speech = [chunk({KEYS[kind]: text}) for kind, text in kinds]
    calls = [
        [call(index, part, name if at == 0 else None) for at, part in enumerate(parts)]
        for index, (name, parts) in enumerate(draw(written_calls()))
    ]
    if in_order:
        chunks = [*speech, *(one for fragments in calls for one in fragments)]
    else:
        sources = [speech, *calls]
        turns = draw(st.permutations([at for at, source in enumerate(sources) for _ in source]))
        lines = [iter(source) for source in sources]
        chunks = [next(lines[at]) for at in turns]
    finish = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter"]))
    end = draw(st.sampled_from([[], [{**chunk(), "usage": USAGE}]]))
    return [chunk({"role": "assistant", "content": ""}), *chunks, chunk({}, finish), *end]


def whole_of(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The body that the same answer is when it is not streamed."""
    message: dict[str, Any] = {"role": "assistant"}
    calls: dict[int, dict[str, Any]] = {}
    finish, usage = None, None
    for one in chunks:
        usage = one.get("usage") or usage
        for choice in one["choices"]:
            finish = choice["finish_reason"] or finish
            for key in KEYS.values():
                message[key] = message.get(key, "") + choice["delta"].get(key, "")
            for part in choice["delta"].get("tool_calls", []):
                known = calls.setdefault(part["index"], {"function": {"arguments": ""}})
                known["id"] = known.get("id") or part["id"]
                known["function"]["name"] = known["function"].get("name") or part["function"]["name"]
                known["function"]["arguments"] += part["function"]["arguments"]
    message["tool_calls"] = [calls[index] for index in calls]
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"model": "m-1", "choices": [choice], "usage": usage}


def summary_of(output: list[dict[str, Any]]) -> dict[str, Any]:
    """What is said in a response's output, whatever its items; blanks after arguments say nothing."""
    parts = [part for item in output for part in item.get("content", ())]
    return {
        "reasoning": "".join(part["text"] for part in parts if part["type"] == "reasoning_text"),
        "text": "".join(part["text"] for part in parts if part["type"] == "output_text"),
        "refusal": "".join(part["refusal"] for part in parts if part["type"] == "refusal"),
        "calls": [
            (
                item["call_id"],
                item["name"],
                (item["input"] if "input" in item else item["arguments"]).rstrip(),
            )
            for item in output
            if "call_id" in item
        ],
    }


def said_in(message: dict[str, Any]) -> dict[str, Any]:
    """The same of a chat message, for the arguments that `written_calls` makes."""
    inputs = {'{"input": "x {} \\n y"}': "x {} \n y", '{"input": "z"}  ': "z"}
    calls = []
    for one in message["tool_calls"]:
        name, written = one["function"]["name"], one["function"]["arguments"]
        calls.append(
            (one["id"], name, (inputs.get(written, written) if name == "shell" else written).rstrip())
        )
    return {**{kind: message[key] for kind, key in KEYS.items()}, "calls": calls}


@given(answers(in_order=False))
def test_any_mixture_gives_a_stream_of_the_grammar_that_says_the_same(chunks: list[dict[str, Any]]) -> None:
    whole = whole_of(chunks)
    said = said_in(whole["choices"][0]["message"])
    assert summary_of(response_of(translated(*chunks))["output"]) == said
    assert summary_of(response(whole, ASKED, "resp_1", 17)["output"]) == said


@settings(max_examples=50)
@given(answers(in_order=True))
def test_an_answer_in_order_is_the_same_streamed_and_whole(chunks: list[dict[str, Any]]) -> None:
    streamed = response_of(translated(*chunks))
    assert streamed == response(whole_of(chunks), ASKED, "resp_1", 17)


@settings(max_examples=30)
@given(answers(in_order=False))
def test_openais_types_take_every_event(chunks: list[dict[str, Any]]) -> None:
    events = translated(*chunks)
    for value in values_of(events):
        as_openai_parses(EVENTS, value)
    as_openai_parses(TypeAdapter(Response), response_of(events))
