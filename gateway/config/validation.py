"""A parsed file checked against a model: pydantic's findings as `Mistake`s with key, line and plain words.

In: a `Source`, its expanded values and a model class. Out: the model, or all mistakes as one `ConfigError`.
Values that came from the environment or stand under a secret key are never part of a message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config.environment import Expanded
from gateway.config.mistakes import KeyPath, Mistake, dotted
from gateway.config.yaml_source import Source

Model = TypeVar("Model", bound=BaseModel)
_SHOWN_CHARS = 60


def validate(
    model: type[Model], source: Source, expanded: Expanded, context: Mapping[str, Any] | None = None
) -> Model | None:
    """The model, or None with every mistake noted in `source.mistakes`. An empty file stands for `{}`."""
    values = {} if expanded.values is None else expanded.values
    if not isinstance(values, dict):
        source.note((), 1, "the file should hold keys and values, like `key: value`")
        return None
    try:
        return model.model_validate(values, context=context)
    except ValidationError as error:
        _note_all(error.errors(include_url=False), values, source, expanded)
    return None


def _note_all(errors: list[ErrorDetails], values: Any, source: Source, expanded: Expanded) -> None:
    found: dict[KeyPath, Mistake] = {}
    for error in errors:
        path = key_path(error["loc"], values)
        if error["type"].startswith("union_tag"):
            path = (*path, "kind")
        if path in expanded.missing or path in expanded.malformed:
            continue  # already noted, with the better reason
        on_key = error["type"] in ("missing", "union_tag_not_found") or error["loc"][-1:] == ("[key]",)
        line = source.key_line(path) if on_key else source.value_line(path)
        message = expanded.redact(_message(error, expanded.is_secret(path)))
        first = found.get(path)
        if first and message not in first.message:  # the branches of a union, each with its own complaint
            message = f"{first.message}, or {message}"
        found[path] = Mistake(source.name, line, dotted(path), message)
    source.mistakes += found.values()


def key_path(loc: tuple[str | int, ...], values: Any) -> KeyPath:
    """pydantic's `loc` without what is not in the file: union tags, type names, the `[key]` marker."""
    path: KeyPath = ()
    here = values
    for position, part in enumerate(loc):
        is_last = position == len(loc) - 1
        is_tag = isinstance(here, dict) and path and isinstance(path[-1], int) and part == here.get("kind")
        if is_tag and not is_last and isinstance(loc[position - 1], int):
            continue
        if _holds(here, part):
            here = here[part]
        elif not (isinstance(here, dict) and is_last and part != "[key]"):
            continue
        path = (*path, part)
    return path


def _holds(values: Any, part: str | int) -> bool:
    if isinstance(values, dict):
        return part in values
    return isinstance(values, list) and isinstance(part, int) and part < len(values)


def _message(error: ErrorDetails, is_secret: bool) -> str:
    kind, context = error["type"], error.get("ctx", {})
    shown = None if is_secret else _shown(error["input"])
    if kind == "missing":
        return "is missing"
    if kind == "union_tag_not_found":
        kinds = "engine, vllm, sglang, openai, anthropic, litellm"
        return f"is missing; it says what sort of target this is: {kinds}"
    if kind == "union_tag_invalid":
        choices = ", ".join(re.findall(r"'([^']*)'", context["expected_tags"]))
        return f"'{context['tag']}' is not one of {choices}" if not is_secret else f"is not one of {choices}"
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", context["expected"]) or [context["expected"]]
        near = get_close_matches(str(error["input"]), known, n=1) if shown and len(known) > 1 else []
        hint = f"; did you mean '{near[0]}'?" if near else ""
        return f"{shown or ''} is not one of {', '.join(known)}{hint}".lstrip()
    if kind == "too_short":
        return "should not be empty"
    text = error["msg"].removeprefix("Value error, ")
    if kind == "mistake" or not text.startswith("Input should be"):
        return text
    if kind == "tuple_type" and isinstance(error["input"], str):
        return f"should be a list, not {shown}; write [{error['input']}]" if shown else "should be a list"
    text = text.removeprefix("Input ").replace("a valid tuple", "a list").replace("a valid string", "text")
    text = re.sub(r"a valid dictionary( or instance of \w+)?", "keys and values", text)
    text = re.sub(r", (unable to|got) .*", "", text)
    return f"{text}, not {shown}" if shown else text


def _shown(value: Any) -> str | None:
    """A scalar as it would be written in Python; None for what is too long or no scalar."""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str | int | float):
        return "nothing" if value is None else None
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else None
