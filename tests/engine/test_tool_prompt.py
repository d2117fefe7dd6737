"""What a model reads of tools, calls and results, through templates that know them and one that does not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.chat_template import ChatTemplate
from engine.errors import InvalidRequest
from engine.tool_calls import HERMES, LLAMA, MISTRAL
from engine.tool_prompt import spell_out
from tests.engine.toy import TEMPLATE

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Größe", "parameters": {"type": "object"}},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Köln"}}}
RESULT = {"role": "tool", "content": "rain", "tool_call_id": "call_1", "name": "weather"}
CHAT: list[dict[str, Any]] = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL, {**CALL, "id": "call_2"}]},
    RESULT,
    {**RESULT, "tool_call_id": "call_2", "content": "sun"},
    {"role": "user", "content": "Thanks"},
]
WRITTEN = '<tool_call>\n{"name": "weather", "arguments": {"city": "Köln"}}\n</tool_call>'
KNOWING = (  # shows everything it is given as JSON
    "{% for tool in tools or [] %}{{ tool | tojson }}\n{% endfor %}"
    "{% for message in messages %}{{ message | tojson }}\n{% endfor %}"
)


def test_calls_and_results_are_spelled_out() -> None:
    plain = spell_out(CHAT, [])
    assert [message["role"] for message in plain] == ["user", "assistant", "user", "user"]
    assert plain[1]["content"] == f"{WRITTEN}\n{WRITTEN}"
    assert plain[2]["content"] == (
        "<tool_response>\nrain\n</tool_response>\n<tool_response>\nsun\n</tool_response>"
    )
    assert all(set(message) == {"role", "content"} for message in plain)


def test_what_was_said_beside_a_call_stands_before_it() -> None:
    message = {"role": "assistant", "content": "Let me look.", "tool_calls": [CALL]}
    assert spell_out([message], [])[0]["content"] == f"Let me look.\n{WRITTEN}"


@pytest.mark.parametrize("system", ["", "Be terse."])
def test_tools_stand_in_the_system_message(system: str) -> None:
    chat = [{"role": "system", "content": system}] if system else []
    told, *others = spell_out([*chat, *CHAT], [TOOL])
    assert told["role"] == "system"
    assert told["content"].startswith(system or "# Tools")
    listed = told["content"].partition("<tools>\n")[2].partition("\n</tools>")[0]
    assert json.loads(listed) == TOOL
    assert "Größe" in listed
    assert others == spell_out(CHAT, [])
    assert CHAT[0] == {"role": "user", "content": "Weather?"}, "the messages given are left as they are"


def test_without_tools_and_calls_nothing_changes() -> None:
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]
    assert spell_out(chat, []) == chat


def test_a_template_without_tools_gets_plain_messages() -> None:
    template = ChatTemplate(TEMPLATE, {})
    assert not template.knows_tools
    assert template.tool_format is HERMES
    shown = template.render(CHAT, [TOOL])
    assert shown.startswith("<|im_start|>system\n# Tools\n")
    assert '"name": "weather", "description": "Größe"' in shown
    assert f"<|im_start|>assistant\n{WRITTEN}" in shown


def test_a_template_that_knows_tools_gets_them_as_they_are() -> None:
    template = ChatTemplate(KNOWING, {})
    assert template.knows_tools
    assert list(map(json.loads, template.render(CHAT, [TOOL]).splitlines())) == [TOOL, *CHAT]


@pytest.mark.parametrize("source", ["{{ raise_exception('no') }}", "{{ tools[0].nothing.there }}"])
def test_a_template_that_fails_on_tools_knows_none(source: str) -> None:
    assert not ChatTemplate(source, {}).knows_tools


def test_mistrals_templates_get_ids_of_their_length() -> None:
    template = ChatTemplate("{# [TOOL_CALLS] #}" + KNOWING, {})
    assert template.tool_format is MISTRAL
    first, second = (json.loads(line) for line in template.render(CHAT, []).splitlines()[1:3])
    ids = [call["id"] for call in first["tool_calls"]]
    assert [len(call_id) for call_id in ids] == [9, 9]
    assert all(call_id.isalnum() for call_id in ids)
    assert ids[0] == second["tool_call_id"] != ids[1]


def test_a_template_may_refuse_several_calls() -> None:
    source = (
        KNOWING + "{# <|python_tag|> #}{% for message in messages %}"
        "{% if message.tool_calls and message.tool_calls | length > 1 %}{{ raise_exception('one at once') }}"
        "{% endif %}{% endfor %}"
    )
    template = ChatTemplate(source, {})
    assert template.tool_format is LLAMA
    with pytest.raises(InvalidRequest, match="one at once"):
        template.render(CHAT, [TOOL])
