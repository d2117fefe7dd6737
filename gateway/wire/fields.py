"""Values of decoded JSON, typed: checked where a caller sent them, taken as they are where a target did.

In: decoded bodies. Out: their values; a wrong one in a request is a `BadRequest` that names its path. Knows no API:
the translations between APIs share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import orjson

from gateway.wire.errors import BadRequest

MAX_TOKENS = 2**31 - 1  # as the ledger's columns hold them
MAX_DEPTH = 250  # of nesting that orjson writes; it reads four times as much
WRAPPED = 16  # levels that a translation may put around what it was given
T = TypeVar("T", str, int, list[Any], dict[str, Any])
_WORDS = {str: "a string", int: "an integer", list: "a list", dict: "an object"}


def expect(value: Any, kind: type[T], path: str) -> T:
    """`value`, which must be of `kind`; a boolean is no integer."""
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    raise BadRequest(f"'{path}' must be {_WORDS[kind]}", param=path)


def objects(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a list, each with its path."""
    for index, item in enumerate(expect(value, list, path)):
        yield f"{path}[{index}]", expect(item, dict, f"{path}[{index}]")


def blocks(content: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Content of either API as blocks, each with its path: a string is one block of text, None is none."""
    if isinstance(content, str):
        yield path, {"type": "text", "text": content}
    elif content is not None:
        yield from objects(content, path)


def text_of(block: dict[str, Any], path: str) -> str:
    """The text of a block, which must be a text block."""
    if block.get("type") != "text":
        raise BadRequest(f"'{path}' must be text, not of type {block.get('type')!r}", param=path)
    return expect(block.get("text"), str, f"{path}.text")


def inner(value: dict[str, Any], key: str) -> dict[str, Any]:
    """The object under `key`; an empty one if there is none. For answers, which nobody can be asked to correct."""
    item = value.get(key)
    return item if isinstance(item, dict) else {}


def count(value: Any) -> int | None:
    """A number of tokens as a target tells it, 0 where it tells none; None for what can be no such number."""
    if type(value) is float and value.is_integer():
        value = int(value)
    elif value is None:
        return 0
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def inner_objects(value: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """The objects in the list under `key`; none if there is no list."""
    items = value.get(key)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def string(value: dict[str, Any], key: str) -> str:
    """The text under `key`; empty if there is none."""
    item = value.get(key)
    return item if isinstance(item, str) else ""


def index_of(value: dict[str, Any]) -> int:
    """Where it stands among its like; 0 where that is not said."""
    index = value.get("index")
    return index if isinstance(index, int) else 0


def answered(data: bytes) -> dict[str, Any] | None:
    """The JSON object that a target answered with; None for anything else, and for one that is nested more deeply
    than it could be written again."""
    try:
        value = orjson.loads(data)
        could_be_deep = len(data) > 2 * MAX_DEPTH - WRAPPED
        if could_be_deep and data.count(b"{") + data.count(b"[") > MAX_DEPTH - WRAPPED:
            wrapped = value
            for _ in range(WRAPPED):
                wrapped = [wrapped]
            orjson.dumps(wrapped)
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return None
    return value if isinstance(value, dict) else None


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is; an empty text is an empty object, anything else None."""
    try:
        value = orjson.loads(text) if text.strip() else {}
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
