"""Threads: how a call's messages begin, in salted hashes, by which the drain finds the task of a call that names none.

In: the caller, the messages of a call (of chat completions, Responses or Messages), and what else it goes on from. Out:
`own`, where the conversation stands with this call, and `from`, where it may have stood before: for each turn of the
model the hash of all messages before it, and with it. No text leaves here, and without the salt no text can be guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import orjson

Thread = dict[str, list[Any]]
DIGITS = 16
TURNS = 3  # looked at from the end, beside the first: enough for a history of which some was cut or edited
_MARK = b'"cache_control":'  # which clients move on from call to call
_NOT_OF_MODEL = ("_output", "_response")  # ends of the types of items that answer the model's


class Threads:
    """One salt's hashes; the salt is the same for all workers and gateways of a database."""

    def __init__(self, salt: bytes) -> None:
        self._salt = salt
        self._starts: dict[str, Any] = {}  # by caller

    def of(
        self, caller: str, history: Sequence[Any], goes_on_from: str | None, response_id: str | None = None
    ) -> Thread | None:
        """None where nothing can go on from the call, nor it from another.

        `goes_on_from`: the response or conversation that the call names, whose messages it leaves out;
        `response_id`: what its own answer may be named by.
        """
        start = self._starts.get(caller)
        if start is None:
            start = self._starts[caller] = sha256(self._salt + caller.encode() + b"\0")
        if goes_on_from is None and response_id is None:
            return _thread(history, start.copy()) if history else None
        named = [_digest(start, each) for each in (goes_on_from, response_id) if each]
        if goes_on_from:
            return {"own": named, "from": [[named[0], None]]}
        thread = (_thread(history, start.copy()) if history else None) or {"own": [], "from": []}
        thread["own"] += named
        return thread


def _thread(history: Sequence[Any], running: Any) -> Thread | None:
    levels: list[list[str]] = []
    done = 0
    try:
        for begin, end in _turns(history):
            before = _add(running, history[done:begin])
            levels.append([before, _add(running, history[begin:end])])
            done = end
        own = _add(running, history[done:]) if done < len(history) else levels[-1][1]
    except orjson.JSONEncodeError:  # nested more deeply than it can be written
        return None
    levels.reverse()
    return {"own": [own], "from": levels}


def _turns(history: Sequence[Any]) -> list[tuple[int, int]]:
    """(begin, end) of the model's turns that have something before them: the first, and the last few."""
    turns: list[tuple[int, int]] = []
    begin = 0
    for i, message in enumerate(history):
        role = message.get("role") if isinstance(message, dict) else "user"
        if role == "assistant" or (role is None and _is_item_of_model(message)):
            begin = begin or i
        elif begin:
            turns.append((begin, i))
            begin = 0
    if begin:
        turns.append((begin, len(history)))
    return turns if len(turns) <= TURNS + 1 else [turns[0], *turns[-TURNS:]]


def _is_item_of_model(item: dict[str, Any]) -> bool:
    """Of the Responses API."""
    kind = item.get("type")
    return isinstance(kind, str) and not kind.endswith(_NOT_OF_MODEL)


def _add(running: Any, messages: Sequence[Any]) -> str:
    """Takes these in, and returns the hash of all so far, which does not depend on where they were cut."""
    data = orjson.dumps(messages, option=orjson.OPT_SORT_KEYS)
    if _MARK in data:
        data = orjson.dumps(_unmarked(messages), option=orjson.OPT_SORT_KEYS)
    running.update(data[1:-1] + b",")
    digest: str = running.hexdigest()[:DIGITS]
    return digest


def _digest(start: Any, name: str) -> str:
    of_name = start.copy()
    of_name.update(name.encode("utf-8", "replace"))
    digest: str = of_name.hexdigest()[:DIGITS]
    return digest


def _unmarked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unmarked(item) for key, item in value.items() if key != "cache_control"}
    return [_unmarked(item) for item in value] if isinstance(value, list) else value
