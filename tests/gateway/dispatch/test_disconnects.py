"""A client that leaves, in every phase of a call: the upstream sees it at once, the books say so, and nothing stays.

`SPARKGATE_EXAMPLES` says how many calls are left in all; unset, ten in each phase. `-s` shows how long it took.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
import uvloop

from tests.fakes import GOOD_BODY, ROLE, chunk
from tests.gateway.conftest import CHAT, HELLO, Gateway, eventually, running_gateway
from tests.gateway.dispatch.leftovers import nothing_is_left, parts, task_kinds
from tests.raw_upstream import Line, RawUpstream, framed, head, raw_upstream, whole

EXAMPLES = int(os.environ.get("SPARKGATE_EXAMPLES", 110))
SEEN_WITHIN_S = 1.0  # on an idle machine it is milliseconds
PRICES = {"input_usd_per_mtok": 1000, "output_usd_per_mtok": 1000}
POLICY = """
version: 1
defaults: {explore: 0, candidates: [a]}
shapes:
  reasoning: {candidates: [a], fallback: [b], hedge: {after: 0.01, budget: 1}}
  support: {candidates: [narrow]}
  extraction: {candidates: [deaf]}
  classification: {cache: {ttl_s: 60}}
"""
STREAM = HELLO | {"stream": True}
SURE = HELLO | {"temperature": 0}
Play = Callable[[Line, dict[str, Any]], Coroutine[Any, Any, None]]
Scene = Callable[["World"], Coroutine[Any, Any, None]]


class Caller:
    """A client on a bare socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(
        self, gateway: Gateway, body: dict[str, Any], shape: str = "", sent_share: float = 1
    ) -> None:
        raw = json.dumps(body).encode()
        lines = [
            f"POST {CHAT} HTTP/1.1",
            "Host: gateway",
            "Connection: close",
            f"Content-Length: {len(raw)}",
            *(f"{name}: {value}" for name, value in gateway.headers.items()),
            *([f"X-Task-Shape: {shape}"] if shape else []),
        ]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + raw[: int(len(raw) * sent_share)])
        await self.writer.drain()

    def leave(self) -> None:
        self.writer.transport.abort()


@dataclass
class World:
    """The gateway, its targets by name, a port that takes no connection, and how targets answer now."""

    gateway: Gateway
    targets: dict[str, RawUpstream]
    deaf: socket.socket
    play: Play | None = None  # None: well
    seen_s: list[float] = field(default_factory=list)  # from a client's leaving to the upstream's knowledge

    async def answer(self, line: Line, asked: dict[str, Any]) -> None:
        if self.play is not None:
            await self.play(line, asked)
        else:
            await line.send(whole(GOOD_BODY))

    async def caller(self) -> Caller:
        return Caller(*await asyncio.open_connection("127.0.0.1", self.port))

    @property
    def port(self) -> int:
        return int(self.gateway.url.rpartition(":")[2])

    def closed(self) -> int:
        return sum(len(target.closed_at) for target in self.targets.values())

    async def part(self, caller: Caller, *, upstreams: int = 1) -> None:
        """The caller leaves; that many upstream calls must hear of it."""
        before, left_at = self.closed(), time.monotonic()
        caller.leave()
        await eventually(lambda: self.closed() == before + upstreams, SEEN_WITHIN_S)
        if upstreams:
            latest = max(at for target in self.targets.values() for at in target.closed_at)
            self.seen_s.append(latest - left_at)

    def connections(self) -> list[Any]:
        """Open ones to and from the gateway."""
        ports = {self.port, self.deaf.getsockname()[1], *(target.port for target in self.targets.values())}
        listed = psutil.Process().net_connections("tcp")
        return [
            each
            for each in listed
            if each.status != psutil.CONN_LISTEN and each.raddr and {each.laddr.port, each.raddr.port} & ports
        ]

    def is_connecting(self) -> bool:
        return any(each.status == psutil.CONN_SYN_SENT for each in self.connections())


