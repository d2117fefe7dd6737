"""A scripted OpenAI-compatible upstream on a real loopback port, for what a real model cannot be made to do.

`FakeUpstream.script` says how the next calls are answered; requests, bodies and closed connections are kept.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


def chunk(content: str | None = None, **given: Any) -> bytes:
    """One chat completion chunk as an event."""
    choices = given.pop("choices", None)
    if choices is None:
        delta = {} if content is None else {"content": content}
        choices = [{"index": 0, "delta": delta, "finish_reason": given.pop("finish_reason", None)}]
    value = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "fake",
        "choices": choices,
    }
    return b"data: " + json.dumps(value | given).encode() + b"\n\n"


def usage_chunk(prompt: int, completion: int) -> bytes:
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return chunk(choices=[], usage=usage)


DONE = b"data: [DONE]\n\n"
ROLE = chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}])
GOOD_STREAM = (ROLE, chunk("Hel"), chunk("lo"), chunk(finish_reason="stop"), usage_chunk(7, 2), DONE)
GOOD_BODY = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "fake",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9},
    "x_unknown": {"kept": True},
}


def stream(*events: bytes | float, cut: bool = False) -> Answer:
    """Sends the events; a number waits that many seconds; `cut` breaks the connection instead of ending."""

    async def answer(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            if isinstance(event, bytes):
                await response.write(event)
            else:
                await asyncio.sleep(event)
        if cut and request.transport is not None:
            request.transport.abort()
        return response

    return answer


def body(value: dict[str, Any], status: int = 200, *, after_s: float = 0.0, **headers: str) -> Answer:
    async def answer(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(after_s)
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        return web.json_response(value, status=status, headers=given)

    return answer


def error(status: int, code: str = "server_error", message: str = "no luck", **headers: str) -> Answer:
    value = {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    return body(value, status, after_s=0.0, **headers)


async def good(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
    answer = stream(*GOOD_STREAM) if asked.get("stream") else body(GOOD_BODY)
    return await answer(request, asked)


@dataclass
class FakeUpstream:
    """Answers by `script`, call after call; when it is used up, well."""

    url: str = ""
    script: list[Answer] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    state: dict[str, Any] | None = None  # what it says at `/state`, where an engine says how it does
    metrics: str | None = None  # its page of metrics, where a server of vLLM or SGLang says how it does
    models: dict[str, int] | None = None  # the models that it lists, with their lengths of context
    closed_early: int = 0  # connections that the gateway closed before the answer was complete

    async def handle(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.calls.append(asked)
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        answer = self.script.pop(0) if self.script else good
        try:
            return await answer(request, asked)
        except (asyncio.CancelledError, ConnectionError):
            self.closed_early += 1
            raise

    async def tell_state(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self.state, status=404 if self.state is None else 200)

    async def tell_metrics(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text=self.metrics, status=404 if self.metrics is None else 200)

    async def list_models(self, _: web.Request) -> web.StreamResponse:
        listed = [{"id": name, "max_model_len": length} for name, length in (self.models or {}).items()]
        return web.json_response({"data": listed}, status=404 if self.models is None else 200)


@asynccontextmanager
async def fake_upstream() -> AsyncIterator[FakeUpstream]:
    fake = FakeUpstream()
    app = web.Application()
    for path in (
        "chat/completions",
        "completions",
        "embeddings",
        "responses",
        "messages",
        "messages/count_tokens",
    ):
        app.router.add_post(f"/v1/{path}", fake.handle)
    app.router.add_get("/state", fake.tell_state)
    app.router.add_get("/metrics", fake.tell_metrics)
    app.router.add_get("/v1/models", fake.list_models)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert site._server is not None
    fake.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/v1"  # type: ignore[attr-defined]
    try:
        yield fake
    finally:
        await runner.cleanup()
