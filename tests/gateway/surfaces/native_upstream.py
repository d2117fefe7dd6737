"""An upstream that speaks every API, for `tests.fakes`: it says "Hello", calls the tool it is offered, or gives the
JSON it is asked for; whole or streamed.

The requests are answered by path, so one script serves native and translated calls alike.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from tests.fakes import DONE, Answer, body, chunk, error, stream, usage_chunk

ANSWER = {"city": "Paris", "degrees": 21}
ARGUMENTS = json.dumps({"city": "Paris"})
ID = "0123456789abcdef"
Said = dict[str, Any] | list[bytes]  # a body, or the events of a stream


async def speak(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
    said = _SAYING[request.path](asked)
    return await (stream(*said) if isinstance(said, list) else body(said))(request, asked)


async def break_off(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
    """The same stream, cut before its last three events."""
    said = _SAYING[request.path](asked)
    assert isinstance(said, list)
    return await stream(*said[:-3], 0.05, cut=True)(request, asked)


async def pause(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
    """The same stream, which does not go on before its last three events."""
    said = _SAYING[request.path](asked)
    assert isinstance(said, list)
    return await stream(*said[:-3], 60.0)(request, asked)


def refusing(status: int, type_: str, **headers: str) -> Answer:
    """In the words of the API that is asked; `type_` is Anthropic's."""
    native = {"type": "error", "error": {"type": type_, "message": "no luck"}}

    async def answer(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        is_native = request.path == "/v1/messages"
        said = body(native, status, **headers) if is_native else error(status, **headers)  # type: ignore[arg-type]
        return await said(request, asked)

    return answer


async def collect(pieces: AsyncIterator[Any], into: list[Any]) -> None:
    """What a client got of a stream, also when it breaks off."""
    async for piece in pieces:
        into.append(piece)


def wants_tool(asked: dict[str, Any]) -> bool:
    """Offers tools, and there is no result yet."""
    return bool(asked.get("tools")) and not any(
        mark in json.dumps(asked) for mark in ('"role": "tool"', '"tool_result"', '"function_call_output"')
    )


def text_for(asked: dict[str, Any]) -> str:
    text = asked.get("text")
    of_text = text.get("format") if isinstance(text, dict) else None
    form = asked.get("response_format") or of_text or asked.get("output_config")
    is_json = isinstance(form, dict) and ("format" in form or form.get("type") == "json_schema")
    return json.dumps(ANSWER) if is_json else "Hello"


def _events(*values: dict[str, Any]) -> list[bytes]:
    return [f"event: {value['type']}\ndata: {json.dumps(value)}\n\n".encode() for value in values]


def _chat(asked: dict[str, Any]) -> Said:
    function = {"name": "weather", "arguments": ARGUMENTS}
    call = {"id": "call_1", "type": "function", "function": function}
    is_call, text = wants_tool(asked), text_for(asked)
    reason = "tool_calls" if is_call else "stop"
    if asked.get("stream") is True:
        role = {"role": "assistant", "content": None if is_call else "", "refusal": None}
        deltas: list[dict[str, Any]] = [{"content": text[:3]}, {"content": text[3:]}]
        if is_call:
            halves = [{"index": 0, **call, "function": {**function, "arguments": ARGUMENTS[:5]}}]
            deltas = [
                {"tool_calls": halves},
                {"tool_calls": [{"index": 0, "function": {"arguments": ARGUMENTS[5:]}}]},
            ]
        pieces = [_delta(role), *map(_delta, deltas), _delta({}, reason)]
        options = asked.get("stream_options")
        wants_usage = isinstance(options, dict) and options.get("include_usage")
        return [*pieces, *([usage_chunk(7, 2)] if wants_usage else []), DONE]
    message: dict[str, Any] = {"role": "assistant", "content": None if is_call else text, "refusal": None}
    if is_call:
        message["tool_calls"] = [call]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake-1"}
    return {**head, "choices": [choice], "usage": usage}


def _delta(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
    return chunk(choices=[{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}])


def _completions(asked: dict[str, Any]) -> Said:
    choice = {"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    value = {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": "fake-1",
        "choices": [choice],
    }
    if asked.get("stream") is True:
        return [b"data: " + json.dumps(value).encode() + b"\n\n", DONE]
    return {**value, "usage": usage}


def _embeddings(asked: dict[str, Any]) -> Said:
    given = asked["input"] if isinstance(asked["input"], list) else [asked["input"]]
    numbers = [0.5, -1.0]
    packed = base64.b64encode(struct.pack("<2f", *numbers)).decode()
    embedding: Any = packed if asked.get("encoding_format") == "base64" else numbers
    data = [{"object": "embedding", "index": index, "embedding": embedding} for index in range(len(given))]
    usage = {"prompt_tokens": 4, "total_tokens": 4}
    return {"object": "list", "model": "fake-1", "data": data, "usage": usage}


def response_value(response_id: str, output: list[dict[str, Any]], **given: Any) -> dict[str, Any]:
    """A finished response as published."""
    usage = {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 9,
    }
    value = {
        **{"id": response_id, "object": "response", "created_at": 1, "status": "completed", "error": None},
        **{"incomplete_details": None, "instructions": None, "metadata": {}, "model": "fake-1"},
        **{"output": output, "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto"},
        **{"tools": [], "top_p": 1.0, "usage": usage},
    }
    return value | given


def _responses(asked: dict[str, Any]) -> Said:
    text = text_for(asked)
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item: dict[str, Any] = {"type": "message", "id": f"msg_{ID}", "status": "completed", "role": "assistant"}
    item["content"] = [part]
    if wants_tool(asked):
        item = {"type": "function_call", "id": f"fc_{ID}", "call_id": "call_1", "name": "weather"}
        item |= {"arguments": ARGUMENTS, "status": "completed"}
    done = response_value(f"resp_{ID}", [item])
    if asked.get("stream") is not True:
        return done
    begun = {key: value for key, value in done.items() if key != "usage"}
    begun |= {"status": "in_progress", "output": []}
    at: dict[str, Any] = {"output_index": 0}
    inside = {**at, "item_id": item["id"]}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    if item["type"] == "message":
        here = {**inside, "content_index": 0}
        empty = {**part, "text": ""}
        events += [
            {
                "type": "response.output_item.added",
                **at,
                "item": {**item, "content": [], "status": "in_progress"},
            },
            {"type": "response.content_part.added", **here, "part": empty},
            {"type": "response.output_text.delta", **here, "delta": text, "logprobs": []},
            {"type": "response.output_text.done", **here, "text": text, "logprobs": []},
            {"type": "response.content_part.done", **here, "part": part},
        ]
    else:
        events += [
            {
                "type": "response.output_item.added",
                **at,
                "item": {**item, "arguments": "", "status": "in_progress"},
            },
            {"type": "response.function_call_arguments.delta", **inside, "delta": ARGUMENTS},
            {
                "type": "response.function_call_arguments.done",
                **inside,
                "name": "weather",
                "arguments": ARGUMENTS,
            },
        ]
    events += [
        {"type": "response.output_item.done", **at, "item": item},
        {"type": "response.completed", "response": done},
    ]
    return _events(*({**event, "sequence_number": number} for number, event in enumerate(events)))


def _messages(asked: dict[str, Any]) -> Said:
    block: dict[str, Any] = {"type": "text", "text": text_for(asked), "citations": None}
    is_call = wants_tool(asked)
    if is_call:
        block = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": json.loads(ARGUMENTS)}
    usage = {"input_tokens": 7, "output_tokens": 2}
    message = {
        "id": f"msg_{ID}",
        "type": "message",
        "role": "assistant",
        "model": "fake-1",
        "content": [block],
    }
    stop = {"stop_reason": "tool_use" if is_call else "end_turn", "stop_sequence": None}
    if asked.get("stream") is not True:
        return {**message, **stop, "usage": usage}
    empty = {**block, "input": {}} if is_call else {**block, "text": ""}
    delta = {"type": "text_delta", "text": block.get("text")}
    if is_call:
        delta = {"type": "input_json_delta", "partial_json": ARGUMENTS}
    begun = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    return _events(
        {"type": "message_start", "message": {**begun, "usage": {**usage, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": empty},
        {"type": "ping"},
        {"type": "content_block_delta", "index": 0, "delta": delta},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    )


_SAYING: dict[str, Callable[[dict[str, Any]], Said]] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completions,
    "/v1/embeddings": _embeddings,
    "/v1/responses": _responses,
    "/v1/messages": _messages,
    "/v1/messages/count_tokens": lambda _: {"input_tokens": 4321},
}
