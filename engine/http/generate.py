"""The two generation endpoints: one request's path, from the body's bytes to the last byte of the answer.

In: an ASGI call. Out: OpenAI's JSON or server-sent events. Errors before the first token are plain
HTTP errors (raised to the app's handler); after it they are an event of the stream.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from engine.errors import BodyTooLarge, EngineError, InvalidRequest, StepFailed, UnknownModel
from engine.http.bridge import Bridge, ClientGone
from engine.http.choice import Choice, Delta
from engine.http.fields import DEEPEST, is_too_deep
from engine.http.prompts import PromptReader
from engine.http.requests import GenerationRequest
from engine.http.shapes import AnswerHead, Json, Shape, closing_fields
from engine.loop import Engine
from engine.sequence import Event, Sequence

log = logging.getLogger("engine")

MAX_BODY_BYTES = 16 * 1024 * 1024
CALLER_HEADER = "x-sparkgate-caller"
SHAPE_HEADER = "x-sparkgate-shape"
_LONGEST_CALLER = 200
_LONGEST_SHAPE = 64
_LONG_PROMPT = 20_000  # characters; tokenizing more would hold up the other streams, as a new schema would
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Served:
    """The served model, as the endpoints need it."""

    model: str
    fingerprint: str
    engine: Engine
    bridge: Bridge
    prompts: PromptReader


class GenerationEndpoint:
    """An ASGI app for one endpoint: how it reads a body and how it shapes the answer."""

    def __init__(
        self, served: Served, read: Callable[[dict[str, Any]], GenerationRequest], shape: Shape
    ) -> None:
        self._served, self._read, self._shape = served, read, shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        served = self._served
        try:
            incoming = Request(scope, receive)
            caller = read_caller(incoming)
            request = self._read(await read_json(incoming))
            check_model(request.model, served.model)
            served.engine.check_open(caller)
            head = AnswerHead(
                self._shape.id_prefix + secrets.token_hex(12),
                int(time.time()),
                served.model,
                served.fingerprint,
            )
            sequences = await self._build_sequences(request, head.id, caller)
            for sequence in sequences:
                sequence.shape = read_shape(incoming)
            async with aclosing(served.bridge.run(served.engine, sequences, receive)) as events:
                answer = Answer(head, self._shape, request, sequences, served.prompts)
                if request.stream:
                    await answer.stream(events, send)
                else:
                    await answer.whole(events, scope, receive, send)
        except (ClientGone, ClientDisconnect, OSError):
            return

    async def _build_sequences(
        self, request: GenerationRequest, answer_id: str, caller: str
    ) -> list[Sequence]:
        build = self._served.prompts.build_sequences
        if request.num_characters > _LONG_PROMPT or request.has_rule:
            return await asyncio.to_thread(build, request, answer_id, caller)
        return build(request, answer_id, caller)


class Answer:
    """Writes the events of one answer's sequences in one shape."""

    def __init__(
        self,
        head: AnswerHead,
        shape: Shape,
        request: GenerationRequest,
        sequences: list[Sequence],
        prompts: PromptReader,
    ) -> None:
        self._head, self._shape, self._request = head, shape, request
        self._tokenizer = prompts.tokenizer
        self._choices = {
            sequence.id: Choice(index, sequence, prompts.call_reader(request))
            for index, sequence in enumerate(sequences)
        }
        self._num_open = len(sequences)
        self._opened: set[str] = set()

    async def whole(self, events: AsyncGenerator[Event], scope: Scope, receive: Receive, send: Send) -> None:
        said = {sequence_id: Delta() for sequence_id in self._choices}
        async for event in events:
            said[event.sequence_id].add(self._choices[event.sequence_id].take(event))
        choices = [
            self._shape.whole(
                choice.index, said[sequence_id], self._logprobs(said[sequence_id], is_whole=True)
            )
            for sequence_id, choice in self._choices.items()
        ]
        body = self._head.object(self._shape.whole_kind, choices) | self._closing_fields(with_usage=True)
        await Response(orjson.dumps(body), media_type="application/json")(scope, receive, send)

    async def stream(self, events: AsyncGenerator[Event], send: Send) -> None:
        first = await anext(events)  # an error before the first token is still an HTTP error
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        try:
            await _send(send, self._frames(first))
            async for event in events:
                frames = self._frames(event)
                if frames:
                    await _send(send, frames)
        except EngineError as error:
            await _send(send, _sse(error_json(error)))
        except (ClientGone, OSError):
            raise
        except Exception:
            log.exception("stream %s failed", self._head.id)
            await _send(send, _sse(error_json(StepFailed("The answer could not be continued."))))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _frames(self, event: Event) -> bytes:
        """The server-sent events for one engine event; none while its text is held back."""
        choice, shape = self._choices[event.sequence_id], self._shape
        frames = b""
        if event.sequence_id not in self._opened:
            self._opened.add(event.sequence_id)
            opening = shape.opening(choice.index, may_call=self._request.tools is not None)
            frames += self._frame(opening) if opening else b""
        delta = choice.take(event)
        logprobs = self._logprobs(delta)
        if not delta.is_empty:
            frames += self._frame(shape.part(choice.index, delta, logprobs))
            logprobs = None
        if delta.finish_reason is not None:
            self._num_open -= 1
            frames += self._ending(shape.end(choice.index, logprobs, delta.finish_reason))
        return frames

    def _ending(self, end: Json) -> bytes:
        """The end of a choice; after the last one that of the stream."""
        if self._num_open:
            return self._frame(end)
        if not self._request.include_usage:
            return self._frame(end, self._closing_fields(with_usage=False)) + b"data: [DONE]\n\n"
        last = self._head.object(self._shape.chunk_kind, []) | self._closing_fields(with_usage=True)
        return self._frame(end) + _sse(last) + b"data: [DONE]\n\n"

    def _closing_fields(self, *, with_usage: bool) -> Json:
        return closing_fields(list(self._choices.values()), with_usage=with_usage)

    def _frame(self, choice: Json, closing: Json | None = None) -> bytes:
        chunk = self._head.object(self._shape.chunk_kind, [choice]) | (closing or {})
        if self._request.include_usage:
            chunk["usage"] = None
        return _sse(chunk)

    def _logprobs(self, delta: Delta, *, is_whole: bool = False) -> Json | None:
        if self._request.sampling.top_logprobs is None or not (delta.logprobs or is_whole):
            return None
        return self._shape.logprobs(delta.logprobs, self._tokenizer)


