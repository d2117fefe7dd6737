"""The soak's traffic: a C program makes most of it, and clients here all that is out of the ordinary.

In: where the gateway is, its keys. Out: ids of every call whose answer came whole, and what else clients met, counted
by kind. What no client should ever meet is kept apart in `unexpected`.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import orjson

from gateway.bench.gateway.programs import program
from tests.faults.hostile import MISBEHAVIOURS

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
PATIENCE_S = 60.0
CHUNKS, GAP_MS, FIRST_MS = 16, 2, 3  # of the mock's streams
SEGMENT_S = 10.0  # that a load generator runs before its connections are made anew
CONNECTIONS = 64  # of each while calls are paced
LIMITED_RPM = 120
ASK = [
    {"role": "user", "content": "What does a gateway in front of several language models do for its callers?"}
]
BACKED = ("500", "503_html", "resets_before_head", "closes_after_head", "html_in_200", "429_retry_after_1")


@dataclass(frozen=True)
class Kind:
    """One load generator's calls; `connections` are open while it is found out how many can be made."""

    name: str
    connections: int
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def events(self) -> int | None:
        return CHUNKS if self.body.get("stream") else None


KINDS = (
    Kind(
        "declared", 12, {"X-Task-Shape": "short_chat"}, {"model": "auto", "messages": ASK, "max_tokens": 128}
    ),
    Kind("inferred", 8, {"X-Workflow": "nightly"}, {"model": "auto", "messages": ASK}),
    Kind("streamed", 12, {"X-Task-Shape": "support"}, {"model": "auto", "messages": ASK, "stream": True}),
)


@dataclass
class Seen:
    """What came of the calls so far."""

    ids: set[int] = field(default_factory=set)
    met: Counter[str] = field(default_factory=Counter)
    unexpected: Counter[str] = field(default_factory=Counter)
    broken: int = 0
    outcomes: int = 0

    def keep(self, headers: Any) -> None:
        self.ids.add(int(headers["x-request-id"].removeprefix("req_"), 16))


async def generate(
    kind: Kind, url: str, key: str, folder: Path, seconds: float, rate: float | None, seen: Seen
) -> float:
    """One run of the load generator: closed without a `rate`. Returns its good answers a second."""
    body, ids = folder / f"{kind.name}.json", folder / f"{kind.name}.ids"
    body.write_bytes(orjson.dumps(kind.body))
    ids.unlink(missing_ok=True)
    command: list[object] = [program("load"), "--url", url + CHAT, "--body", body, "--ids", ids]
    command += ["--seconds", f"{seconds:g}", "--header", f"Authorization: Bearer {key}"]
    command += ["--concurrency", CONNECTIONS if rate else kind.connections]
    command += ["--rate", f"{rate:g}"] if rate else []
    command += ["--events", kind.events] if kind.events else []
    for name, value in kind.headers.items():
        command += ["--header", f"{name}: {value}"]
    running = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await running.communicate()
    if running.returncode != 0:
        seen.unexpected[f"the load generator: {err.decode().strip()}"] += 1
        return 0.0
    told = orjson.loads(out)
    seen.ids.update(int(line.removeprefix("req_"), 16) for line in ids.read_text().split())
    seen.met[f"{kind.name}: good"] += told["calls"]
    if error := told["first_error"]:
        is_cut = error.startswith(("the connection was closed", "a stream ended"))
        seen.broken += told["errors"] if is_cut else 0
        seen.met[f"{kind.name}: {error[:60]}"] += told["errors"]
        if not is_cut:
            seen.unexpected[f"{kind.name}: {error}"] += told["errors"]
    return float(told["calls"] / told["took_s"])


