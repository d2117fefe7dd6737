"""Reads the messages of a chat, with calls of functions and their results.

In: a JSON body's fields. Out: messages as `engine.chat_template` renders them. Knows no tools on offer.
"""

from __future__ import annotations

from typing import Any

import orjson

from engine.chat_template import Message
from engine.http.fields import Fields, is_too_deep

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def read_messages(fields: Fields) -> list[Message]:
    """Content that may be absent becomes an empty text, which every template takes."""
    if fields.raw("messages") is None:
        raise fields.missing("messages")
    items = fields.objects("messages", "messages")
    if not items:
        raise fields.invalid("messages", "at least one message is needed.")
    called: dict[str, str] = {}  # names of functions by the ids of their calls
    return [_read_message(item, called) for item in items]


def _read_message(fields: Fields, called: dict[str, str]) -> Message:
    role = fields.required_text("role")
    if role == "function":
        raise fields.unsupported("role", "give results in messages of role 'tool'.")
    if role not in _ROLES:
        raise fields.invalid("role", f"{role!r} is none of {', '.join(_ROLES)}.")
    if fields.raw("function_call"):
        raise fields.unsupported("function_call", "give calls in 'tool_calls'.")
    message: Message = {"role": _ROLES[role]}
    calls = [_read_call(call, called) for call in fields.objects("tool_calls", "calls")]
    if role == "assistant" and calls:
        message["content"] = "" if fields.raw("content") is None else _read_content(fields)
        message["tool_calls"] = calls
    else:
        message["content"] = _read_content(fields)
    if role == "tool":
        call_id = fields.required_text("tool_call_id")
        message |= {"tool_call_id": call_id, "name": called.get(call_id, "")}
    return message


def _read_call(fields: Fields, called: dict[str, str]) -> dict[str, Any]:
    call_id = fields.required_text("id")
    if fields.text("type") not in (None, "function"):
        raise fields.unsupported("type", "only functions can have been called.")
    function = fields.object("function")
    name = called[call_id] = function.required_text("name")
    arguments = _parsed(function.required_text("arguments"))
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _parsed(arguments: str) -> Any:
    """The object that templates expect; text that is none stays what it is."""
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        return arguments
    return value if isinstance(value, dict) and not is_too_deep(value) else arguments


def _read_content(fields: Fields) -> str:
    content = fields.raw("content")
    if content is None:
        raise fields.missing("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise fields.wrong_type("content", "a string or an array of text parts")
    texts: list[str] = []
    for part in fields.objects("content", "text parts"):
        kind = part.required_text("type")
        if kind != "text":
            raise part.unsupported("type", f"it reads text only, not {kind!r}.")
        texts.append(part.required_text("text"))
    return "\n".join(texts)
