"""The input of a Responses call as chat messages: what is said, in which message, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.wire.errors import BadRequest
from gateway.wire.responses_input import messages_of
from tests.openapi import errors_of, needs_document

USER = {"role": "user", "content": "hello"}


def message(role: str, *content: dict[str, Any]) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": list(content)}


def answer(*content: dict[str, Any]) -> dict[str, Any]:
    """A message of the assistant, as an earlier response gave it."""
    return {**message("assistant", *content), "id": "msg_1", "status": "completed"}


def said_text(said: str) -> dict[str, Any]:
    return {"type": "output_text", "text": said, "annotations": [], "logprobs": []}


def text(said: str, type_: str = "input_text") -> dict[str, Any]:
    return {"type": type_, "text": said}


def call(number: int, name: str = "weather") -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": f"fc_{number}",
        "call_id": f"call-{number}",
        "name": name,
        "arguments": "{}",
    }


def output(number: int, said: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call-{number}", "output": said}


def reasoning(*content: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": list(content), **more}


def chat_call(number: int, name: str = "weather", arguments: str = "{}") -> dict[str, Any]:
    return {"id": f"call-{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


IMAGE = {"type": "input_image", "image_url": "https://a.example/b.png", "detail": "auto"}
CHAT_IMAGE = {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}}
CASES: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "a string": ("hello", [USER]),
    "a message without a type": ([USER], [USER]),
    "a lone text part": ([message("user", text("hello"))], [USER]),
    "developers are system": (
        [message("developer", text("be brief"))],
        [{"role": "system", "content": "be brief"}],
    ),
    "text and image": (
        [message("user", text("what?"), {**IMAGE, "detail": "original"})],
        [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what?"},
                    {"type": "image_url", "image_url": {"url": "https://a.example/b.png", "detail": "high"}},
                ],
            }
        ],
    ),
    "a file": (
        [
            message(
                "user",
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
            )
        ],
        [
            {
                "role": "user",
                "content": [
                    {
                        "type": "file",
                        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
                    }
                ],
            }
        ],
    ),
    "no parts": ([message("user")], [{"role": "user", "content": ""}]),
    "a refusal": (
        [answer({"type": "refusal", "refusal": "no"})],
        [{"role": "assistant", "content": None, "refusal": "no"}],
    ),
    "a turn with calls": (
        [
            USER,
            reasoning(text("I look", "reasoning_text")),
            answer(said_text("I look")),
            call(1),
            call(2),
            output(1, "cold"),
            output(2, [text("and"), text("wet")]),
            answer(said_text("cold and wet")),
        ],
        [
            USER,
            {
                "role": "assistant",
                "content": "I look",
                "reasoning_content": "I look",
                "tool_calls": [chat_call(1), chat_call(2)],
            },
            {"role": "tool", "tool_call_id": "call-1", "content": "cold"},
            {
                "role": "tool",
                "tool_call_id": "call-2",
                "content": [{"type": "text", "text": "and"}, {"type": "text", "text": "wet"}],
            },
            {"role": "assistant", "content": "cold and wet"},
        ],
    ),
    "calls before words": (
        [USER, call(1), answer(said_text("I look")), output(1, "cold")],
        [
            USER,
            {"role": "assistant", "content": "I look", "tool_calls": [chat_call(1)]},
            {"role": "tool", "tool_call_id": "call-1", "content": "cold"},
        ],
    ),
    "a custom tool": (
        [
            {"type": "custom_tool_call", "call_id": "call-1", "name": "shell", "input": 'ls "a"'},
            {"type": "custom_tool_call_output", "call_id": "call-1", "output": "none"},
        ],
        [
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [chat_call(1, "shell", '{"input":"ls \\"a\\""}')],
            },
            {"role": "tool", "tool_call_id": "call-1", "content": "none"},
        ],
    ),
    "images from tools": (
        [call(1), call(2), output(1, [IMAGE]), output(2, [text("b"), IMAGE]), message("user", text("so?"))],
        [
            {"role": "assistant", "content": None, "tool_calls": [chat_call(1), chat_call(2)]},
            {"role": "tool", "tool_call_id": "call-1", "content": ""},
            {"role": "tool", "tool_call_id": "call-2", "content": "b"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "From the output of tool call call-1:"},
                    CHAT_IMAGE,
                    {"type": "text", "text": "From the output of tool call call-2:"},
                    CHAT_IMAGE,
                ],
            },
            {"role": "user", "content": "so?"},
        ],
    ),
    "an image from a tool at the end": (
        [call(1), output(1, [IMAGE])],
        [
            {"role": "assistant", "content": None, "tool_calls": [chat_call(1)]},
            {"role": "tool", "tool_call_id": "call-1", "content": ""},
            {
                "role": "user",
                "content": [{"type": "text", "text": "From the output of tool call call-1:"}, CHAT_IMAGE],
            },
        ],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_input_as_messages(name: str) -> None:
    given, expected = CASES[name]
    assert messages_of(None, given, keeps_reasoning=True) == (expected, [])


@needs_document
@pytest.mark.parametrize("name", CASES)
def test_both_sides_are_as_published(name: str) -> None:
    given, expected = CASES[name]
    assert errors_of("CreateResponse", {"model": "m", "input": given}) == []
    assert errors_of("CreateChatCompletionRequest", {"model": "m", "messages": expected}) == []


def test_instructions_come_first() -> None:
    messages, _ = messages_of("be brief", "hello", keeps_reasoning=False)
    assert messages == [{"role": "system", "content": "be brief"}, USER]


@pytest.mark.parametrize(
    ("item", "keeps_reasoning"),
    [
        (reasoning(text("hm", "reasoning_text")), False),
        (reasoning(encrypted_content="gAAA"), True),
        ({"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}, True),
    ],
)
def test_reasoning_that_a_target_cannot_read_is_left_out(item: dict[str, Any], keeps_reasoning: bool) -> None:
    given = [USER, item, answer(said_text("hi"))]
    messages, left_out = messages_of(None, given, keeps_reasoning)
    assert messages == [USER, {"role": "assistant", "content": "hi"}]
    assert left_out == ["input[1]"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        (None, "input"),
        ([], "input"),
        (3, "input"),
        (["hello"], "input[0]"),
        ([{"type": "message", "role": "usher", "content": "x"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([message("user", {"type": "input_text"})], "input[0].content[0].text"),
        ([{"type": "function_call", "call_id": "a", "name": "f"}], "input[0].arguments"),
        ([{"type": "function_call_output", "output": "x"}], "input[0].call_id"),
    ],
)
def test_what_is_wrong_is_refused_with_its_place(given: Any, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        messages_of(None, given, keeps_reasoning=False)
    assert (refused.value.param, refused.value.code) == (param, "invalid_request")


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "input[0]"),
        ({"type": "web_search_call", "id": "ws_1", "status": "completed"}, "input[0]"),
        (
            message("user", {"type": "input_image", "file_id": "file-1", "detail": "auto"}),
            "input[0].content[0]",
        ),
        (message("user", {"type": "input_file", "file_url": "https://a.example"}), "input[0].content[0]"),
        (message("user", {"type": "input_audio"}), "input[0].content[0]"),
    ],
)
def test_what_chat_cannot_say_is_refused_by_name(item: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest, match="choose a target that speaks Responses") as refused:
        messages_of(None, [item], keeps_reasoning=False)
    assert (refused.value.param, refused.value.code) == (param, "unsupported_parameter")


def test_reasoning_that_led_to_nothing_is_not_put_into_another_turn() -> None:
    given = [reasoning(text("hm", "reasoning_text")), USER, answer(said_text("hi"))]
    messages, _ = messages_of(None, given, keeps_reasoning=True)
    assert messages == [USER, {"role": "assistant", "content": "hi"}]
