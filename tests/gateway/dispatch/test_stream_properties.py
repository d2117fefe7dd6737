"""Whatever an upstream does in a stream: the client gets its bytes and one end, the ledger one row, and nothing stays.

One running gateway takes all examples. `SPARKGATE_EXAMPLES` says how many; unset, a few that are always the same.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from math import ceil
from operator import mul
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.dispatch.serve import KEEP_ALIVE
from gateway.ledger.segments import decode_line
from gateway.wire.sse import data_of
from tests.conftest import PostgresServer
from tests.fakes import DONE, GOOD_BODY, chunk, usage_chunk
from tests.gateway.conftest import CHAT, HELLO, Gateway, eventually, running_gateway
from tests.gateway.dispatch.leftovers import nothing_is_left, parts, task_kinds
from tests.gateway.dispatch.upstream_events import Api, Event
from tests.gateway.dispatch.upstream_scripts import PATIENCE_S, Script, Told, play, scripts, told
from tests.gateway.wire.chat_streams import blocks_of
from tests.gateway.wire.messages_grammar import message_of
from tests.gateway.wire.responses_grammar import response_of
from tests.raw_upstream import Line, RawUpstream, raw_upstream, whole

EXAMPLES = int(os.environ.get("SPARKGATE_EXAMPLES", 120))
SOON_S = 0.03  # until a hedge, or the first keep-alive
ENOUGH_S = 60.0  # for one example
PRICES = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 3}
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
APIS: dict[str, Api] = {CHAT: "chat", MESSAGES: "messages", RESPONSES: "responses"}
SPOKEN = {"chat_a": (CHAT,), "chat_b": (CHAT,), "claude": (MESSAGES,), "all_a": (*APIS,), "all_b": (*APIS,)}


@dataclass(frozen=True)
class Route:
    """What a shape's policy is: the first target, then the other, if any."""

    targets: tuple[str, ...]
    hedges: bool = False
    keeps_alive: bool = False

    def rules(self) -> dict[str, Any]:
        first, *others = self.targets
        hedge = {"hedge": {"after": SOON_S, "budget": 1}} if self.hedges else {}
        alive = {"keepalive_s": SOON_S} if self.keeps_alive else {}
        return {"candidates": [first], "fallback": others, **hedge, **alive}


ROUTES = {
    "support": Route(("chat_a",)),
    "extraction": Route(("chat_a", "chat_b")),
    "reasoning": Route(("chat_a", "chat_b"), hedges=True),
    "classification": Route(("claude",)),
    "summarization": Route(("claude", "chat_b")),
    "document_qa": Route(("all_a", "claude")),
    "code_generation": Route(("all_a", "all_b"), hedges=True),
    "agent_loop": Route(("chat_a", "claude"), hedges=True, keeps_alive=True),
    "short_chat": Route(("all_a",), keeps_alive=True),
    "general": Route(("claude", "all_b"), keeps_alive=True),
}
WAYS: list[tuple[str, Api]] = [  # what a client asks at, and what the first target speaks
    *((path, api) for path, api in APIS.items()),
    *((CHAT, "messages"), (MESSAGES, "chat"), (RESPONSES, "chat"), (RESPONSES, "messages")),
]
# `explore: 0` and a fresh breaker make the order known.
POLICY = {
    "version": 1,
    "defaults": {
        "explore": 0,
        "timeouts": {"first_token_s": 1, "idle_s": 1, "total_s": 20},
        "retries": {"max": 1},
    },
    "shapes": {shape: route.rules() for shape, route in ROUTES.items()},
}
FINISH, USAGE = chunk(finish_reason="stop"), usage_chunk(7, 2)
GOOD_MESSAGE = {"type": "message", "content": [], "stop_reason": "end_turn"}
USER = {"role": "user", "content": "hello"}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [USER]},
    MESSAGES: {"messages": [USER], "max_tokens": 9},
    RESPONSES: {"input": "hello"},
}
# Charged by our own count.
BROKEN_OFF = ("bad_response", "cut_off", "hedge_lost", "timeout_first_token", "timeout_idle")


def spoken(target: str, path: str) -> str:
    """The path at which a target is asked on behalf of a call to `path`."""
    return path if path in SPOKEN[target] else SPOKEN[target][0]


