"""Random streams of events as chat completions, Messages and Responses have them, well-formed and with faults.

`events(api)` draws one answer. Nothing here reads a stream: every event knows from its making what it means.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from hypothesis import strategies as st

from tests.gateway.wire.chat_streams import atoms, fragment

HUGE_CHARS = 300_000  # more than the gateway holds back, and than it reads at a time
MANY = 70  # more events than it holds back
Api = Literal["chat", "messages", "responses"]
Kind = Literal["comment", "frame", "token", "finish", "usage", "done", "error", "malformed"]
Usage = tuple[int, int]


@dataclass(frozen=True, repr=False)
class Event:
    """`unasked` is what a client gets that did not ask for usage; the same bytes, unless usage is all in them.

    `delta` is what it adds to the answer, and `finish_reason` why that ends, both in the words of chat completions.
    """

    kind: Kind
    raw: bytes
    unasked: bytes
    delta: dict[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None
    usage: Usage | None = None

    def __repr__(self) -> str:
        """In short: Hypothesis shows hundreds of them at a time."""
        return f"<{self.kind} {len(self.raw)} {self.raw[-40:]!r}>"

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(repr(self))


@dataclass(frozen=True)
class _Style:
    """How an upstream writes its events."""

    eol: bytes
    comma: str
    colon: str
    is_ascii: bool
    null_at: int | None  # where in each chunk of chat `"usage": null` stands
    lines_before: bytes  # of chat's events; the others have their name there

    def framed(self, data: bytes, lines_before: bytes | None = None) -> bytes:
        return (self.lines_before if lines_before is None else lines_before) + b"data: " + data + 2 * self.eol

    def bare(self, kind: Kind, data: bytes) -> Event:
        """An event that means nothing but its kind."""
        raw = self.framed(data)
        return Event(kind, raw, raw)

    def named(self, kind: Kind, value: dict[str, Any], **meaning: Any) -> Event:
        """An event of Messages or Responses: its type on both lines."""
        name = b"event: " + str(value["type"]).encode() + self.eol
        raw = self.framed(self._object([self._field(*item) for item in value.items()]), name)
        return Event(kind, raw, raw, **meaning)

    def chunk(self, kind: Kind, delta: dict[str, Any] | None, **given: Any) -> Event:
        """An event of chat completions; a `delta` of None leaves its choices empty."""
        finish_reason, usage = given.get("finish_reason"), given.get("usage")
        choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
        meaning = delta if delta and kind == "token" else {}
        value = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
        fields = [self._field(*item) for item in (value | {"choices": choices, "x_unknown": [1]}).items()]
        unasked = self.framed(self._object(fields))
        if usage is not None:
            counts = {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)}
            raw = self.framed(self._object([*fields, self._field("usage", counts)]))
            return Event(kind, raw, raw if choices else b"", meaning, finish_reason, usage)
        if self.null_at is not None:
            fields.insert(self.null_at, self._field("usage", None))
        return Event(kind, self.framed(self._object(fields)), unasked, meaning, finish_reason)

    def _object(self, fields: list[str]) -> bytes:
        return f"{{{self.comma.join(fields)}}}".encode()

    def _field(self, name: str, value: Any) -> str:
        said = json.dumps(value, ensure_ascii=self.is_ascii, separators=(self.comma, self.colon))
        return f'"{name}"{self.colon}{said}'


_STYLES = st.builds(
    _Style,
    eol=st.sampled_from([b"\n", b"\n", b"\r\n"]),
    comma=st.sampled_from([",", ", "]),
    colon=st.sampled_from([":", ": "]),
    is_ascii=st.booleans(),
    null_at=st.none() | st.integers(0, 6),
    lines_before=st.sampled_from([b"", b"", b"", b"event: message\n", b"id: 7\n"]),
)
_USAGE = st.tuples(st.integers(0, 9999), st.integers(0, 9999))


@st.composite
def events(draw: st.DrawFn, api: Api) -> list[Event]:
    """An answer's events, mostly as they should be."""
    style = draw(_STYLES)
    deltas = draw(atoms())
    if draw(st.integers(0, 30)) == 30:
        deltas.insert(draw(st.integers(0, len(deltas))), {"content": "h" * HUGE_CHARS})
    drawn = _ANSWERS[api](draw, style, deltas)
    faults = st.sampled_from(["comment", "comment", "error", "malformed", "done", "usage", "unknown"])
    for fault in draw(st.lists(faults, max_size=2)):
        drawn.insert(draw(st.integers(0, len(drawn))), _fault(fault, style, api))
    return drawn


def _fault(kind: str, style: _Style, api: Api) -> Event:
    if kind == "comment":
        raw = b": ping" + 2 * style.eol
        return Event("comment", raw, raw)
    if kind == "malformed":
        return style.bare("malformed", b'{"choices": [{"delta": {"content": "x')
    if kind == "unknown":
        return style.named("frame", {"type": "vendor.news", "value": [{}]})
    return _FAULTS[api](style)[kind]


