"""A small OpenAI-compatible server on loopback, in a thread of its own: what a gateway looks like to a client."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

KEY = "sk-bench-test"
TOKENS = 6
ANSWER = "w0 w1 w2 w3 w4 w5 "
GAP_S = 0.002


class Gateway:
    """Answers by model name: `cut`, `broken`, `refusing`, `mute` misbehave, `slow` never ends, others do well."""

    def __init__(self) -> None:
        self.url = ""
        self.bodies: list[dict[str, object]] = []
        self.request_ids: list[str] = []

    async def list_models(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            error = {"message": "this key is not known", "code": "invalid_api_key"}
            return web.json_response({"error": error}, status=401)
        return web.json_response({"data": []})

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.request_ids.append(f"req_{uuid.uuid4().hex}")
        headers = {"X-Request-Id": self.request_ids[-1], "X-Sparkgate-Target": f"target-of-{body['model']}"}
        if body["model"] == "refusing":
            error = {"message": "full", "code": "ledger_full"}
            return web.json_response({"error": error}, status=503, headers=headers)
        if not body.get("stream"):
            usage = {"prompt_tokens": 3, "completion_tokens": TOKENS}
            choices = [{"message": {"role": "assistant", "content": ANSWER}}]
            return web.json_response({"choices": choices, "usage": usage}, headers=headers)
        answer = web.StreamResponse(headers=headers | {"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        await self._stream(answer, str(body["model"]))
        return answer

    async def _stream(self, answer: web.StreamResponse, model: str) -> None:
        await _send(answer, {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        if model == "slow":
            await asyncio.sleep(3600)
        for number in range(0 if model == "mute" else TOKENS):
            await asyncio.sleep(GAP_S)
            await _send(answer, {"choices": [{"delta": {"content": f"w{number} "}}]})
            if model == "cut":
                return
            if model == "broken":
                await _send(answer, {"error": {"message": "gone", "code": "upstream_failed"}})
                return
        await _send(answer, {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": TOKENS}})
        await answer.write(b"data: [DONE]\n\n")


async def _send(answer: web.StreamResponse, event: dict[str, object]) -> None:
    await answer.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@contextmanager
def serving() -> Iterator[Gateway]:
    gateway, ready, loop = Gateway(), threading.Event(), asyncio.new_event_loop()
    stop = asyncio.Event()

    async def main() -> None:
        app = web.Application()
        app.router.add_get("/v1/models", gateway.list_models)
        app.router.add_post("/v1/chat/completions", gateway.chat)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        gateway.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    ready.wait(30)
    try:
        yield gateway
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()
