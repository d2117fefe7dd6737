"""What a target says of a failure, without what it repeats of the request: the ledger keeps no prompts.

In: an error message, and the body that the target got. Out: the message with `…` where it quotes. Shorter quotes than
`MAX_QUOTED_CHARS` may stay: without words that both have in common no message could be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

MAX_MESSAGE_CHARS = 500
MAX_QUOTED_CHARS = 22
_STEP_CHARS, _WINDOW_CHARS = 8, 16  # of the request: a longer quote holds one of its windows whole
_MAX_BODY_BYTES = 1024 * 1024  # of a larger one nobody looks which part was quoted
_UNREAD = "(not kept: it may repeat the request)"


def without_quotes(message: str, body: bytes) -> str:
    """At most `MAX_MESSAGE_CHARS` of the message."""
    message = message[:MAX_MESSAGE_CHARS]
    if len(message) < _WINDOW_CHARS:
        return message
    if len(body) > _MAX_BODY_BYTES:
        return _UNREAD
    said = "\0".join(_texts(orjson.loads(body), is_top=True))
    kept, at = [], 0
    for begin, end in _quotes(message, said):
        kept += [message[at:begin], "…"]
        at = end
    return "".join([*kept, message[at:]])


def _quotes(message: str, said: str) -> Iterator[tuple[int, int]]:
    width = _WINDOW_CHARS
    windows = {message[at : at + width] for at in range(len(message) - width + 1)}
    shared = windows.intersection(said[at : at + width] for at in range(0, len(said), _STEP_CHARS))
    at = last = 0
    while at + width <= len(message):
        begin, end = at, at + width
        if message[begin:end] not in shared:
            at += 1
            continue
        while begin > last and message[begin - 1 : end] in said:
            begin -= 1
        while end < len(message) and message[begin : end + 1] in said:
            end += 1
        yield begin, end
        at = last = end


def _texts(value: Any, *, is_top: bool = False) -> Iterator[str]:
    """All texts of a body but the model's name, which is no secret."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if not (is_top and name == "model"):
                yield from _texts(item)
