"""Anthropic's stream grammar as a strict reader: events in, the message they build out; a wrong event fails.

message_start (block_start block_delta* block_stop)* message_delta message_stop
"""

from __future__ import annotations

import json
from typing import Any

STOP_REASONS = {"end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal"}
DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}
EMPTY_BLOCKS = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


def value_of(event: bytes) -> dict[str, Any]:
    """The value of an event framed exactly as Anthropic frames it."""
    name, data, *rest = event.decode().split("\n")
    assert rest == ["", ""]
    assert data.startswith("data: ")
    value: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert name == f"event: {value['type']}"
    return value


def message_of(events: list[bytes]) -> dict[str, Any]:
    """The whole message; the input of a tool call stays JSON text."""
    first, *middle, last_delta, stop = map(value_of, events)
    assert first.keys() == {"type", "message"}
    assert first["type"] == "message_start"
    message: dict[str, Any] = first["message"]
    assert (message["content"], message["stop_reason"], message["stop_sequence"]) == ([], None, None)
    assert (message["type"], message["role"]) == ("message", "assistant")
    message["content"] = _blocks(middle)
    assert last_delta.keys() == {"type", "delta", "usage"}
    assert last_delta["type"] == "message_delta"
    assert last_delta["delta"]["stop_reason"] in STOP_REASONS
    assert (last_delta["delta"]["stop_reason"] == "stop_sequence") == bool(
        last_delta["delta"]["stop_sequence"]
    )
    assert stop == {"type": "message_stop"}
    whole: dict[str, Any] = message | last_delta["delta"]
    return whole | {"usage": message["usage"] | last_delta["usage"]}


def _blocks(values: list[dict[str, Any]]) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    is_open = False
    for value in values:
        assert value["index"] == len(blocks) - is_open
        if value["type"] == "content_block_start":
            assert not is_open
            blocks.append(_begun(value["content_block"]))
            is_open = True
            continue
        assert is_open
        if value["type"] == "content_block_stop":
            is_open = False
            continue
        assert value["type"] == "content_block_delta"
        type_, key = DELTAS[blocks[-1]["type"]]
        assert value["delta"].keys() == {"type", key}
        assert value["delta"]["type"] == type_
        assert value["delta"][key] != ""
        blocks[-1]["input" if key == "partial_json" else key] += value["delta"][key]
    assert not is_open
    return blocks


def _begun(block: dict[str, Any]) -> dict[str, Any]:
    if block["type"] != "tool_use":
        assert block == EMPTY_BLOCKS[block["type"]]
        return block
    assert block.keys() == {"type", "id", "name", "input"}
    assert block["input"] == {}
    assert block["id"]
    return block | {"input": ""}