class Clients:
    """Clients out of the ordinary, a call now and then of each kind. Poisson arrivals."""

    def __init__(self, url: str, key: str, limited_key: str, seen: Seen) -> None:
        self._http = aiohttp.ClientSession(
            url,
            timeout=aiohttp.ClientTimeout(total=PATIENCE_S),
            connector=aiohttp.TCPConnector(limit=0),
            headers={"Authorization": f"Bearer {key}"},
        )
        self._limited = {"Authorization": f"Bearer {limited_key}"}
        self._seen, self._chance, self._faults = seen, Random(3), sorted(MISBEHAVIOURS)
        self._calls: set[asyncio.Task[None]] = set()
        self._number = 0

    async def run(self, until: float) -> None:
        """Until that time of the monotonic clock, and then until the last call is over."""
        ways: Sequence[tuple[float, Callable[[], Awaitable[None]]]] = (
            (2.0, self._task),
            (4.0, self._leave),
            (4.0, self._limited_call),
            (4.0, self._fault),
            (3.0, self._backed),
            (3.0, self._messages),
            (3.0, self._responses),
            (1.0, self._look),
        )
        await asyncio.gather(*(self._arrive(rate, way, until) for rate, way in ways))
        await asyncio.gather(*self._calls)
        await self._http.close()

    async def _arrive(self, rate: float, way: Callable[[], Awaitable[None]], until: float) -> None:
        while (now := time.monotonic()) < until:
            await asyncio.sleep(min(self._chance.expovariate(rate), until - now))
            call = asyncio.create_task(self._safely(way))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)

    async def _safely(self, way: Callable[[], Awaitable[None]]) -> None:
        name = way.__name__.strip("_")
        try:
            await way()
        except (aiohttp.ClientError, ConnectionError):
            self._seen.broken += 1
            self._seen.met[f"{name}: cut off"] += 1
        except TimeoutError:
            self._seen.unexpected[f"{name}: no answer in {PATIENCE_S:g} s"] += 1

    async def _call(
        self, name: str, path: str, body: dict[str, Any], allowed: Sequence[int], **headers: str
    ) -> str:
        """The answer's text; an answer of a status that is not `allowed` is unexpected."""
        async with self._http.post(path, json=body, headers=headers) as answer:
            text = await answer.text(errors="replace")
        if "x-request-id" in answer.headers and "x-sparkgate-shape" in answer.headers:
            self._seen.keep(answer.headers)
        self._seen.met[f"{name}: {answer.status}"] += 1
        if answer.status not in allowed or "internal_error" in text:
            self._seen.unexpected[f"{name}: {answer.status} {text[:300]}"] += 1
        return text

    async def _task(self) -> None:
        """Three calls, then how it went."""
        self._number += 1
        task_id = f"soak-{self._number}"
        for _ in range(3):
            await self._call(
                "task", CHAT, {"model": "auto", "messages": ASK}, (200,), **{"X-Task-Id": task_id}
            )
        said = {"status": self._chance.choice(("completed", "failed")), "score": 0.5}
        async with self._http.post(f"/v1/tasks/{task_id}/outcome", json=said) as answer:
            await answer.read()
        self._seen.met[f"outcome: {answer.status}"] += 1
        self._seen.outcomes += answer.status == 200

    async def _leave(self) -> None:
        """In mid-stream, or before there is one."""
        body = {"model": "auto", "messages": ASK, "stream": True}
        waits_s = self._chance.choice((0.001, 0.005, 0.02))
        with suppress(TimeoutError):
            async with asyncio.timeout(waits_s), self._http.post(CHAT, json=body) as answer:
                async for _ in answer.content.iter_any():
                    pass
        self._seen.met["leave"] += 1

    async def _limited_call(self) -> None:
        body = {"model": "auto", "messages": ASK}
        await self._call("limited", CHAT, body, (200, 429), **self._limited)

    async def _fault(self) -> None:
        """At a target that fails in its own way each time, with nobody behind it: any error, but one in words."""
        fault, stream = self._chance.choice(self._faults), self._chance.random() < 0.5
        body = {"model": f"fault.{fault}", "messages": ASK, "stream": stream}
        text = await self._call("fault", CHAT, body, (200, *range(400, 600)))
        if not text:
            self._seen.unexpected[f"fault: {fault} is answered with nothing"] += 1

    async def _backed(self) -> None:
        """At a target that fails before the first token, with a sound one behind it: no error."""
        body = {"model": f"backed.{self._chance.choice(BACKED)}", "messages": ASK}
        await self._call("backed", CHAT, body | {"stream": self._chance.random() < 0.5}, (200,))

    async def _messages(self) -> None:
        body = {"model": "auto", "messages": ASK, "max_tokens": 64, "stream": self._chance.random() < 0.5}
        await self._call("messages", MESSAGES, body, (200,))

    async def _responses(self) -> None:
        body = {"model": "auto", "input": "hello", "stream": self._chance.random() < 0.5}
        await self._call("responses", RESPONSES, body, (200,))

    async def _look(self) -> None:
        """As monitoring does."""
        for path in ("/health", "/metrics", "/v1/models"):
            async with self._http.get(path) as answer:
                await answer.read()
            if answer.status != 200:
                self._seen.unexpected[f"{path}: {answer.status}"] += 1
