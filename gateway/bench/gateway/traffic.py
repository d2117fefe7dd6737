"""The two ends of what is measured: the mock upstream, and calls from the load generator.

In: where to call, with what. Out: `Load`, what one run of the generator saw. Both are programs of their own (`mock.c`,
`load.c`), many times as fast as any gateway between them.
"""

from __future__ import annotations

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from gateway.bench import servers
from gateway.bench.gateway.programs import program
from gateway.bench.gateway.readings import Cell, Load

PATH = "/v1/chat/completions"
BODY: Mapping[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "You answer in one short paragraph and name what you are unsure of."},
        {
            "role": "user",
            "content": "What does a gateway in front of several language models do for its callers?",
        },
    ],
    "max_tokens": 128,
}


class BenchFailed(Exception):
    """The benchmark cannot go on; the text says why."""


@dataclass(frozen=True, slots=True)
class Mock:
    """A running upstream."""

    url: str
    session: aiohttp.ClientSession

    async def prepare(self, cell: Cell) -> None:
        """What the streams of calls from now on are like."""
        async with self.session.post(f"{self.url}/settings?chunks={cell.chunks or 1}&gap-ms={cell.gap_ms}"):
            pass


@asynccontextmanager
async def mock(session: aiohttp.ClientSession, logs: Path) -> AsyncIterator[Mock]:
    """Raises NoProgram, NotStarted."""
    port, log = servers.free_port(), logs / "mock.log"
    async with servers.process([str(program("mock")), "--port", str(port)], log) as running:
        while b"listening" not in log.read_bytes():
            if running.returncode is not None:
                raise servers.NotStarted(servers.last_words(log))
            await asyncio.sleep(0.01)
        yield Mock(f"http://127.0.0.1:{port}", session)


async def load(url: str, headers: Mapping[str, str], cell: Cell, seconds: float, folder: Path) -> Load:
    """Call `url` for so long, once all answers are there. `folder` is for the body. Raises BenchFailed."""
    body = folder / ("stream.json" if cell.chunks else "whole.json")
    body.write_bytes(orjson.dumps({**BODY, **({"stream": True} if cell.chunks else {})}))
    command = [str(program("load")), "--url", url, "--body", str(body), "--seconds", str(seconds)]
    command += ["--concurrency", str(cell.concurrency)]
    command += ["--rate", str(cell.rate)] if cell.rate else []
    command += ["--events", str(cell.chunks)] if cell.chunks else []
    for name, value in headers.items():
        command += ["--header", f"{name}: {value}"]
    running = await asyncio.create_subprocess_exec(*command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE)
    try:
        out, err = await running.communicate()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()
    if running.returncode != 0:
        raise BenchFailed(err.decode().strip())
    return Load(**orjson.loads(out))