def _chat(draw: st.DrawFn, style: _Style, deltas: list[dict[str, Any]]) -> list[Event]:
    start = style.chunk("frame", {"role": "assistant", "content": ""})
    drawn = [start] * draw(st.sampled_from([0, 1, 1, 1, MANY]))
    drawn += [style.chunk("token", delta, usage=draw(st.none() | _USAGE | st.none())) for delta in deltas]
    reason = draw(st.sampled_from(["stop", "stop", "length", "tool_calls", "content_filter", None]))
    if reason:
        last = draw(st.none() | _USAGE)  # some servers tell usage with the end
        drawn.append(style.chunk("finish", {}, finish_reason=reason, usage=last))
    if draw(st.booleans()):
        drawn.append(style.chunk("usage", None, usage=draw(_USAGE)))
    if draw(st.integers(0, 3)) < 3:
        drawn.append(style.bare("done", b"[DONE]"))
    return drawn


def _chat_faults(style: _Style) -> dict[str, Event]:
    return {
        "error": style.bare("error", b'{"error": {"message": "overloaded", "code": "busy"}}'),
        "done": style.bare("done", b"[DONE]"),
        "usage": style.chunk("usage", None, usage=(3, 4)),
    }


_PARTS = {"content": "output_text", "reasoning_content": "reasoning_text"}
_STOP_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def _messages(draw: st.DrawFn, style: _Style, deltas: list[dict[str, Any]]) -> list[Event]:
    message: dict[str, Any] = {"id": "msg_1", "type": "message", "role": "assistant", "model": "fake"}
    message |= {"content": [], "stop_reason": None, "stop_sequence": None}
    usage = draw(_USAGE)
    drawn = []
    if draw(st.integers(0, 4)) < 4:
        at_first = {"input_tokens": usage[0], "output_tokens": 1}
        value = {"type": "message_start", "message": {**message, "usage": at_first}}
        drawn.append(style.named("frame", value, usage=(usage[0], 1)))
    drawn += [style.named("frame", {"type": "ping"})] * draw(st.sampled_from([0, 0, 1, 1, MANY]))
    for index, run in enumerate(_runs(deltas)):
        drawn += _block(style, index, run)
    reason = draw(st.sampled_from([*_STOP_REASONS, "end_turn", None]))
    if reason:
        said = {"stop_reason": reason, "stop_sequence": "x" if reason == "stop_sequence" else None}
        counts = draw(st.sampled_from([{}, {"input_tokens": usage[0]}])) | {"output_tokens": usage[1]}
        value = {"type": "message_delta", "delta": said, "usage": counts}
        total = counts.get("input_tokens", 0), usage[1]
        drawn.append(style.named("finish", value, finish_reason=_STOP_REASONS[reason], usage=total))
    if draw(st.integers(0, 3)) < 3:
        drawn.append(style.named("done", {"type": "message_stop"}))
    return drawn


def _block(style: _Style, index: int, run: list[dict[str, Any]]) -> list[Event]:
    """One content block: text, thinking, or a call, whose arguments are an empty object unless any come."""

    def event(kind: Kind, name: str, meant: dict[str, Any], **fields: Any) -> Event:
        return style.named(kind, {"type": f"content_block_{name}", "index": index, **fields}, delta=meant)

    def piece(meant: dict[str, Any], type_: str, key: str, text: str) -> Event:
        return event("token", "delta", meant, delta={"type": type_, key: text})

    first, *rest = run
    key = next(iter(first))
    if key != "tool_calls":
        type_, ours = ("text_delta", "text") if key == "content" else ("thinking_delta", "thinking")
        begun = event("frame", "start", {}, content_block={"type": ours, ours: ""})
        return [begun, *(piece(delta, type_, ours, delta[key]) for delta in run), event("frame", "stop", {})]
    (call,) = first["tool_calls"]
    block = {"type": "tool_use", "id": call["id"], "name": call["function"]["name"], "input": {}}
    pieces = [piece(delta, "input_json_delta", "partial_json", _arguments(delta)) for delta in rest]
    nothing = {} if rest else {"tool_calls": [fragment(call["index"], "{}")]}
    return [event("token", "start", first, content_block=block), *pieces, event("frame", "stop", nothing)]


def _messages_faults(style: _Style) -> dict[str, Event]:
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    delta = {"stop_reason": None, "stop_sequence": None}
    usage = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 4}}
    return {
        "error": style.named("error", error),
        "done": style.named("done", {"type": "message_stop"}),
        "usage": style.named("usage", usage, usage=(0, 4)),
    }