def read_caller(request: Request) -> str:
    """Whose turn the request uses; without the header it is one that all such requests share."""
    caller = request.headers.get(CALLER_HEADER, "")
    if len(caller) > _LONGEST_CALLER:
        raise InvalidRequest(
            f"The header {CALLER_HEADER} is longer than {_LONGEST_CALLER} characters.", param=CALLER_HEADER
        )
    return caller


def read_shape(request: Request) -> str:
    """The task shape, where the client tells; whatever it says, it is only counted by."""
    return request.headers.get(SHAPE_HEADER, "")[:_LONGEST_SHAPE]


async def read_json(request: Request) -> dict[str, Any]:
    """The body as a JSON object."""
    parts = bytearray()
    async for part in request.stream():
        parts += part
        if len(parts) > MAX_BODY_BYTES:
            raise BodyTooLarge(f"The request body is larger than {MAX_BODY_BYTES // 2**20} MiB.")
    try:
        body = orjson.loads(parts)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The request body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.", code="invalid_json")
    if is_too_deep(body):
        raise InvalidRequest(
            f"The request body nests arrays and objects more than {DEEPEST} deep.", code="invalid_json"
        )
    return body


def check_model(asked: str, served: str) -> None:
    if asked != served:
        raise UnknownModel(
            f"The model '{asked}' does not exist here; this engine serves '{served}'.", param="model"
        )


def error_json(error: EngineError) -> Json:
    details = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": details}


def _sse(chunk: Json) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


async def _send(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})
