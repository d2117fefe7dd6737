"""Tools in plain messages, for chat templates that know none.

In: messages and the tools on offer. Out: messages of system, user and assistant alone that say the same, in the
form of Hermes: what exists in `<tools>`, calls in `<tool_call>`, results in `<tool_response>`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from engine.tool_calls import HERMES

Object = dict[str, Any]


def spell_out(messages: Iterable[Object], tools: Sequence[Object]) -> list[Object]:
    """Messages as in `engine.chat_template`, without calls and results; `tools` stand in the system message."""
    plain: list[Object] = []
    follows_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result:
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if follows_result:
                plain[-1]["content"] += f"\n{text}"
            else:
                plain.append({"role": "user", "content": text})
        else:
            plain.append({"role": message["role"], "content": _with_calls(message)})
        follows_result = is_result
    if tools:
        if not plain or plain[0]["role"] != "system":
            plain.insert(0, {"role": "system", "content": ""})
        plain[0]["content"] = f"{plain[0]['content']}\n\n{_description(tools)}".lstrip()
    return plain


def _with_calls(message: Object) -> str:
    content: str = message["content"]
    if not message.get("tool_calls"):
        return content
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]]
    return f"{content}\n{HERMES.write(calls)}".lstrip()


def _description(tools: Sequence[Object]) -> str:
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    example = HERMES.first + HERMES.opening("<name>") + "{<arguments>}}" + HERMES.last
    return (
        "# Tools\n\nYou can call functions to help with the user's request. These are their signatures, one a line:\n"
        f"<tools>\n{listed}\n</tools>\n\n"
        "To call one, answer with its name and its arguments as a JSON object, for each call in the form:\n"
        f"{HERMES.trigger}{example}"
    )
