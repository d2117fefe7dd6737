"""The router's promises over real HTTP: three upstream processes that turn slow, fail, refuse, hang and recover.

The real gateway under open-loop traffic, once, phase after phase; the tests read what its clients saw. What is
asserted compares targets of one run, never a time with a number of seconds that a machine must keep.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from random import Random
from statistics import quantiles
from typing import Any

import aiohttp
import pytest
from openai import AsyncOpenAI, OpenAIError

from tests.system.product import PATIENCE_S, Product
from tests.system.upstream import Behaviour, Upstream

pytestmark = [pytest.mark.system, pytest.mark.long, pytest.mark.timeout(600)]

CALLS_PER_S = 30.0
OFFICIAL_EVERY = 15  # one call in so many is made by OpenAI's own client
COLD_S, CALM_S, SLOW_S, FAILING_S, DOWN_S = 2.0, 4.0, 9.0, 3.0, 6.0
SLOWER = 10.0
NOTICED_CALLS, NOTICED_S = 20, 5.0  # of the slowed target's; once both have passed
LOST_SHARE = 0.9  # of its traffic is gone
BACK_S, BACK_SHARE = 30.0, 0.5  # by when a recovered target has how much of its share in calm again
BACK_OVER_S = 3.0  # the stretch of traffic that is looked at
FAILING_SHARE = 0.3
FIRST_TOKEN_S = 4.0  # a busy machine is slow, a hanging target is known by then
SPARED_S, SPARED_SHARE = 1.0, 0.8  # of the last calls' seconds, so many go to none that is down

WELL = {"swift": Behaviour(0.08, 0.008), "even": Behaviour(0.12, 0.012), "other": Behaviour(0.12, 0.012)}
SLOWED, FAILING, LEFT = WELL  # in the order in which they have the traffic
REFUSING, HANGING = SLOWED, FAILING
SHAPES = ["short_chat"] * 7 + ["general"] * 3
POLICY = f"""\
version: 1
shapes: {{general: {{objective: completion_p95}}}}
defaults:
  objective: ttft
  candidates: [{", ".join(WELL)}]
  timeouts: {{first_token_s: {FIRST_TOKEN_S}, idle_s: 10, total_s: 60}}
