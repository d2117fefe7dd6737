"""An OpenAI-compatible upstream as a process of its own, whose pace and troubles are set while it runs.

`python -m tests.system.upstream` takes a free port of loopback, says which on a line of its output, and serves until
its input ends. `PUT /behaviour` sets all of a `Behaviour`. Waits are drawn anew for each call, alike in each run.
`Upstream` is such a process, as a test sees it.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx
from aiohttp import web

from tests.fakes import DONE, GOOD_BODY, ROLE, chunk, usage_chunk

ROOT = Path(__file__).resolve().parents[2]
SPREAD = 0.25  # of a wait's logarithm: two calls in three are within a quarter of the median
INPUT_TOKENS = 20


@dataclass(frozen=True)
class Behaviour:
    """Medians of its waits in seconds; what share of its calls it refuses with `status`, and whether it hangs."""

    ttft_s: float
    tpot_s: float
    output_tokens: int = 10
    refuses: float = 0.0
    status: int = 500
    retry_after_s: int | None = None
    hangs: bool = False

    def slower(self, times: float) -> Behaviour:
        return Behaviour(self.ttft_s * times, self.tpot_s * times, self.output_tokens)


class Upstream:
    """A running one; `with` ends it."""

    def __init__(self, behaviour: Behaviour) -> None:
        command = [sys.executable, "-m", "tests.system.upstream"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        self.behave(behaviour)

    def behave(self, behaviour: Behaviour) -> None:
        """From its next call on."""
        httpx.put(f"{self.url}/behaviour", json=asdict(behaviour), trust_env=False).raise_for_status()

    def __enter__(self) -> Upstream:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


class _Server:
    def __init__(self) -> None:
        self._chance = Random(1)
        self._behaviour = Behaviour(0.1, 0.01)

    async def behave(self, request: web.Request) -> web.Response:
        self._behaviour = Behaviour(**await request.json())
        return web.Response()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        asked: dict[str, Any] = await request.json()
        now = self._behaviour
        if now.hangs:
            await asyncio.Event().wait()
        if self._chance.random() < now.refuses:
            return _refusal(now)
        if not asked.get("stream"):
            await asyncio.sleep(self._drawn(now.ttft_s) + now.output_tokens * self._drawn(now.tpot_s))
            return web.json_response(GOOD_BODY)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        with suppress(ConnectionResetError):  # a gateway that was killed
            await self._stream(request, response, now)
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, now: Behaviour) -> None:
        await response.prepare(request)
        await response.write(ROLE)
        await asyncio.sleep(self._drawn(now.ttft_s))
        for _ in range(now.output_tokens):
            await response.write(chunk("word "))
            await asyncio.sleep(self._drawn(now.tpot_s))
        await response.write(
            chunk(finish_reason="stop") + usage_chunk(INPUT_TOKENS, now.output_tokens) + DONE
        )

    def _drawn(self, median_s: float) -> float:
        return median_s * self._chance.lognormvariate(0.0, SPREAD)


def _refusal(now: Behaviour) -> web.Response:
    headers = {} if now.retry_after_s is None else {"Retry-After": str(now.retry_after_s)}
    value = {"error": {"message": "not now", "type": "server_error", "param": None, "code": None}}
    return web.json_response(value, status=now.status, headers=headers)


async def _serve() -> None:
    server = _Server()
    app = web.Application()
    app.router.add_put("/behaviour", server.behave)
    app.router.add_post("/v1/chat/completions", server.answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve())