@dataclass(frozen=True)
class Example:
    path: str
    wants_usage: bool
    shape: str
    scripts: dict[str, Script]
    late_s: dict[str, float]  # before a target begins to answer, where that may cause a race or keep-alives

    @property
    def route(self) -> Route:
        return ROUTES[self.shape]


@st.composite
def examples(draw: st.DrawFn, path: str, api: Api) -> Example:
    """Of calls to `path` whose first target speaks `api`."""
    asked_first = {shape: APIS[spoken(route.targets[0], path)] for shape, route in ROUTES.items()}
    shape = draw(st.sampled_from([shape for shape, first in asked_first.items() if first == api]))
    route = ROUTES[shape]
    late_s = st.sampled_from([0.0, 0.0, 2.5 * SOON_S]) if route.hedges or route.keeps_alive else st.just(0.0)
    return Example(
        path,
        draw(st.booleans()),
        shape,
        {target: draw(scripts(APIS[spoken(target, path)])) for target in route.targets},
        {target: draw(late_s) for target in route.targets},
    )


@dataclass
class World:
    """The gateway, its targets by name, and how far its spool has been read."""

    runner: asyncio.Runner
    gateway: Gateway
    targets: dict[str, RawUpstream]
    example: Example | None = None  # None: targets answer well
    task_kinds: set[str] = field(default_factory=set)  # without a call
    _read: dict[str, int] = field(default_factory=dict)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.runner.run(asyncio.wait_for(coroutine, ENOUGH_S))

    async def answer(self, name: str, line: Line, asked: dict[str, Any]) -> None:
        if self.example is None:
            await line.send(whole(GOOD_BODY if CHAT in SPOKEN[name] else GOOD_MESSAGE))
            return
        assert asked["stream"] is True
        if spoken(name, self.example.path) == CHAT:
            assert asked["stream_options"]["include_usage"] is True
        await asyncio.sleep(self.example.late_s[name])
        await play(self.example.scripts[name], line)

    async def heal(self) -> None:
        """A success forgets all failures once no target asks for patience, so that the next example meets targets in
        good standing."""
        await asyncio.sleep(2 * PATIENCE_S)
        asked = self.targets if self.example is None else self.example.scripts
        self.example = None
        for name in asked:
            status, _, _ = await self.gateway.post({"model": name, "messages": [USER]})
            assert status == 200
        self.new_rows()

    def new_rows(self) -> list[dict[str, Any]]:
        """The exchanges written since the last look."""
        rows = []
        for path in sorted((self.gateway.data_dir / "spool").glob("*.*"), key=lambda path: path.name):
            raw = path.read_bytes()[self._read.get(path.stem, 0) :]
            self._read[path.stem] = self._read.get(path.stem, 0) + len(raw)
            rows += [decode_line(line) for line in raw.splitlines()]
        return [row for row in rows if row is not None and row["kind"] == "exchange"]

    async def is_at_rest(self) -> None:
        """No task more than before the first example, and no line of a target that anyone still waits on."""
        await eventually(lambda: task_kinds() <= self.task_kinds)
        await eventually(
            lambda: not any(line.is_answering for each in self.targets.values() for line in each.lines)
        )


