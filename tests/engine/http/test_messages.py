from __future__ import annotations

from typing import Any

import pytest

from engine.errors import InvalidRequest
from engine.http.fields import DEEPEST, Fields
from engine.http.messages import read_messages

CALL = {"id": "call_1", "type": "function", "function": {"name": "paint", "arguments": '{"colour": "red"}'}}


def read(*messages: Any) -> list[dict[str, Any]]:
    return read_messages(Fields({"messages": list(messages)}))


def called(**changes: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": "", "tool_calls": [{**CALL, **changes}]}


def test_calls_and_results_are_read() -> None:
    said, result, stray = read(
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "done"}]},
        {"role": "tool", "tool_call_id": "unknown", "content": ""},
    )
    function = {"name": "paint", "arguments": {"colour": "red"}}
    assert said == {"role": "assistant", "content": "", "tool_calls": [{**CALL, "function": function}]}
    assert result == {"role": "tool", "content": "done", "tool_call_id": "call_1", "name": "paint"}
    assert stray["name"] == ""


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ("", {}),
        ('{"a": {"b": [1]}}', {"a": {"b": [1]}}),
        ('{"a": ', '{"a": '),
        ("[1]", "[1]"),
        ('{"a":' * DEEPEST + "{}" + "}" * DEEPEST, '{"a":' * DEEPEST + "{}" + "}" * DEEPEST),
    ],
)
def test_arguments_that_are_no_object_stay_text(written: str, arguments: object) -> None:
    (message,) = read(called(function={"name": "paint", "arguments": written}))
    assert message["tool_calls"][0]["function"]["arguments"] == arguments


def test_calls_of_other_roles_and_empty_ones_are_left_out() -> None:
    assert read({"role": "user", "content": "x", "tool_calls": [CALL]}) == [{"role": "user", "content": "x"}]
    assert read({"role": "assistant", "content": "x", "tool_calls": []}) == [
        {"role": "assistant", "content": "x"}
    ]


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ({"role": "function", "name": "f", "content": "4"}, "messages[0].role", "unsupported_parameter"),
        ({"role": "tool", "content": "4"}, "messages[0].tool_call_id", "missing_required_parameter"),
        ({"role": "tool", "tool_call_id": "1"}, "messages[0].content", "missing_required_parameter"),
        ({"role": "assistant", "content": None}, "messages[0].content", "missing_required_parameter"),
        ({"role": "assistant", "tool_calls": {}}, "messages[0].tool_calls", "invalid_type"),
        ({"role": "assistant", "tool_calls": [1]}, "messages[0].tool_calls[0]", "invalid_type"),
        (
            {"role": "assistant", "content": "", "function_call": {"name": "f"}},
            "messages[0].function_call",
            "unsupported_parameter",
        ),
        (called(id=None), "messages[0].tool_calls[0].id", "missing_required_parameter"),
        (called(type="custom"), "messages[0].tool_calls[0].type", "unsupported_parameter"),
        (
            called(function={"name": "f"}),
            "messages[0].tool_calls[0].function.arguments",
            "missing_required_parameter",
        ),
    ],
)
def test_what_is_wrong_is_named(message: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read(message)
    assert (refused.value.param, refused.value.code) == (param, code)
