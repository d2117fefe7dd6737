"""A request of every API with nearly everything in it that clients send, and any spoiled version of one."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
METADATA = {"task_id": "t1", "workflow": "w1", "task_shape": "support", "slo_ttft_ms": "250", "team": "blue"}
FUNCTION = {"name": "weather", "description": "now", "parameters": SCHEMA, "strict": True}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}

CHAT: dict[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {
                    "type": "image_url",
                    "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"},
                },
            ],
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ],
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}},
    "max_completion_tokens": 4096,
    "temperature": 0,
    "top_p": 0.9,
    "stop": ["END"],
    "seed": 7,
    "user": "u1",
    "reasoning_effort": "low",
    "stream": True,
    "stream_options": {"include_usage": False},
    "metadata": METADATA,
    "sparkgate": {"speculation": "off"},
}
COMPLETIONS: dict[str, Any] = {
    "model": "auto",
    "prompt": "Once",
    "max_tokens": 5,
    "temperature": 0,
    "stop": "END",
    "logprobs": 1,
    "stream": False,
    "metadata": METADATA,
}
EMBEDDINGS: dict[str, Any] = {
    "model": "auto",
    "input": ["one", "two"],
    "encoding_format": "float",
    "dimensions": 2,
    "user": "u1",
}
RESPONSES: dict[str, Any] = {
    "model": "auto",
    "instructions": "Be brief.",
    "input": [
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "auto"},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": '{"city": "Paris"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "A pixel."}]},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [{"type": "function", **FUNCTION}, {"type": "custom", "name": "shell"}],
    "tool_choice": {"type": "function", "name": "weather"},
    "text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "include": ["message.output_text.logprobs"],
    "max_output_tokens": 4096,
    "temperature": 0,
    "store": False,
    "stream": True,
    "user": "u1",
    "metadata": METADATA,
    "sparkgate": {"speculation": "off"},
}
MESSAGES: dict[str, Any] = {
    "model": "auto",
    "max_tokens": 4096,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Paris"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [{"type": "text", "text": "sunny"}],
                }
            ],
        },
    ],
    "tools": [{"name": "weather", "description": "now", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "stop_sequences": ["END"],
    "temperature": 1,
    "top_k": 5,
    "stream": True,
    "metadata": {"user_id": "u1"},
}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETIONS,
    "/v1/embeddings": EMBEDDINGS,
    "/v1/responses": RESPONSES,
    "/v1/messages": MESSAGES,
    "/v1/messages/count_tokens": {
        key: value for key, value in MESSAGES.items() if key not in ("max_tokens", "stream")
    },
}


def nested(value: Any, depth: int) -> Any:
    """The value inside so many lists."""
    for _ in range(depth):
        value = [value]
    return value


_WORDS = st.sampled_from(
    ["", "auto", "text", "user", "function", "json_schema", "tool", "\0", "é" * 300, "9" * 40]
)
_LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | _WORDS
JUNK = st.recursive(
    _LEAVES.filter(lambda leaf: leaf not in (float("inf"), -float("inf"))),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "name", "input"]), inner, max_size=3
        )
        | st.builds(nested, inner, st.sampled_from([1, 300]))
    ),
    max_leaves=6,
)


@st.composite
def spoiled(draw: st.DrawFn, body: dict[str, Any]) -> dict[str, Any]:
    """The body with up to three of its values, at any depth, replaced by something else or left out."""
    body = copy.deepcopy(body)
    for _ in range(draw(st.integers(0, 3))):
        places = list(_places(body))
        if not places:
            break
        container, key = draw(st.sampled_from(places))
        if draw(st.integers(0, 3)) == 0:
            del container[key]
        else:
            container[key] = draw(JUNK)
    return body


def _places(value: Any) -> Any:
    """(container, key) of every value inside."""
    waiting = [value]
    while waiting:
        container = waiting.pop()
        for key in list(container) if isinstance(container, dict) else range(len(container)):
            yield container, key
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