@pytest.fixture(scope="module")
def world(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    url = postgres.create()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        stack = AsyncExitStack()
        yield runner.run(_built(stack, url, tmp_path_factory.mktemp("gateway"), runner))
        runner.run(stack.aclose())
    postgres.drop(url)


async def _built(stack: AsyncExitStack, url: str, folder: Path, runner: asyncio.Runner) -> World:
    def target(name: str) -> AbstractAsyncContextManager[RawUpstream]:
        return raw_upstream(lambda line, asked: built.answer(name, line, asked))

    targets = {name: await stack.enter_async_context(target(name)) for name in SPOKEN}
    limits = {
        name: {"base_url": each.url, "prices": PRICES, "endpoints": SPOKEN[name]}
        for name, each in targets.items()
    }
    policy = json.dumps(POLICY)  # which is YAML
    gateway = await stack.enter_async_context(running_gateway(url, folder, policy, (*SPOKEN,), limits))
    built = World(runner, gateway, targets)
    await built.heal()
    return built


@pytest.mark.parametrize(("path", "api"), WAYS)
def test_a_stream_is_the_upstreams_with_one_end_one_row_and_nothing_left(
    world: World, path: str, api: Api
) -> None:
    @settings(
        max_examples=ceil(EXAMPLES / len(WAYS)),
        derandomize="SPARKGATE_EXAMPLES" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(examples(path, api))
    def holds(example: Example) -> None:
        world.run(_holds(world, example))

    parts_before = parts()
    holds()
    world.run(nothing_is_left(world.gateway, world.task_kinds, parts_before))
    assert all(len(target.lines) <= 2 for target in world.targets.values()), "connections are piling up"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        (FINISH + b'data: {"error": {"message": "no"}}', FINISH + b'data: {"error": {"message": "no"}}\n\n'),
        (FINISH + b": bye\n", FINISH + b": bye\n\n\n"),
        (FINISH + USAGE[:-1], FINISH),  # not asked for
        (FINISH + USAGE[:-9], FINISH),
    ],
)
def test_an_end_without_its_blank_line_is_made_whole_or_dropped(
    world: World, sent: bytes, shown: bytes
) -> None:
    async def test() -> None:
        await world.heal()
        opening = chunk("Hel")
        script = Script((Event("token", opening + sent, b""),), len(opening + sent), "end", has_framing=True)
        world.example = Example(CHAT, False, "support", {"chat_a": script}, {"chat_a": 0.0})
        _, _, raw = await world.gateway.post({**HELLO, "stream": True}, x_task_shape="support")
        assert raw == opening + shown

    world.run(test())


async def _holds(world: World, example: Example) -> None:
    await world.heal()
    world.task_kinds = world.task_kinds or task_kinds()
    world.example = example
    asked = {"model": "auto", "stream": True, **BODIES[example.path]}
    if example.path == CHAT and example.wants_usage:
        asked["stream_options"] = {"include_usage": True}
    status, _, raw = await world.gateway.post(asked, example.path, x_task_shape=example.shape)
    (record,) = world.new_rows()
    _check_books(example, record, status)
    row = record["exchange"]
    if example.route.keeps_alive:
        while raw.startswith(KEEP_ALIVE):
            raw = raw.removeprefix(KEEP_ALIVE)
    expected = told(example.scripts[row["target"]])
    if status != 200:
        assert status >= 400
        assert b"error" in raw or b"detail" in raw
    elif expected.failure is not None:
        assert example.route.keeps_alive
        assert row["error_code"] is not None
        _check_error(raw, example.path)
    else:
        assert (row["error_code"], row["finish_reason"]) == (expected.code, expected.finish_reason)
        if spoken(row["target"], example.path) == example.path:
            _check_native(raw, expected, example)
        else:
            CHECKS[example.path](raw, expected, example.wants_usage)
    await world.is_at_rest()
    assert world.new_rows() == []


def _check_books(example: Example, record: dict[str, Any], status: int) -> None:
    """Who was tried, what came of it, and what it cost."""
    row, attempts = record["exchange"], record["attempts"]
    assert row["status"] == status
    assert (row["error_code"] is not None) or status == 200
    names = [attempt["target"] for attempt in attempts]
    assert names in _possible(example)
    for attempt in attempts:
        said = told(example.scripts[attempt["target"]])
        if attempt["result"] == "hedge_lost":
            assert example.route.hedges
        elif said.failure is not None:
            assert attempt["result"] == said.failure[0]
        else:
            assert (attempt["target"], attempt["result"]) == (row["target"], said.result)
        _check_charge(attempt, said)
    costs = [attempt["cost_usd"] for attempt in attempts]
    total = None if None in costs else sum(map(Decimal, costs))
    assert total == (None if row["cost_usd"] is None else Decimal(row["cost_usd"]))


def _possible(example: Example) -> list[list[str]]:
    first, *others = example.route.targets
    if example.route.hedges:  # whether there was a race depends on the clock
        return [[first], [first, *others]]
    failure = told(example.scripts[first]).failure
    if failure is None or not failure[1]:
        return [[first]]
    if not others:  # repeats have a budget, and a target may ask for patience
        return [[first], [first, first]]
    return [[first, *others]]


