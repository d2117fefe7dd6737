"""The grammar of a Responses stream, held strictly: what may come when, and what the deltas add up to.

In: the bytes of a stream. Out: its last response, whose output is exactly what its deltas said; an `AssertionError`
for anything out of place.
"""

from __future__ import annotations

from typing import Any

import orjson

from gateway.wire.sse import data_of

_EMPTY_PARTS: dict[str, dict[str, Any]] = {
    "output_text": {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    "refusal": {"type": "refusal", "refusal": ""},
    "reasoning_text": {"type": "reasoning_text", "text": ""},
}
_PARTS_OF = {"message": ("output_text", "refusal"), "reasoning": ("reasoning_text",)}
_WRITTEN = {"function_call": "arguments", "custom_tool_call": "input"}


def values_of(events: list[bytes]) -> list[dict[str, Any]]:
    """The decoded events: numbered from 0, each framed alone, its type on both lines."""
    values: list[dict[str, Any]] = []
    for number, event in enumerate(events):
        value = orjson.loads(data_of(event) or b"")
        assert event.startswith(b"event: " + value["type"].encode() + b"\ndata: ")
        assert event.endswith(b"\n\n")
        assert event.count(b"\n") == 3
        assert value["sequence_number"] == number
        values.append(value)
    return values


def response_of(events: list[bytes]) -> dict[str, Any]:
    """The response that a stream ends with."""
    first, second, *middle, last = values_of(events)
    assert (first["type"], second["type"]) == ("response.created", "response.in_progress")
    assert first["response"] == second["response"]
    assert (first["response"]["status"], first["response"]["output"]) == ("in_progress", [])
    status: str = last["response"]["status"]
    assert last["type"] == f"response.{status}"
    assert status in ("completed", "incomplete", "failed")
    reader = _Reader()
    for value in middle:
        reader.read(value)
    if status != "failed":
        assert not any(item.is_open for item in reader.items), "an item has no end"
        assert last["response"]["output"] == [item.value for item in reader.items]
    said: dict[str, Any] = last["response"]
    return said


class _Item:
    """An item as its events tell of it."""

    def __init__(self, value: dict[str, Any]) -> None:
        self.value = value
        self.is_open = True
        self.has_open_part = False
        self.is_written = False  # its part's text, or its arguments, are said to be whole


class _Reader:
    def __init__(self) -> None:
        self.items: list[_Item] = []

    def read(self, event: dict[str, Any]) -> None:
        kind: str = event["type"]
        if kind == "response.output_item.added":
            self._add_item(event)
            return
        item = self.items[event["output_index"]]
        assert item.is_open, f"{kind} after the item's end"
        if kind == "response.output_item.done":
            self._end_item(item, event["item"])
            return
        assert event["item_id"] == item.value["id"]
        if item.value["type"] in _WRITTEN:
            self._write(item, event)
        else:
            self._talk(item, event)

    def _add_item(self, event: dict[str, Any]) -> None:
        value = event["item"]
        assert event["output_index"] == len(self.items)
        assert value["id"] not in [item.value["id"] for item in self.items]
        assert value.get("status", "in_progress") == "in_progress"
        assert value[_WRITTEN.get(value["type"], "content")] in ("", [])
        self.items.append(_Item(value))

    def _end_item(self, item: _Item, value: dict[str, Any]) -> None:
        assert not item.has_open_part
        assert item.is_written
        item.is_open = False
        ended = {key: said for key, said in value.items() if key != "status"}
        assert ended == {key: said for key, said in item.value.items() if key != "status"}
        assert value.get("status", "completed") in ("completed", "incomplete")
        item.value = value

    def _write(self, item: _Item, event: dict[str, Any]) -> None:
        key = _WRITTEN[item.value["type"]]
        name = "function_call_arguments" if key == "arguments" else "custom_tool_call_input"
        assert not item.is_written
        if event["type"] == f"response.{name}.delta":
            assert event["delta"] != ""
            item.value[key] += event["delta"]
        else:
            assert event["type"] == f"response.{name}.done"
            assert event[key] == item.value[key]
            assert event.get("name", item.value["name"]) == item.value["name"]
            item.is_written = True

    def _talk(self, item: _Item, event: dict[str, Any]) -> None:
        kind, content = event["type"], item.value["content"]
        if kind == "response.content_part.added":
            part = event["part"]
            assert not item.has_open_part
            assert event["content_index"] == len(content)
            assert part == _EMPTY_PARTS[part["type"]]
            assert part["type"] in _PARTS_OF[item.value["type"]]
            content.append(part)
            item.has_open_part, item.is_written = True, False
            return
        assert item.has_open_part
        assert event["content_index"] == len(content) - 1
        part = content[-1]
        key = "refusal" if part["type"] == "refusal" else "text"
        if kind == "response.content_part.done":
            assert item.is_written
            assert event["part"] == part
            item.has_open_part = False
        elif kind == f"response.{part['type']}.delta":
            assert not item.is_written
            assert event["delta"] != ""
            part[key] += event["delta"]
            part.get("logprobs", []).extend(_long(token) for token in event.get("logprobs", []))
        else:
            assert kind == f"response.{part['type']}.done"
            assert not item.is_written
            assert event[key] == part[key]
            item.is_written = True


def _long(token: dict[str, Any]) -> dict[str, Any]:
    """An event's logprob as parts list it, where the bytes are those of the token."""
    top = [{**one, "bytes": list(one["token"].encode())} for one in token["top_logprobs"]]
    return {**token, "bytes": list(token["token"].encode()), "top_logprobs": top}