@asynccontextmanager
async def running_world(database_url: str, folder: Path) -> AsyncIterator[World]:
    async def answer(line: Line, asked: dict[str, Any]) -> None:
        await world.answer(line, asked)

    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        async with raw_upstream(answer) as a, raw_upstream(answer) as b:
            urls = {"a": a.url, "b": b.url, "narrow": a.url}
            urls["deaf"] = f"http://127.0.0.1:{deaf.getsockname()[1]}/v1"
            limits: dict[str, dict[str, Any]] = {
                name: {"base_url": url, "prices": PRICES} for name, url in urls.items()
            }
            limits["narrow"] |= {"max_parallel": 1, "queue": 1}
            async with running_gateway(database_url, folder, POLICY, tuple(urls), limits) as gateway:
                world = World(gateway, {"a": a, "b": b}, deaf)
                yield world


async def silent(_: Line, __: dict[str, Any]) -> None:
    await asyncio.sleep(60)


def says(*pieces: bytes) -> Play:
    """Sends the pieces and then nothing more."""

    async def play(line: Line, _: dict[str, Any]) -> None:
        for piece in pieces:
            await line.send(piece)
        await asyncio.sleep(60)

    return play


async def called(world: World, times: int = 1) -> None:
    """Waits until so many calls are with the targets."""
    await eventually(
        lambda: sum(line.is_answering for t in world.targets.values() for line in t.lines) == times
    )


async def served(world: World, calls: int) -> None:
    """Waits until the gateway has so many calls in hand."""
    await measured(world, f"sparkgate_in_flight {calls}.0")


async def measured(world: World, line: str) -> None:
    """Waits until the gateway's metrics say this."""
    while True:
        _, metrics = await world.gateway.get("/metrics", Connection="close")
        if f"\n{line}\n".encode() in metrics:
            return


# Phases: what leads there, and the leaving.


async def while_it_uploads(world: World) -> None:
    caller = await world.caller()
    await caller.ask(world.gateway, STREAM, sent_share=0.5)
    await asyncio.sleep(0.005)
    await world.part(caller, upstreams=0)


async def in_a_gate(world: World) -> None:
    world.play = silent
    first, second = await world.caller(), await world.caller()
    await first.ask(world.gateway, STREAM, "support")
    await called(world)
    await second.ask(world.gateway, STREAM, "support")
    await served(world, 2)
    await world.part(second, upstreams=0)
    await world.part(first)


async def while_connecting(world: World) -> None:
    """The target's queue of connections is full, so that Linux leaves a further one without an answer."""
    world.deaf.listen(0)
    port = world.deaf.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port)):
        caller = await world.caller()
        await caller.ask(world.gateway, STREAM, "extraction")
        await eventually(world.is_connecting)
        left_at = time.monotonic()
        caller.leave()
        await eventually(lambda: not world.is_connecting(), SEEN_WITHIN_S)
        world.seen_s.append(time.monotonic() - left_at)
    world.deaf.accept()[0].close()


def while_awaiting(*said: bytes, body: dict[str, Any] = STREAM) -> Scene:
    async def scene(world: World) -> None:
        world.play = says(*said)
        caller = await world.caller()
        await caller.ask(world.gateway, body)
        await called(world)
        await asyncio.sleep(0.005)
        await world.part(caller)

    return scene


async def in_mid_stream(world: World) -> None:
    world.play = says(head(), framed(ROLE), framed(chunk("Hel")), framed(chunk("lo")))
    caller = await world.caller()
    await caller.ask(world.gateway, STREAM)
    await caller.reader.readuntil(b'"lo"')
    await world.part(caller)


async def without_reading(world: World) -> None:
    async def flood(line: Line, _: dict[str, Any]) -> None:
        await line.send(head())
        while True:
            await line.send(framed(chunk("x" * 50_000)))

    world.play = flood
    caller = await world.caller()
    await caller.ask(world.gateway, STREAM)
    await caller.reader.readuntil(b"\r\n\r\n")
    await eventually(lambda: any(line.is_held_back for line in world.targets["a"].lines))
    await world.part(caller)


async def in_a_race(world: World) -> None:
    world.play = silent
    caller = await world.caller()
    await caller.ask(world.gateway, STREAM, "reasoning")
    await called(world, 2)
    await world.part(caller, upstreams=2)


