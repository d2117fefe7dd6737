"""Answers of chat completions as Anthropic's Messages API gives them: whole bodies, and streams event by event.

In: decoded chat bodies or chunks, in order. Out: a message, or its events as Anthropic sends them: one block at a
time, each closed for good before the next begins. A block that begins while another is still being written waits, so
tool calls that a target writes in turns come out one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from gateway.ledger.records import Usage
from gateway.wire import chat
from gateway.wire.errors import UpstreamFailed
from gateway.wire.fields import index_of, inner, json_object, string
from gateway.wire.messages import error_value, event, usage_value

# By kind of block: the type of its deltas, and the key of their text.
_DELTAS = {
    "text": ("text_delta", "text"),
    "thinking": ("thinking_delta", "thinking"),
    "tool_use": ("input_json_delta", "partial_json"),
}


def response(
    value: dict[str, Any], message_id: str, model: str, stop_sequences: Collection[str] = ()
) -> dict[str, Any]:
    """A chat completion as a message. `model` is what the client is told; `stop_sequences` are the request's.

    Raises `UpstreamFailed` for an answer that is none: no choice, or a finished tool call that is not JSON.
    """
    choice = _first_choice(value)
    said = inner(choice, "message")
    if not said:
        raise UpstreamFailed("the target's answer has no message", code="bad_response")
    content: list[dict[str, Any]] = []
    if reasoning := _reasoning_of(said):
        content.append({"type": "thinking", "thinking": reasoning, "signature": ""})
    if text := _content_of(said):
        content.append({"type": "text", "text": text})
    for index, call in enumerate(_objects(said.get("tool_calls"))):
        block = _tool_use(call, choice.get("finish_reason") == "length")
        if block is not None:
            content.append(block | {"id": call.get("id") or _tool_id(message_id, index)})
    has_tools = any(block["type"] == "tool_use" for block in content)
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        **_stop_of(choice, stop_sequences, has_tools, bool(said.get("refusal"))),
        "usage": usage_value(chat.usage_of(value) or Usage(0, 0)),
    }


def _tool_use(call: dict[str, Any], is_cut: bool) -> dict[str, Any] | None:
    """None for a call that the output limit cut."""
    function = inner(call, "function")
    arguments = json_object(_arguments_of(function))
    if arguments is not None:
        return {"type": "tool_use", "name": function.get("name") or "", "input": arguments}
    if is_cut:
        return None
    raise UpstreamFailed(
        f"the target called tool {function.get('name')!r} with arguments that are no JSON object",
        code="bad_response",
    )


@dataclass(slots=True)
class _Block:
    """A content block. `waiting` are its fragments that the client has not got yet."""

    kind: Literal["text", "thinking", "tool_use"]
    id: str = ""
    name: str = ""
    is_open: bool = False
    waiting: list[str] = field(default_factory=list)
    _arguments: list[str] = field(default_factory=list)
    _is_whole: bool | None = None  # unknown since the last fragment

    def add(self, fragment: str) -> None:
        self.waiting.append(fragment)
        if self.kind == "tool_use":
            self._arguments.append(fragment)
            self._is_whole = None

    @property
    def can_end(self) -> bool:
        """Whether nothing can follow: later text may begin a new block, arguments must be a whole object."""
        if self.kind != "tool_use":
            return True
        if self._is_whole is None:
            text = "".join(self._arguments).rstrip()
            self._is_whole = text.endswith("}") and json_object(text) is not None
        return self._is_whole

    def start(self, fallback_id: str) -> dict[str, Any]:
        if self.kind == "text":
            return {"type": "text", "text": ""}
        if self.kind == "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        return {"type": "tool_use", "id": self.id or fallback_id, "name": self.name, "input": {}}


class StreamTranslator:
    """One stream: `feed` every chunk, then either `finish` or `fail`. Each gives whole events to send.

    The end waits for `finish`, since usage may come after the finish reason.
    """

    def __init__(self, message_id: str, model: str, stop_sequences: Collection[str] = ()) -> None:
        """`model` is what the client is told; `stop_sequences` are the request's."""
        self._message_id, self._model, self._stop_sequences = message_id, model, stop_sequences
        self._blocks: deque[_Block] = deque()  # the first one is open, or about to be
        self._calls: dict[int, _Block] = {}  # by the target's index
        self._num_done = 0
        self._is_started = False
        self._has_refusal = False
        self._last_choice: dict[str, Any] = {}
        self._usage = Usage(0, 0)

    def feed(self, chunk: dict[str, Any]) -> list[bytes]:
        """The events of one decoded chunk; other choices than the first have no place in a message."""
        self._usage = chat.usage_of(chunk) or self._usage
        choice = _first_choice(chunk)
        delta = inner(choice, "delta")
        self._say("thinking", _reasoning_of(delta))
        self._say("text", _content_of(delta))
        self._has_refusal = self._has_refusal or bool(delta.get("refusal"))
        for call in _objects(delta.get("tool_calls")):
            self._call(call)
        if choice.get("finish_reason"):
            self._last_choice = choice
        return [*self._begin(), *self._flow(is_last=False)]

    def finish(self) -> list[bytes]:
        """What waited, then the end."""
        events = [*self._begin(), *self._flow(is_last=True)]
        stop = _stop_of(self._last_choice, self._stop_sequences, bool(self._calls), self._has_refusal)
        events.append(event({"type": "message_delta", "delta": stop, "usage": usage_value(self._usage)}))
        events.append(event({"type": "message_stop"}))
        return events

    def fail(self, status: int, message: str) -> list[bytes]:
        """The error ends the stream, as it does at Anthropic: open blocks stay open."""
        return [event(error_value(status, message))]

    def _say(self, kind: Literal["text", "thinking"], text: str) -> None:
        if not text:
            return
        if not self._blocks or self._blocks[-1].kind != kind:
            self._blocks.append(_Block(kind))
        self._blocks[-1].add(text)

    def _call(self, call: dict[str, Any]) -> None:
        """Takes in a fragment of a tool call. Some servers give every call the same index, or none."""
        function = inner(call, "function")
        index, call_id, name = index_of(call), string(call, "id"), string(function, "name")
        block = self._calls.get(index)
        if block is None or (name and call_id and call_id != block.id):
            block = self._calls[index] = _Block("tool_use")
            self._blocks.append(block)
        block.id, block.name = block.id or call_id, block.name or name
        block.add(_arguments_of(function))

    def _begin(self) -> list[bytes]:
        if self._is_started:
            return []
        self._is_started = True
        message: dict[str, Any] = {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_value(self._usage),
        }
        return [event({"type": "message_start", "message": message})]

    def _flow(self, *, is_last: bool) -> list[bytes]:
        """Writes blocks from the front, as far as they may go now."""
        events: list[bytes] = []
        while self._blocks:
            block = self._blocks[0]
            if not block.is_open:
                if block.kind == "tool_use" and not block.name and not is_last:
                    break
                start = block.start(_tool_id(self._message_id, self._num_done))
                events.append(self._event("content_block_start", content_block=start))
                block.is_open = True
            if text := "".join(block.waiting):
                type_, key = _DELTAS[block.kind]
                events.append(self._event("content_block_delta", delta={"type": type_, key: text}))
            block.waiting.clear()
            if not is_last and (len(self._blocks) == 1 or not block.can_end):
                break
            events.append(self._event("content_block_stop"))
            self._num_done += 1
            self._blocks.popleft()
        return events

    def _event(self, type_: str, **fields: Any) -> bytes:
        return event({"type": type_, "index": self._num_done, **fields})


