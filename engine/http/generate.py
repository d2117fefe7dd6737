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
from engine.http.prompts import PromptReader
from engine.http.requests import GenerationRequest
from engine.http.shapes import AnswerHead, Json, PlacedLogprob, Shape, closing_fields
from engine.loop import Engine
from engine.sequence import Event, Sequence, Timings

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
            sequence = await self._build_sequence(request, head.id, caller)
            sequence.shape = read_shape(incoming)
            async with aclosing(served.bridge.run(served.engine, sequence, receive)) as events:
                answer = Answer(head, self._shape, request, sequence, served.prompts)
                if request.stream:
                    await answer.stream(events, send)
                else:
                    await answer.whole(events, scope, receive, send)
        except (ClientGone, ClientDisconnect, OSError):
            return

    async def _build_sequence(self, request: GenerationRequest, sequence_id: str, caller: str) -> Sequence:
        build = self._served.prompts.build_sequence
        if request.num_characters > _LONG_PROMPT or request.json_schema is not None:
            return await asyncio.to_thread(build, request, sequence_id, caller)
        return build(request, sequence_id, caller)


class Answer:
    """Writes the events of one sequence in one shape."""

    def __init__(
        self,
        head: AnswerHead,
        shape: Shape,
        request: GenerationRequest,
        sequence: Sequence,
        prompts: PromptReader,
    ) -> None:
        self._head, self._shape, self._request, self._sequence = head, shape, request, sequence
        self._tokenizer = prompts.tokenizer
        self._unsent: list[PlacedLogprob] = []
        self._num_shown = 0  # characters

    async def whole(self, events: AsyncGenerator[Event], scope: Scope, receive: Receive, send: Send) -> None:
        texts: list[str] = []
        last = None
        async for last in events:
            texts.append(last.text)
            self._take(last)
        assert last is not None
        assert last.finish_reason is not None
        assert last.timings is not None
        logprobs = self._logprobs(is_last=True)
        body = self._shape.whole(self._head, "".join(texts), logprobs, last.finish_reason)
        body.update(closing_fields(self._sequence, last.timings, with_usage=True))
        await Response(orjson.dumps(body), media_type="application/json")(scope, receive, send)

    async def stream(self, events: AsyncGenerator[Event], send: Send) -> None:
        first = await anext(events)  # an error before the first token is still an HTTP error
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        opening = self._shape.opening(self._head)
        pieces = [] if opening is None else [self._frame(opening)]
        try:
            await _send(send, b"".join(pieces) + self._frames(first))
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
        self._take(event)
        frames = b""
        if event.text:
            text_chunk = self._shape.chunk(
                self._head, event.text, self._logprobs(is_last=event.is_last), None
            )
            frames = self._frame(text_chunk)
        if event.finish_reason is not None:
            assert event.timings is not None
            frames += self._closing(event.finish_reason, event.timings)
        return frames

    def _closing(self, finish_reason: str, timings: Timings) -> bytes:
        finish = self._shape.chunk(self._head, "", self._logprobs(is_last=True), finish_reason)
        if not self._request.include_usage:
            finish.update(closing_fields(self._sequence, timings, with_usage=False))
            return self._frame(finish) + b"data: [DONE]\n\n"
        last = self._shape.usage_chunk(self._head)
        last.update(closing_fields(self._sequence, timings, with_usage=True))
        return self._frame(finish) + _sse(last) + b"data: [DONE]\n\n"

    def _frame(self, chunk: Json) -> bytes:
        if self._request.include_usage:
            chunk["usage"] = None
        return _sse(chunk)

    def _take(self, event: Event) -> None:
        self._num_shown += len(event.text)
        self._unsent += event.logprobs

    def _logprobs(self, *, is_last: bool) -> Json | None:
        """The log probabilities of tokens whose text is out; at the end all but a cut-off stop string's."""
        if self._sequence.sampling.top_logprobs is None:
            return None
        keeps_rest = is_last and not self._sequence.text.is_stopped
        count = 0
        while count < len(self._unsent) and (keeps_rest or self._unsent[count][1] < self._num_shown):
            count += 1
        ready, self._unsent = self._unsent[:count], self._unsent[count:]
        return self._shape.logprobs(ready, self._tokenizer) if ready or not self._request.stream else None


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