async def beside_an_equal_call(world: World) -> None:
    """First the one that waits for the other's answer, then the other."""
    world.play = silent
    first, second = await world.caller(), await world.caller()
    await first.ask(world.gateway, SURE, "classification")
    await called(world)
    await second.ask(world.gateway, SURE, "classification")
    await served(world, 2)
    await world.part(second, upstreams=0)
    assert sum(line.is_answering for line in world.targets["a"].lines) == 1
    await world.part(first)


@dataclass(frozen=True)
class Phase:
    """`rows`: the results of each row's attempts, in the order written; `charged`: how many attempts had been sent;
    `begun`: tokens that had been seen."""

    scene: Scene
    rows: tuple[tuple[str, ...], ...] = (("client_gone",),)
    charged: int = 1
    status: int = 499
    begun: int | None = 0  # None: more than the test counts


PHASES = {
    "while it uploads": Phase(while_it_uploads, rows=(), charged=0),  # there is no call yet
    "in a gate": Phase(in_a_gate, rows=(("client_gone",), ("client_gone",))),
    "while connecting": Phase(while_connecting, charged=0),
    "before the head": Phase(while_awaiting()),
    "before the first token": Phase(while_awaiting(head(), framed(ROLE))),
    "in mid-stream": Phase(in_mid_stream, status=200, begun=2),
    "in mid-stream, without reading": Phase(without_reading, status=200, begun=None),
    "in a race": Phase(in_a_race, rows=(("client_gone", "client_gone"),), charged=2),
    "before a whole body": Phase(while_awaiting(body=HELLO)),
    "within a whole body": Phase(while_awaiting(whole(GOOD_BODY)[:-9], body=HELLO)),
    "beside an equal call": Phase(beside_an_equal_call, rows=((), ("client_gone",))),
}


PER_PHASE = ceil(EXAMPLES / len(PHASES))


@pytest.mark.parametrize("name", PHASES)
def test_a_client_that_leaves(clean_database_url: str, tmp_path: Path, name: str) -> None:
    phase = PHASES[name]

    async def test() -> None:
        async with running_world(clean_database_url, tmp_path) as world:
            before = task_kinds(), parts()
            for _ in range(PER_PHASE):
                await phase.scene(world)
                world.play = None
            await eventually(lambda: not world.connections())
            await _check_books(world, phase)
            uploads = 0 if phase.rows else PER_PHASE
            await measured(world, f"sparkgate_uploads_aborted_total {uploads}.0")
            await _check_places(world)
            await nothing_is_left(world.gateway, *before)
            _report(name, world.seen_s)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


async def _check_books(world: World, phase: Phase) -> None:
    """One row a call, and what a target may have begun to do is charged by our own count, nothing else."""
    expected = len(phase.rows) * PER_PHASE
    await eventually(lambda: len(world.gateway.exchanges()) >= expected)
    records = world.gateway.exchanges()
    assert len(records) == expected
    for record, results in zip(records, phase.rows * PER_PHASE, strict=True):
        row = record["exchange"]
        assert (row["status"], row["error_code"]) == (phase.status, "client_gone")
        assert tuple(attempt["result"] for attempt in record["attempts"]) == results
    attempts = [attempt for record in records for attempt in record["attempts"]]
    charged = [attempt for attempt in attempts if attempt["is_estimated"]]
    assert len(charged) == phase.charged * PER_PHASE
    for attempt in charged:
        assert attempt["input_tokens"] > 0
        seen = attempt["output_tokens"]
        assert seen > 0 if phase.begun is None else seen == phase.begun
        assert float(attempt["cost_usd"]) == pytest.approx((attempt["input_tokens"] + seen) / 1000)
    assert all(float(attempt["cost_usd"]) == 0 for attempt in attempts if attempt not in charged)


async def _check_places(world: World) -> None:
    """Every target serves on, also the one that takes a single call at a time."""
    for model in ("a", "b", "narrow"):
        status, headers, _ = await world.gateway.post({**HELLO, "model": model})
        assert (status, headers["x-sparkgate-attempts"]) == (200, "1")


def _report(name: str, seen_s: list[float]) -> None:
    if seen_s:
        print(
            f"\n{name}: {len(seen_s)} left, seen after {median(seen_s) * 1e3:.1f} ms, {max(seen_s) * 1e3:.1f} at most"
        )