def _first_choice(value: dict[str, Any]) -> dict[str, Any]:
    """The one choice of a body or chunk; empty if it has none."""
    return next(iter(_objects(value.get("choices"))), {})


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _reasoning_of(said: dict[str, Any]) -> str:
    """The reasoning of a message or delta, under either name that servers use."""
    found = said.get("reasoning_content") or said.get("reasoning")
    return found if isinstance(found, str) else ""


def _arguments_of(function: dict[str, Any]) -> str:
    """The arguments of a tool call, or a fragment of them; some servers give the object itself."""
    given = function.get("arguments") or ""
    return given if isinstance(given, str) else orjson.dumps(given).decode()


def _content_of(said: dict[str, Any]) -> str:
    """The text of a message or delta; a refusal is text too."""
    content = said.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return (content if isinstance(content, str) else "") + str(said.get("refusal") or "")


def _tool_id(message_id: str, index: int) -> str:
    """An id for a tool call whose target gave none: unique in a conversation, as Anthropic's are."""
    return f"toolu_{message_id}_{index}"


def _stop_of(
    choice: dict[str, Any], stop_sequences: Collection[str], has_tools: bool, has_refusal: bool
) -> dict[str, str | None]:
    """`stop_reason` and `stop_sequence`; servers that say which one it was do so in two ways."""
    reason = choice.get("finish_reason")
    told = (choice.get("stop_reason"), choice.get("matched_stop"))
    matched = next((stop for stop in stop_sequences if stop in told), None)
    if reason == "length":
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if reason == "content_filter" or has_refusal:
        return {"stop_reason": "refusal", "stop_sequence": None}
    if has_tools:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    return {"stop_reason": "stop_sequence" if matched else "end_turn", "stop_sequence": matched}