"""
PATH = "/v1/chat/completions"
ASK: Any = [{"role": "user", "content": "Write a short story about a lighthouse."}]


@dataclass
class Seen:
    """One call as its client saw it; `target` is the one that answered, None while nobody has."""

    sent: float
    target: str | None = None
    request_id: str | None = None
    num_attempts: int = 0
    total_s: float | None = None
    error: str | None = None

    def answered(self, headers: Mapping[str, str]) -> None:
        self.target, self.request_id = headers["x-sparkgate-target"], headers["x-request-id"]
        self.num_attempts = int(headers["x-sparkgate-attempts"])


@dataclass
class Story:
    """All calls in the order they were sent, and when each phase began."""

    calls: list[Seen] = field(default_factory=list)
    begun: dict[str, float] = field(default_factory=dict)
    back_s: float | None = None  # what the recovered target took to have its share again
    explained: dict[str, dict[str, Any]] = field(default_factory=dict)  # exchanges of the ledger

    def phase(self, name: str) -> list[Seen]:
        later = [at for at in self.begun.values() if at > self.begun[name]]
        end = min(later, default=float("inf"))
        return [call for call in self.calls if self.begun[name] <= call.sent < end]

    def table(self) -> str:
        lines = [f"{'phase':<10}{'calls':>6}" + "".join(f"{name:>8}" for name in WELL) + "   p50 s   p95 s"]
        for name in self.begun:
            calls = self.phase(name)
            times = quantiles([call.total_s for call in calls if call.total_s is not None], n=20)
            shares = "".join(f"{share(calls, target):>8.0%}" for target in WELL)
            lines.append(f"{name:<10}{len(calls):>6}{shares}{times[9]:>8.2f}{times[18]:>8.2f}")
        left = share(noticed(self.phase("slow"), SLOWED), SLOWED) / share(self.phase("calm"), SLOWED)
        return "\n".join(
            [
                *lines,
                f"{SLOWED} kept {left:.0%} of its traffic once slow, and had it back after {self.back_s} s",
            ]
        )


def share(calls: list[Seen], target: str) -> float:
    answered = Counter(call.target for call in calls if call.target is not None)
    return answered[target] / max(answered.total(), 1)


def noticed(calls: list[Seen], target: str) -> list[Seen]:
    """Those sent once so many calls and seconds of a phase had told of the target."""
    of_it = [index for index, call in enumerate(calls) if call.target == target]
    first = of_it[NOTICED_CALLS - 1] + 1 if len(of_it) >= NOTICED_CALLS else 0
    return [call for call in calls[first:] if call.sent >= calls[0].sent + NOTICED_S]


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(Upstream(behaviour)) for name, behaviour in WELL.items()}
        product = Product("--no-engine", "--no-dashboard")
        stack.callback(product.remove)
        config, policy = product.data_dir / "sparkgate.yaml", product.data_dir / "policy.yaml"
        targets = [
            f'  - {{name: {name}, kind: openai, base_url: "{upstream.url}/v1", model: m}}\n'
            for name, upstream in upstreams.items()
        ]
        config.write_text("targets:\n" + "".join(targets))
        policy.write_text(POLICY)
        product.options += ["--config", str(config), "--policy", str(policy)]
        product.start()
        told = asyncio.run(_tell(product, upstreams))
        print(f"\n{told.table()}")
        yield told


async def _tell(product: Product, upstreams: dict[str, Upstream]) -> Story:
    story = Story()
    headers = {"Authorization": f"Bearer {product.key}"}
    waits = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with (
        aiohttp.ClientSession(product.url, headers=headers, timeout=waits) as http,
        AsyncOpenAI(base_url=f"{product.url}/v1", api_key=product.key, max_retries=0) as official,
    ):
        async with _traffic(story, http, official):
            await _phase(story, "cold", COLD_S)
            await _phase(story, "calm", CALM_S)
            upstreams[SLOWED].behave(WELL[SLOWED].slower(SLOWER))
            await _phase(story, "slow", SLOW_S)
            upstreams[FAILING].behave(replace(WELL[FAILING], refuses=FAILING_SHARE, status=503))
            await _phase(story, "failing", FAILING_S)
            upstreams[FAILING].behave(WELL[FAILING])
            upstreams[SLOWED].behave(WELL[SLOWED])
            await _phase(story, "recovered", 0.0)
            story.back_s = await _back(story)
            upstreams[REFUSING].behave(replace(WELL[REFUSING], refuses=1.0, status=429, retry_after_s=2))
            upstreams[HANGING].behave(replace(WELL[HANGING], hangs=True))
            await _phase(story, "two down", DOWN_S)
            upstreams[HANGING].behave(WELL[HANGING])
        of_slow = [call for call in noticed(story.phase("slow"), SLOWED) if call.target != SLOWED]
        retried = [call for call in story.phase("failing") if call.num_attempts > 1]
        for what, calls in (("slow", of_slow), ("failing", retried)):
            if calls:
                story.explained[what] = await _exchange(http, str(calls[-1].request_id))
    return story


async def _phase(story: Story, name: str, lasts_s: float) -> None:
    story.begun[name] = time.monotonic()
    await asyncio.sleep(lasts_s)


async def _back(story: Story) -> float | None:
    """Seconds until the slowed target had its share back; None = it did not come back."""
    begun = story.begun["recovered"]
    usual = share(story.phase("calm"), SLOWED)
    while (took_s := time.monotonic() - begun) < BACK_S:
        since = max(begun, begun + took_s - BACK_OVER_S)
        if (
            took_s >= BACK_OVER_S
            and share([call for call in story.calls if call.sent >= since], SLOWED) >= BACK_SHARE * usual
        ):
            return took_s
        await asyncio.sleep(0.2)
    return None


@asynccontextmanager
async def _traffic(story: Story, http: aiohttp.ClientSession, official: AsyncOpenAI) -> AsyncIterator[None]:
    """Poisson arrivals, whatever becomes of the calls before; at the end those under way are waited for."""
    running: list[asyncio.Task[None]] = []

    async def arrive() -> None:
        chance, due = Random(6), time.monotonic()
        while True:
            due += chance.expovariate(CALLS_PER_S)
            await asyncio.sleep(due - time.monotonic())
            seen, shape = Seen(time.monotonic()), chance.choice(SHAPES)
            story.calls.append(seen)
            if len(story.calls) % OFFICIAL_EVERY == 0:
                running.append(asyncio.create_task(_ask_officially(official, shape, seen)))
            else:
                running.append(asyncio.create_task(_ask(http, shape, seen)))

    arriving = asyncio.create_task(arrive())
    try:
        yield
    finally:
        arriving.cancel()
        await asyncio.gather(*running)


async def _ask(http: aiohttp.ClientSession, shape: str, seen: Seen) -> None:
    body = {"model": "auto", "messages": ASK, "stream": True}
    try:
        async with http.post(PATH, json=body, headers={"X-Task-Shape": shape}) as answer:
            answer.raise_for_status()
            seen.answered(answer.headers)
            text = await answer.text()
        if not text.endswith("data: [DONE]\n\n"):
            seen.error = text[-200:]
    except (aiohttp.ClientError, TimeoutError) as error:
        seen.error = repr(error)
    seen.total_s = time.monotonic() - seen.sent


async def _ask_officially(client: AsyncOpenAI, shape: str, seen: Seen) -> None:
    try:
        answer = await client.chat.completions.with_raw_response.create(
            model=f"auto/{shape}", messages=ASK, stream=True
        )
        seen.answered(answer.headers)
        reasons = [choice.finish_reason async for chunk in answer.parse() for choice in chunk.choices]
        if reasons[-1] != "stop":
            seen.error = f"ended with {reasons}"
    except OpenAIError as error:
        seen.error = repr(error)
    seen.total_s = time.monotonic() - seen.sent


async def _exchange(http: aiohttp.ClientSession, request_id: str) -> dict[str, Any]:
    """What the ledger says of a call, as soon as it is there."""
    end = time.monotonic() + PATIENCE_S
    while True:
        async with http.get(f"/v1/exchanges/{request_id}") as answer:
            if answer.status == 200:
                found: dict[str, Any] = await answer.json()
                return found
        assert time.monotonic() < end, f"{request_id} does not come to the ledger"
        await asyncio.sleep(0.2)


def test_no_client_sees_an_error_while_another_target_is_well(story: Story) -> None:
    assert [call for call in story.calls if call.error is not None] == []
    assert all(call.target in WELL for call in story.calls)


def test_a_slowed_target_loses_its_traffic(story: Story) -> None:
    usual, calls = share(story.phase("calm"), SLOWED), noticed(story.phase("slow"), SLOWED)
    assert len(calls) > CALLS_PER_S
    assert share(calls, SLOWED) <= (1.0 - LOST_SHARE) * usual, story.table()


def test_a_recovered_target_has_its_share_back_in_time(story: Story) -> None:
    assert story.back_s is not None, story.table()


def test_failures_are_tried_elsewhere_and_not_seen(story: Story) -> None:
    retried = [call for call in story.phase("failing") if call.num_attempts > 1]
    assert retried, story.table()
    assert {call.target for call in retried} <= set(WELL)


def test_targets_that_answer_nothing_are_soon_not_asked(story: Story) -> None:
    calls = story.phase("two down")
    assert {call.target for call in calls if call.sent > calls[0].sent + SPARED_S} == {LEFT}
    last = [call for call in calls if call.sent > calls[-1].sent - SPARED_S]
    at_once = [call for call in last if call.num_attempts == 1]
    assert len(at_once) >= SPARED_SHARE * len(last), story.table()


def test_the_ledger_explains_why_the_slowed_target_was_passed_over(story: Story) -> None:
    exchange = story.explained["slow"]
    decision = exchange["decision"]
    figures = {
        candidate["target"]: candidate["prediction"]
        for candidate in decision["candidates"]
        if candidate["prediction"] is not None
    }
    refused = {rejection["target"] for rejection in decision["rejections"]}
    assert figures.keys() | refused == WELL.keys()
    assert decision["reason"]
    chosen = exchange["target"]
    assert decision["candidates"][0]["target"] == chosen
    assert SLOWED in refused or figures[SLOWED]["completion_s"] > figures[chosen]["completion_s"]


def test_the_ledger_names_each_try_of_a_call_that_failed_at_first(story: Story) -> None:
    *failed, last = [(one["target"], one["result"]) for one in story.explained["failing"]["attempts"]]
    assert (FAILING, "http_error") in failed
    assert last[1] == "ok"
