"""An upstream that keeps the responses it gives, as OpenAI's does, on a real loopback port.

In: requests of the Responses API, kept in `asked`. Out: the answers, kept as the bytes that were sent in `sent`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from aiohttp import web

from tests.gateway.surfaces.native_upstream import response_value

TEXT = {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
JSON = "application/json"


@dataclass
class ResponseStore:
    """`trouble`: the status of its next answers instead, 0 for a connection that breaks; `pause_s` before each."""

    url: str = ""
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    asked: list[web.Request] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)
    trouble: int | None = None
    pause_s: float = 0.0
    pause_in_stream_s: float = 0.0
    streams_closed_early: int = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        await asyncio.sleep(self.pause_s)
        if self.trouble == 0 and request.transport is not None:
            request.transport.abort()
        if self.trouble is not None:
            return self._error(self.trouble or 500, "key-of-a is no good")
        if request.path == "/v1/responses":
            asked = await request.json()
            made = self._make(asked)
            return await self._stream(request, made) if asked.get("stream") else self._whole(made)
        kept = self.kept.get(request.match_info["id"])
        if kept is None:
            return self._error(404, f"Response with id '{request.match_info['id']}' not found.")
        if request.method == "DELETE":
            del self.kept[kept["id"]]
            return self._whole({"id": kept["id"], "object": "response", "deleted": True})
        if request.path.endswith("/cancel"):
            kept["status"] = "cancelled"
        if request.path.endswith("/input_items"):
            return self._whole(self._items(kept["id"]))
        if request.query.get("stream") == "true":
            return await self._stream(request, kept, int(request.query.get("starting_after", "-1")))
        return self._whole(kept)

    def _make(self, asked: dict[str, Any]) -> dict[str, Any]:
        response_id = f"resp_{uuid4().hex}"
        message = {"type": "message", "id": f"msg_{uuid4().hex}", "role": "assistant", "status": "completed"}
        given: dict[str, Any] = {"previous_response_id": asked.get("previous_response_id")}
        if asked.get("background"):
            given |= {"background": True, "status": "queued", "usage": None}
        value = response_value(response_id, [{**message, "content": [TEXT]}], **given)
        if asked.get("store") is False:
            value["store"] = False
        self.kept[response_id], self.inputs[response_id] = value, asked["input"]
        return value

    def _items(self, response_id: str) -> dict[str, Any]:
        said = {"type": "input_text", "text": self.inputs[response_id]}
        item = {"type": "message", "id": "msg_1", "role": "user", "status": "completed", "content": [said]}
        ends = {"first_id": "msg_1", "last_id": "msg_1"}
        return {"object": "list", "data": [item], "has_more": False, **ends}

    async def _stream(
        self, request: web.Request, kept: dict[str, Any], after: int = -1
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        kinds = ("response.created", "response.in_progress", "response.completed")
        try:
            for number, kind in enumerate(kinds):
                if number > after:
                    value = {"type": kind, "sequence_number": number, "response": kept}
                    event = f"event: {kind}\ndata: {json.dumps(value)}\n\n".encode()
                    self.sent.append(event)
                    await response.write(event)
                    await asyncio.sleep(self.pause_in_stream_s)
        except (asyncio.CancelledError, ConnectionError):
            self.streams_closed_early += 1
            raise
        return response

    def _whole(self, value: dict[str, Any]) -> web.Response:
        self.sent.append(json.dumps(value, indent=1).encode())
        return web.Response(body=self.sent[-1], content_type=JSON, headers={"x-request-id": "req-of-store"})

    def _error(self, status: int, message: str) -> web.Response:
        value = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        self.sent.append(json.dumps({"error": value}).encode())
        return web.Response(body=self.sent[-1], status=status, content_type=JSON)


@asynccontextmanager
async def response_store() -> AsyncIterator[ResponseStore]:
    store = ResponseStore()
    app = web.Application()
    app.router.add_post("/v1/responses", store.answer)
    app.router.add_get("/v1/responses/{id}", store.answer)
    app.router.add_delete("/v1/responses/{id}", store.answer)
    app.router.add_post("/v1/responses/{id}/cancel", store.answer)
    app.router.add_get("/v1/responses/{id}/input_items", store.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    store.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    try:
        yield store
    finally:
        await runner.cleanup()
