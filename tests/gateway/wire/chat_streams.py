"""What the tests of translated streams and requests share: chat chunks, streams of any kind, and any JSON at all."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["", "user", "text", "auto", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "source", "name", "input", "id", "url"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


# Texts that look like what ends a stream or tells its usage.
MARKS = ("[DONE]", '"error"', "message_stop", "response.completed", '"usage":{', "\n\ndata: {}\n\n")


def exhaust(value: Any) -> None:
    """pydantic checks an `Iterable` while it is read."""
    if isinstance(value, dict):
        value = value.values()
    if not isinstance(value, str | int | float | None):
        for item in value:
            exhaust(item)


def chunk(
    finish_reason: str | None = None, usage: dict[str, Any] | None = None, **delta: Any
) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}], "usage": usage}


def fragment(index: int | None, arguments: str = "", **head: str) -> dict[str, Any]:
    """A fragment of a tool call; with `id` and `name` its first one."""
    call: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if "name" in head:
        call["function"]["name"] = head["name"]
    return call | ({"id": head["id"]} if "id" in head else {})


@st.composite
def atoms(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Deltas of text, reasoning and interleaved tool calls, in any order that a target could write them."""
    words = st.text(min_size=1, max_size=8)
    if draw(st.integers(0, 3)) == 3:
        words |= st.sampled_from(MARKS)
    sources: list[list[dict[str, Any]]] = [
        [{"content": word} for word in draw(st.lists(words, max_size=4))],
        [{"reasoning_content": word} for word in draw(st.lists(words, max_size=3))],
    ]
    for index in range(draw(st.integers(0, 4))):
        arguments = json.dumps(
            draw(
                st.dictionaries(words, st.dictionaries(words, words, max_size=1) | st.integers(), max_size=3)
            )
        )
        arguments = arguments[
            : draw(st.sampled_from([0, len(arguments) // 2, len(arguments), len(arguments)]))
        ]
        calls = [fragment(index, id=f"call_{index}", name=f"tool_{index}")]
        while arguments:
            size = draw(st.integers(1, len(arguments)))
            calls.append(fragment(index, arguments[:size]))
            arguments = arguments[size:]
        sources.append([{"tool_calls": [call]} for call in calls])
    mixed: list[dict[str, Any]] = []
    while any(sources):
        source = draw(st.sampled_from([source for source in sources if source]))
        for _ in range(draw(st.integers(1, len(source)))):
            mixed.append(source.pop(0))
    return mixed


def blocks_of(deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the deltas say, block by block in the order they began."""
    blocks: list[dict[str, Any]] = []
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                calls[call["index"]] = {
                    "type": "tool_use",
                    "id": call["id"],
                    "name": call["function"]["name"],
                    "input": "",
                }
                blocks.append(calls[call["index"]])
            calls[call["index"]]["input"] += call["function"]["arguments"]
        for key, kind, empty in (
            ("content", "text", {}),
            ("reasoning_content", "thinking", {"signature": ""}),
        ):
            if key in delta:
                if not blocks or blocks[-1]["type"] != kind:
                    blocks.append({"type": kind, kind: "", **empty})
                blocks[-1][kind] += delta[key]
    return blocks