def _check_charge(attempt: dict[str, Any], said: Told) -> None:
    cost = None if attempt["cost_usd"] is None else Decimal(attempt["cost_usd"])
    counted = attempt["input_tokens"], attempt["output_tokens"]
    if said.usage is None and attempt["result"] in ("http_error", "connect_error"):
        assert cost == 0
    elif said.usage is not None and attempt["result"] != "hedge_lost":
        if attempt["is_estimated"]:  # it told no more than how it began
            assert attempt["result"] in BROKEN_OFF
            assert counted[0] == said.usage[0]
            assert counted[1] > said.usage[1]
        else:
            assert counted == said.usage
        assert cost == sum(map(mul, counted, PRICES.values())) / Decimal(10**6)
    elif attempt["result"] in BROKEN_OFF:
        assert attempt["is_estimated"]
        assert cost is not None
        assert cost > 0
    else:
        assert (counted, cost) == ((None, None), None)


def _check_native(raw: bytes, said: Told, example: Example) -> None:
    """The upstream's bytes. A last event that came without its blank line may have got one."""
    is_whole = example.wants_usage or example.path != CHAT
    shown = b"".join(event.raw if is_whole else event.unasked for event in said.shown)
    assert raw.startswith(shown)
    last = raw[len(shown) :].lstrip(b"\r\n")
    if said.code in (None, "upstream_error"):
        assert last == b""
        assert raw == shown or not shown.endswith((b"\n\n", b"\r\n\r\n"))
    else:
        _check_error(last, example.path, said.code)


def _check_error(event: bytes, path: str, code: str | None = None) -> None:
    """One event, as the API has it; Anthropic's have no codes."""
    assert event.endswith(b"\n\n")
    assert event.count(b"\n\n") == 1
    value = json.loads(data_of(event) or b"")
    if path == CHAT:
        assert value.keys() == {"error"}
        assert code in (None, value["error"]["code"])
        return
    assert event.startswith(b"event: error\ndata: ")
    assert value["type"] == "error"
    assert path == MESSAGES or code in (None, value["code"])


def _check_chat(raw: bytes, said: Told, wants_usage: bool) -> None:
    *sent, last = _events(raw)
    if said.code is not None:
        _check_error(last, CHAT)
        assert not any(event == DONE or event.startswith(b'data: {"error"') for event in sent)
        return
    assert last == DONE
    values = [json.loads(event.removeprefix(b"data: ")) for event in sent]
    choices = [choice for value in values for choice in value["choices"]]
    assert blocks_of([c["delta"] for c in choices if "role" not in c["delta"]]) == _blocks(said)
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    assert reasons == ([said.finish_reason] if said.finish_reason else [])
    if wants_usage:
        usage = values.pop()["usage"]
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (said.usage or (0, 0))
    assert all("usage" not in value for value in values)


def _check_messages(raw: bytes, said: Told, _: bool) -> None:
    sent = _events(raw)
    if said.code is None:
        assert message_of(sent)["content"] == _blocks(said)
        return
    *begun, last = sent
    assert last.startswith(b"event: error\ndata: ")
    assert not any(event.startswith((b"event: message_stop\n", b"event: error\n")) for event in begun)


def _check_responses(raw: bytes, said: Told, _: bool) -> None:
    response = response_of(_events(raw))
    if said.code is not None:
        assert response["status"] == "failed"
        return
    assert response["status"] == (
        "incomplete" if said.finish_reason in ("length", "content_filter") else "completed"
    )
    texts = {"message": "", "reasoning": ""}
    calls = []
    for item in response["output"]:
        if item["type"] == "function_call":
            calls.append((item["call_id"], item["name"], item["arguments"]))
        else:
            texts[item["type"]] += "".join(part["text"] for part in item["content"])
    blocks = _blocks(said)
    assert texts["message"] == "".join(block["text"] for block in blocks if block["type"] == "text")
    assert texts["reasoning"] == "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    assert calls == [(b["id"], b["name"], b["input"]) for b in blocks if b["type"] == "tool_use"]


CHECKS = {CHAT: _check_chat, MESSAGES: _check_messages, RESPONSES: _check_responses}  # of translated streams


def _blocks(said: Told) -> list[dict[str, Any]]:
    return blocks_of([event.delta for event in said.shown])


def _events(raw: bytes) -> list[bytes]:
    assert raw.endswith(b"\n\n")
    return [event + b"\n\n" for event in raw[:-2].split(b"\n\n")]
