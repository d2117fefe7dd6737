"""Calls found in text, however it is cut."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.tool_calls import HERMES, LLAMA, MISTRAL, CallReader, ToolFormat, format_of

NAMES = ("weather", "weather_at")
FORMATS = {"hermes": HERMES, "mistral": MISTRAL, "llama": LLAMA}
Calls = list[tuple[str, str]]  # names and arguments as written


def read(form: ToolFormat, pieces: list[str]) -> tuple[str, Calls]:
    """Content and calls, joined."""
    reader, content, calls = CallReader(form, NAMES), "", Calls()
    for at in range(len(pieces) + 1):
        some = reader.push(pieces[at]) if at < len(pieces) else reader.close()
        content += some.content
        for piece in some.calls:
            if piece.name is not None:
                assert piece.index == len(calls)
                calls.append((piece.name, ""))
            name, arguments = calls[piece.index]
            calls[piece.index] = (name, arguments + piece.arguments)
    return content, calls


def cut(text: str, places: list[int]) -> list[str]:
    at = sorted({place % (len(text) + 1) for place in places} | {0, len(text)})
    return [text[start:end] for start, end in pairwise(at)]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=6)
    | st.sampled_from(['"', "}", "\\", "</tool_call>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
calls_made = st.lists(
    st.tuples(st.sampled_from(NAMES), st.dictionaries(st.text(max_size=4), json_values, max_size=3)),
    max_size=3,
)
# Bits of markup, so that whatever is nearly a call comes up.
scraps = st.lists(
    st.sampled_from(
        [
            *(
                "<tool_call>",
                "</tool_call>",
                "[TOOL_CALLS]",
                "<|python_tag|>",
                "<tool",
                "[",
                "]",
                ",",
                "{",
                "}",
                '"',
                "\n",
            ),
            *(
                '{"name": "weather", "arguments": {',
                '{"name": "weather", "parameters": {',
                '"a": 1',
                '"name"',
                " x ",
                "é",
            ),
        ]
    ),
    max_size=14,
).map("".join)
places = st.lists(st.integers(0, 1000), max_size=12)
forms = st.sampled_from(sorted(FORMATS))


@given(forms, scraps, places)
@example("hermes", '<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>\n<tool_call>', [70])
def test_how_text_is_cut_changes_nothing(name: str, text: str, at: list[int]) -> None:
    form = FORMATS[name]
    assert read(form, cut(text, at)) == read(form, [text]) == read(form, list(text))


@given(forms, st.text(max_size=12), calls_made, places)
def test_what_is_written_is_read(
    name: str, content: str, made: list[tuple[str, object]], at: list[int]
) -> None:
    form = FORMATS[name]
    if not form.between:
        made, content = made[:1], ""
    text = content + (form.write(made) if made else "")
    found, calls = read(form, cut(text, at))
    assert [(called, json.loads(arguments)) for called, arguments in calls] == made
    assert found == (content.rstrip() if made else content)


@given(st.sampled_from(["hermes", "mistral"]), st.text("abc<[T\n ", max_size=20), places)
def test_text_without_a_call_is_content(name: str, text: str, at: list[int]) -> None:
    assert read(FORMATS[name], cut(text, at)) == (text, [])


@pytest.mark.parametrize(
    ("form", "text", "content", "calls"),
    [
        (
            HERMES,
            '<tool_call>{"name":"weather","arguments":{"a":1}}</tool_call>',
            "",
            [("weather", '{"a":1}')],
        ),
        (HERMES, 'So: <tool_call>\n{"name": "weather", "arguments": {}}', "So:", [("weather", "{}")]),
        (
            HERMES,
            '<tool_call>{"name": "weather", "arguments": {}}</tool_call> done',
            " done",
            [("weather", "{}")],
        ),
        (HERMES, '<tool_call>{"name": "weather", "arguments": {}}</tool_call>\n', "", [("weather", "{}")]),
        (MISTRAL, '[TOOL_CALLS] [{"name": "weather", "arguments": {}}]', "", [("weather", "{}")]),
        (LLAMA, ' {"name": "weather", "parameters": {"a": [{}]}}', "", [("weather", '{"a": [{}]}')]),
        (LLAMA, '<|python_tag|>{"name": "weather_at", "parameters": {}}', "", [("weather_at", "{}")]),
    ],
)
def test_models_may_write_calls_a_little_differently(
    form: ToolFormat, text: str, content: str, calls: Calls
) -> None:
    assert read(form, list(text)) == (content, calls)


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>'),
        (HERMES, "<tool_call>weather()</tool_call>"),
        (HERMES, 'a <tool_call>\n{"name": "weather", "arguments": "none"}'),
        (HERMES, "a <tool_ca"),
        (MISTRAL, '[TOOL_CALLS][{"name": "weather"}]'),
        (LLAMA, '{"a": 1}'),
        (LLAMA, '{"name": "wea'),
        (LLAMA, 'Like {"name": "weather", "parameters": {}}'),
    ],
)
def test_what_is_no_call_stays_content(form: ToolFormat, text: str) -> None:
    assert read(form, list(text)) == (text, [])


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HERMES, 'a <tool_call>\n{"name": "wea'),
        (HERMES, "a\n<tool_call>"),
        (MISTRAL, 'a[TOOL_CALLS][{"name": "weather", "arg'),
        (LLAMA, 'a<|python_tag|>{"na'),
    ],
)
def test_a_call_cut_off_before_its_arguments_is_not_told(form: ToolFormat, text: str) -> None:
    assert read(form, list(text)) == ("a", [])


def test_a_call_after_a_broken_one_is_found() -> None:
    good = HERMES.write([("weather", {"a": 1})])
    assert read(HERMES, list(f"<tool_call>oops {good}")) == ("<tool_call>oops", [("weather", '{"a": 1}')])


def test_a_call_is_told_before_its_arguments_are_complete() -> None:
    reader = CallReader(HERMES, NAMES)
    assert not reader.push('I ask. <tool_call>\n{"name": "weather", "arguments": ').calls
    (begun,) = reader.push('{"city": "Par').calls
    assert (begun.index, begun.name, begun.arguments) == (0, "weather", '{"city": "Par')
    assert not reader.has_ended_call
    (going_on,) = reader.push('is"}}').calls
    assert (going_on.index, going_on.name, going_on.arguments) == (0, None, 'is"}')
    assert reader.has_ended_call


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ '[TOOL_CALLS]' }}", MISTRAL),
        ("<tool_call> {{ '\"parameters\": ' }}", HERMES),
        ("{{ '<|python_tag|>' }}", LLAMA),
        ("{{ '\"parameters\": ' }}", LLAMA),
        ("{{ messages }}", HERMES),
    ],
)
def test_a_template_tells_the_format(template: str, form: ToolFormat) -> None:
    assert format_of(template) is form
