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
from operator import mul
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.ledger.segments import decode_line
from tests.conftest import PostgresServer
from tests.fakes import GOOD_BODY, chunk, usage_chunk
from tests.gateway.conftest import CHAT, HELLO, Gateway, eventually, running_gateway
from tests.gateway.dispatch.leftovers import nothing_is_left, parts, task_kinds
from tests.gateway.dispatch.upstream_scripts import Event, Script, Told, play, scripts, told
from tests.gateway.wire.chat_streams import blocks_of
from tests.gateway.wire.messages_grammar import message_of
from tests.gateway.wire.responses_grammar import response_of
from tests.raw_upstream import Line, RawUpstream, raw_upstream, whole

EXAMPLES = int(os.environ.get("SPARKGATE_EXAMPLES", 100))
HEDGE_AFTER_S = 0.03
ENOUGH_S = 60.0  # for one example
PRICES = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 3}
# By what the examples ask for; `explore: 0` and a fresh breaker make the order known.
POLICY = f"""
version: 1
defaults:
  explore: 0
  timeouts: {{first_token_s: 1, idle_s: 1, total_s: 20}}
  retries: {{max: 1}}
shapes:
  support: {{candidates: [a]}}
  extraction: {{candidates: [a], fallback: [b]}}
  reasoning: {{candidates: [a], fallback: [b], hedge: {{after: {HEDGE_AFTER_S}, budget: 1}}}}
"""
FINISH, USAGE = chunk(finish_reason="stop"), usage_chunk(7, 2)
SHAPES = ("support", "extraction", "reasoning")
USER = {"role": "user", "content": "hello"}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [USER]},
    "/v1/messages": {"messages": [USER], "max_tokens": 9},
    "/v1/responses": {"input": "hello"},
}
BROKEN_OFF = ("cut_off", "hedge_lost", "timeout_first_token", "timeout_idle")  # charged by our own count


@dataclass(frozen=True)
class Example:
    path: str
    wants_usage: bool
    shape: str
    scripts: dict[str, Script]
    late_s: dict[str, float]  # before a target begins to answer, where that may cause a race


def examples() -> st.SearchStrategy[Example]:
    late = st.sampled_from([0.0, 0.0, 2.5 * HEDGE_AFTER_S])
    return st.builds(
        Example,
        path=st.sampled_from([CHAT, CHAT, *BODIES]),
        wants_usage=st.booleans(),
        shape=st.sampled_from(SHAPES),
        scripts=st.fixed_dictionaries({"a": scripts(), "b": scripts()}),
        late_s=st.fixed_dictionaries({"a": late, "b": late}),
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
            await line.send(whole(GOOD_BODY))
            return
        assert asked["stream"] is True
        assert asked["stream_options"]["include_usage"] is True
        if self.example.shape == "reasoning":
            await asyncio.sleep(self.example.late_s[name])
        await play(self.example.scripts[name], line)

    async def heal(self) -> None:
        """A success forgets all failures, so that the next example meets targets in good standing."""
        self.example = None
        for name in self.targets:
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

    targets = {name: await stack.enter_async_context(target(name)) for name in ("a", "b")}
    limits = {name: {"base_url": each.url, "prices": PRICES} for name, each in targets.items()}
    gateway = await stack.enter_async_context(running_gateway(url, folder, POLICY, ("a", "b"), limits))
    built = World(runner, gateway, targets)
    await built.heal()
    return built


def test_a_stream_is_the_upstreams_with_one_end_one_row_and_nothing_left(world: World) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize="SPARKGATE_EXAMPLES" not in os.environ,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(examples())
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
        world.example = Example(CHAT, False, "support", {"a": script}, {})
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
    if status == 200:
        row = record["exchange"]
        expected = told(example.scripts[row["target"]])
        assert expected.failure is None
        assert (row["error_code"], row["finish_reason"]) == (expected.code, expected.finish_reason)
        CHECKS[example.path](raw, expected, example.wants_usage)
    else:
        assert status >= 400
        assert b"error" in raw or b"detail" in raw
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
            assert example.shape == "reasoning"
        elif said.failure is not None:
            assert attempt["result"] == said.failure[0]
        else:
            assert (attempt["target"], attempt["result"]) == (row["target"], said.result)
        _check_charge(attempt, said)
    costs = [attempt["cost_usd"] for attempt in attempts]
    total = None if None in costs else sum(map(Decimal, costs))
    assert total == (None if row["cost_usd"] is None else Decimal(row["cost_usd"]))


def _possible(example: Example) -> list[list[str]]:
    failures = {name: told(script).failure for name, script in example.scripts.items()}
    if example.shape == "reasoning":  # whether there was a race depends on the clock
        return [["a"], ["a", "b"]]
    if failures["a"] is None or not failures["a"][1]:
        return [["a"]]
    if example.shape == "support":  # repeats have a budget, and a target may ask for patience
        return [["a"], ["a", "a"]]
    return [["a", "b"]]


def _check_charge(attempt: dict[str, Any], said: Told) -> None:
    cost = None if attempt["cost_usd"] is None else Decimal(attempt["cost_usd"])
    counted = attempt["input_tokens"], attempt["output_tokens"]
    if said.usage is None and attempt["result"] in ("http_error", "connect_error"):
        assert cost == 0
    elif said.usage is not None and attempt["result"] != "hedge_lost":
        assert counted == said.usage
        assert not attempt["is_estimated"]
        assert cost == sum(map(mul, said.usage, PRICES.values())) / Decimal(10**6)
    elif attempt["result"] in BROKEN_OFF:
        assert attempt["is_estimated"]
        assert cost is not None
        assert cost > 0
    else:
        assert (counted, cost) == ((None, None), None)


def _check_chat(raw: bytes, said: Told, wants_usage: bool) -> None:
    """A last event that came without its blank line may have got one."""
    shown = b"".join(event.raw if wants_usage else event.unasked for event in said.shown)
    assert raw.startswith(shown)
    last = raw[len(shown) :].lstrip(b"\r\n")
    if said.code in (None, "upstream_error"):
        assert last == b""
        assert raw == shown or not shown.endswith((b"\n\n", b"\r\n\r\n"))
        return
    assert last.startswith(b"data: ")
    assert last.endswith(b"\n\n")
    assert json.loads(last[6:])["error"]["code"] == said.code


def _check_messages(raw: bytes, said: Told, _: bool) -> None:
    sent = _events(raw)
    if said.code is None:
        assert message_of(sent)["content"] == _blocks(said)
        return
    *begun, last = sent
    assert last.startswith(b"event: error\ndata: ")
    ends = [b'"message_stop"', b'"error"']
    assert not any(end in event for event in begun for end in ends)


def _check_responses(raw: bytes, said: Told, _: bool) -> None:
    response = response_of(_events(raw))
    if said.code is not None:
        assert response["status"] == "failed"
        return
    assert response["status"] == ("incomplete" if said.finish_reason == "length" else "completed")
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


CHECKS = {CHAT: _check_chat, "/v1/messages": _check_messages, "/v1/responses": _check_responses}


def _blocks(said: Told) -> list[dict[str, Any]]:
    return blocks_of([event.delta for event in said.shown if event.kind == "token"])


def _events(raw: bytes) -> list[bytes]:
    assert raw.endswith(b"\n\n")
    return [event + b"\n\n" for event in raw[:-2].split(b"\n\n")]
