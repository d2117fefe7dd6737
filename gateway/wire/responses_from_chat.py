"""Answers of chat completions as a client of OpenAI's Responses API gets them: whole, or event by event.

In: decoded chat bodies or chunks, the caller's request to echo, the response's id and time. Out: a Response, or its
events. One path makes both: a whole body is a stream of one chunk. An item ends when another begins, as in the
published streams, except a call whose arguments are not whole yet: parallel calls may be written in turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import orjson

from gateway.wire.chat import usage_of
from gateway.wire.errors import UpstreamFailed
from gateway.wire.fields import index_of, inner, inner_objects, string
from gateway.wire.responses import usage_value
from gateway.wire.responses_output import CustomCall, Events, FunctionCall, Item, Part, Talk

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}  # by chat's finish_reason
_ECHOED = (
    *("max_output_tokens", "max_tool_calls", "prompt_cache_key", "reasoning", "safety_identifier"),
    *("top_logprobs", "user"),
)


def response(
    value: dict[str, Any], body: dict[str, Any], response_id: str, created_at: int
) -> dict[str, Any]:
    """The Response that a whole chat body is, to the request `body`. `created_at` is in Unix seconds.

    Raises `UpstreamFailed` for an answer that is none.
    """
    choice = next(iter(inner_objects(value, "choices")), {})
    message = inner(choice, "message")
    if not message:
        raise UpstreamFailed("the target's answer has no message", code="bad_response")
    calls = [{**call, "index": index} for index, call in enumerate(inner_objects(message, "tool_calls"))]
    translator = StreamTranslator(body, response_id, created_at)
    translator.feed({**value, "choices": [{**choice, "index": 0, "delta": {**message, "tool_calls": calls}}]})
    translator.finish()
    return translator.response


class StreamTranslator:
    """One stream: `feed` every chunk, then either `finish` or `fail`. Each gives whole events to send.

    The end waits for `finish`, since usage may come after the finish reason; then `response` is complete.
    """

    def __init__(self, body: dict[str, Any], response_id: str, created_at: int) -> None:
        """`body` is the caller's request, `created_at` in Unix seconds."""
        self.response = _opening(body, response_id, created_at)
        self._stem = response_id.removeprefix("resp_")
        self._custom = {
            tool.get("name") for tool in inner_objects(body, "tools") if tool.get("type") == "custom"
        }
        self._events = Events()
        self._items: list[Item] = []
        self._calls: dict[int, FunctionCall] = {}  # by the target's index
        self._finish_reason = ""

    def feed(self, chunk: dict[str, Any]) -> list[bytes]:
        """The events of one decoded chunk; other choices than the first have no place in a response."""
        self._begin(chunk)
        usage = usage_of(chunk)
        if usage is not None:
            self.response["usage"] = usage_value(usage)
        for choice in inner_objects(chunk, "choices"):
            if not choice.get("index"):
                self._take(choice)
        return self._events.take()

    def finish(self) -> list[bytes]:
        """Ends what is open, then the response: `completed`, or `incomplete` where the answer was cut."""
        self._begin({})
        reason = _INCOMPLETE.get(self._finish_reason)
        for item in self._open_items():
            is_cut = item is self._items[-1] or not item.can_end
            item.end("incomplete" if reason and is_cut else "completed")
        if reason:
            self.response["incomplete_details"] = {"reason": reason}
        return self._end("incomplete" if reason else "completed")

    def fail(self, status: int, message: str) -> list[bytes]:
        """The response as `failed`: what was open in it stays without an end. `status` is that of HTTP."""
        self._begin({})
        for item in self._open_items():
            item.settle("incomplete")
        code = "rate_limit_exceeded" if status == 429 else "server_error"  # of a closed list
        self.response["error"] = {"code": code, "message": message}
        return self._end("failed")

    def _begin(self, chunk: dict[str, Any]) -> None:
        if self._events.count:
            return
        for name in ("model", "service_tier"):
            if isinstance(chunk.get(name), str):
                self.response[name] = chunk[name]
        self._events.add("response.created", response=self.response)
        self._events.add("response.in_progress", response=self.response)

    def _end(self, status: str) -> list[bytes]:
        self.response |= {"status": status, "output": [item.value for item in self._items]}
        self._events.add(f"response.{status}", response=self.response)
        return self._events.take()

    def _open_items(self) -> list[Item]:
        return [item for item in self._items if item.is_open]

    def _take(self, choice: dict[str, Any]) -> None:
        delta = inner(choice, "delta")
        logprobs = inner_objects(inner(choice, "logprobs"), "content")
        self._say("reasoning_text", _spoken(delta.get("reasoning_content") or delta.get("reasoning")))
        self._say("output_text", _spoken(delta.get("content")), logprobs)
        self._say("refusal", _spoken(delta.get("refusal")))
        for call in inner_objects(delta, "tool_calls"):
            self._call(call)
        self._finish_reason = string(choice, "finish_reason") or self._finish_reason

    def _say(self, part: Part, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> None:
        if not text:
            return
        kind: Literal["message", "reasoning"] = "reasoning" if part == "reasoning_text" else "message"
        talk = self._items[-1] if self._items else None
        if not isinstance(talk, Talk) or talk.value["type"] != kind:
            self._end_what_can()
            item_id = self._id("rs" if kind == "reasoning" else "msg")
            talk = Talk(kind, item_id, len(self._items), self._events)
            self._items.append(talk)
        talk.say(part, text, logprobs)

    def _call(self, delta: dict[str, Any]) -> None:
        """A fragment of a tool call. Some servers give every call the same index, or none."""
        function = inner(delta, "function")
        index, call_id, name = index_of(delta), string(delta, "id"), string(function, "name")
        call = self._calls.get(index)
        if call is None or (name and call_id and call_id != call.value["call_id"]):
            call = self._calls[index] = self._begin_call(call_id, name)
        arguments = function.get("arguments") or ""
        call.add(arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode())

    def _begin_call(self, call_id: str, name: str) -> FunctionCall:
        self._end_what_can()
        make, prefix = (CustomCall, "ctc") if name in self._custom else (FunctionCall, "fc")
        call = make(self._id(prefix), call_id or self._id("call"), name, len(self._items), self._events)
        self._items.append(call)
        return call

    def _end_what_can(self) -> None:
        for item in self._open_items():
            if item.can_end:
                item.end("completed")

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{self._stem}_{len(self._items)}"


def _opening(body: dict[str, Any], response_id: str, created_at: int) -> dict[str, Any]:
    """The response as it begins, with the request echoed; null is a setting left to the target."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.get("instructions"),
        "metadata": body.get("metadata") or {},
        "model": body["model"],
        "output": [],
        "parallel_tool_calls": body.get("parallel_tool_calls") is not False,
        "previous_response_id": None,
        "store": False,
        "temperature": body.get("temperature"),
        "text": {"format": {"type": "text"}, **_given(inner(body, "text"))},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": [_echoed(tool) for tool in inner_objects(body, "tools")],
        "top_p": body.get("top_p"),
        "truncation": "disabled",
        **_given({name: body.get(name) for name in _ECHOED}),
    }


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _echoed(tool: dict[str, Any]) -> dict[str, Any]:
    """A response lists `parameters` and `strict` of a function even where the request has none."""
    return {"parameters": None, "strict": None, **tool} if tool.get("type") == "function" else tool


def _spoken(content: Any) -> str:
    """The text of a message or delta; a few servers write it as parts."""
    if isinstance(content, list):
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""