def _responses(draw: st.DrawFn, style: _Style, deltas: list[dict[str, Any]]) -> list[Event]:
    drawn = []
    for type_ in ["response.created"] + ["response.in_progress"] * draw(st.sampled_from([0, 1, 1, MANY])):
        drawn.append(style.named("frame", {"type": type_, "response": _response("in_progress")}))
    items = [_item(style, index, run) for index, run in enumerate(_runs(deltas))]
    drawn += [event for _, told in items for event in told]
    output = [item for item, _ in items]
    end = draw(st.sampled_from(["completed", "completed", "incomplete", "failed", None]))
    usage = draw(st.none() | _USAGE)
    if end == "failed":
        error = {"code": "server_error", "message": "no luck"}
        value = {"type": "response.failed", "response": _response("failed", output, usage, error=error)}
        drawn.append(style.named("error", value, usage=usage))
    elif end == "completed":
        is_calling = any(item["type"] == "function_call" for item in output)
        value = {"type": "response.completed", "response": _response("completed", output, usage)}
        why = "tool_calls" if is_calling else "stop"
        drawn.append(style.named("done", value, finish_reason=why, usage=usage))
    elif end == "incomplete":
        reason, why = draw(
            st.sampled_from([("max_output_tokens", "length"), ("content_filter", "content_filter")])
        )
        said = _response("incomplete", output, usage, incomplete_details={"reason": reason})
        value = {"type": "response.incomplete", "response": said}
        drawn.append(style.named("done", value, finish_reason=why, usage=usage))
    if draw(st.booleans()):
        drawn.append(style.bare("done", b"[DONE]"))  # not published, but some servers end with it
    return drawn


def _response(status: str, output: Any = (), usage: Usage | None = None, **given: Any) -> dict[str, Any]:
    counts = usage and {"input_tokens": usage[0], "output_tokens": usage[1], "total_tokens": sum(usage)}
    value = {"id": "resp_1", "object": "response", "created_at": 1, "model": "fake"}
    return value | {"status": status, "output": list(output), "usage": counts} | given


def _item(style: _Style, index: int, run: list[dict[str, Any]]) -> tuple[dict[str, Any], list[Event]]:
    """An output item, and the events that tell of it."""
    first, *rest = run
    (key,) = first
    item: dict[str, Any] = {"id": f"item_{index}", "status": "completed"}
    here: dict[str, Any] = {"item_id": item["id"], "output_index": index}
    begun: dict[str, Any] = {"type": "response.output_item.added", "output_index": index}
    ended: dict[str, Any] = {"type": "response.output_item.done", "output_index": index, "item": item}
    if key == "tool_calls":
        (call,) = first[key]
        item |= {"type": "function_call", "call_id": call["id"], "name": call["function"]["name"]}
        added = {**item, "status": "in_progress", "arguments": ""}
        told = [style.named("token", {**begun, "item": added}, delta=first)]
        part, pieces, texts = "function_call_arguments", rest, [_arguments(delta) for delta in rest]
        item["arguments"] = "".join(texts)
    else:
        item |= {"type": "message", "role": "assistant"} if key == "content" else {"type": "reasoning"}
        added = {**item, "status": "in_progress", "content": []}
        told = [style.named("frame", {**begun, "item": added})]
        part, pieces, texts = _PARTS[key], run, [delta[key] for delta in run]
        item["content"] = [{"type": part, "text": "".join(texts)}]
    for text, delta in zip(texts, pieces, strict=True):
        value = {"type": f"response.{part}.delta", **here, "delta": text}
        told.append(style.named("token", value, delta=delta))
    told.append(style.named("frame", {"type": f"response.{part}.done", **here, "text": "".join(texts)}))
    return item, [*told, style.named("frame", ended)]


def _arguments(delta: dict[str, Any]) -> str:
    arguments: str = delta["tool_calls"][0]["function"]["arguments"]
    return arguments


def _responses_faults(style: _Style) -> dict[str, Event]:
    error = {"type": "error", "code": "server_error", "message": "no luck", "param": None}
    early = {"type": "response.completed", "response": _response("completed", (), (3, 4))}
    queued = {"type": "response.queued", "response": _response("queued")}  # only the end tells of usage
    return {
        "error": style.named("error", error),
        "done": style.named("done", early, finish_reason="stop", usage=(3, 4)),
        "usage": style.named("frame", queued),
    }


def _runs(deltas: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Block by block, in the order they begin: what belongs to a call stands together."""
    runs: list[list[dict[str, Any]]] = []
    calls: dict[int, list[dict[str, Any]]] = {}
    for delta in deltas:
        key = next(iter(delta))
        if key == "tool_calls":
            index = delta[key][0]["index"]
            if index not in calls:
                runs.append(calls.setdefault(index, []))
            calls[index].append(delta)
        elif runs and key in runs[-1][0]:
            runs[-1].append(delta)
        else:
            runs.append([delta])
    return runs


_ANSWERS: dict[Api, Callable[[st.DrawFn, _Style, list[dict[str, Any]]], list[Event]]] = {
    "chat": _chat,
    "messages": _messages,
    "responses": _responses,
}
_FAULTS: dict[Api, Callable[[_Style], dict[str, Event]]] = {
    "chat": _chat_faults,
    "messages": _messages_faults,
    "responses": _responses_faults,
}
