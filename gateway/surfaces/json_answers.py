"""Whether an answer is JSON as its call asked for: by its JSON Schema where it gave one.

In: a request's body, the answer as the client got it, whole or as a stream. Out: yes or no. Only asked where a policy
says `completed_when: json_valid`. Schemas and answers are others': patterns, which can take for ever, are not checked,
nothing is fetched, and what takes more than `MAX_STEPS` counts as right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import orjson

from gateway.wire.fields import inner
from gateway.wire.paths import MESSAGES, RESPONSES
from gateway.wire.sse import EventSplitter, data_of

MAX_STEPS = 5_000  # applications of a schema's keywords: some 50 ms
_NOT_CHECKED = ("pattern", "patternProperties", "format", "uniqueItems")


class _TooMuch(Exception):
    """The schema asks for more steps than an answer is worth."""


def is_valid(path: str, body: dict[str, Any], answer: bytes) -> bool:
    texts = [*_texts(path, answer)]
    schema = _schema(path, body)
    return bool(texts) and all(_fits(text, schema) for text in texts)


def _fits(text: str, schema: Any) -> bool:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return not isinstance(schema, dict) or _check()(schema, value)


def _schema(path: str, body: dict[str, Any]) -> Any:
    """None where none was given."""
    if path == RESPONSES:
        return inner(inner(body, "text"), "format").get("schema")
    if path == MESSAGES:
        told = inner(inner(body, "output_config"), "format") or inner(body, "output_format")
        return told.get("schema")
    return inner(inner(body, "response_format"), "json_schema").get("schema")


def _texts(path: str, answer: bytes) -> Iterable[str]:
    """Of every choice."""
    values = [*_values(answer)]
    if path == RESPONSES:
        responses = [inner(value, "response") or value for value in values]
        items = [item for response in responses for item in _dicts(response.get("output"))]
        parts = [part for item in items for part in _dicts(item.get("content"))]
        return ["".join(str(part.get("text")) for part in parts if part.get("type") == "output_text")]
    if path == MESSAGES:
        blocks = [block for value in values for block in _dicts(value.get("content"))]
        deltas = [inner(value, "delta") for value in values]
        return ["".join(part["text"] for part in (*blocks, *deltas) if isinstance(part.get("text"), str))]
    by_choice: dict[str, str] = {}
    for choice in (choice for value in values for choice in _dicts(value.get("choices"))):
        said = inner(choice, "message") or inner(choice, "delta") or {"content": choice.get("text")}
        index = str(choice.get("index"))
        by_choice[index] = by_choice.get(index, "") + _text(said.get("content"))
    return by_choice.values()


def _text(content: Any) -> str:
    """Of a choice; some servers give it in parts."""
    parts = [part["text"] for part in _dicts(content) if isinstance(part.get("text"), str)]
    return content if isinstance(content, str) else "".join(parts)


def _values(answer: bytes) -> Iterator[dict[str, Any]]:
    """The JSON objects of a body, or of a stream's events."""
    is_whole = answer.lstrip().startswith(b"{")
    for data in [answer] if is_whole else map(data_of, EventSplitter().feed(answer)):
        try:
            value = orjson.loads(data or b"")
        except orjson.JSONDecodeError:
            continue
        if isinstance(value, dict):
            yield value


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


@cache
def _check() -> Callable[[dict[str, Any], Any], bool]:
    """Loaded where it is needed: the library takes its time."""
    from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
    from jsonschema.validators import extend  # type: ignore[import-untyped]
    from referencing import Registry

    steps = 0

    def counted(keyword: Any) -> Any:
        def apply(*given: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > MAX_STEPS:
                raise _TooMuch
            return keyword(*given) or ()

        return apply

    keywords = {name: counted(keyword) for name, keyword in Draft202012Validator.VALIDATORS.items()}
    bounded = extend(Draft202012Validator, keywords | dict.fromkeys(_NOT_CHECKED, lambda *_: ()))

    def check(schema: dict[str, Any], value: Any) -> bool:
        nonlocal steps
        steps = 0
        try:
            return bool(bounded(schema, registry=Registry()).is_valid(value))
        except Exception:  # the schema is wrong, or too much: the answer is JSON, more cannot be said
            return True

    return check
