"""Calls that are sent once more to a target on trial: no client sees anything of it, and no caller pays."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from gateway.dispatch import shadow_budget
from gateway.ledger import drain
from gateway.ledger.database import create_async_engine
from tests.fakes import GOOD_BODY, GOOD_STREAM, ROLE, body, chunk, error, fake_upstream, stream
from tests.gateway.conftest import HELLO, Gateway, Run, eventually, running_gateway
from tests.gateway.dispatch.test_engine_watch import SPECULATING

Prepare = Callable[..., Run]
STREAM = {**HELLO, "stream": True}
PRICED = {"prices": {"input_usd_per_mtok": 1000, "output_usd_per_mtok": 1000}}  # 9 tokens are 0.009 USD
LIMITS = dict.fromkeys("abc", PRICED)
SILENT = stream(ROLE, 30.0)


def policy(more: str = "", *, share: float = 1, usd_per_day: float = 100, target: str = "b") -> str:
    shadow = f"shadow: {{target: {target}, share: {share}, usd_per_day: {usd_per_day}}}"
    return f"version: 1\ndefaults: {{candidates: [a], explore: 0, {shadow}{more}}}\n"


@pytest.fixture(autouse=True)
def quick_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_budget, "INTERVAL_S", 0.1)


def shadows(gateway: Gateway) -> list[dict[str, Any]]:
    """The records of shadows, as the spool has them."""
    return [record["attempt"] for record in gateway.records() if record["kind"] == "shadow"]


async def the_shadow(gateway: Gateway) -> dict[str, Any]:
    await eventually(lambda: bool(shadows(gateway)))
    (only,) = shadows(gateway)
    return only


async def none_begins(gateway: Gateway, name: str = "b") -> None:
    """A shadow begins in the moment in which its call is over; this is a long time after."""
    await asyncio.sleep(0.1)
    assert gateway.fakes[name].calls == []


async def forget_keys(database_url: str) -> None:
    database = create_async_engine(database_url)
    async with database.begin() as connection:
        await connection.execute(text("DELETE FROM api_keys"))
    await database.dispose()


@pytest.mark.parametrize("asked", [STREAM, HELLO])
def test_it_gets_the_same_request_and_nobody_hears_of_it(
    with_gateway: Prepare, asked: dict[str, Any]
) -> None:
    async def test(gateway: Gateway) -> None:
        status, headers, _ = await gateway.post(asked, x_task_id="t1")
        assert (status, headers["x-sparkgate-target"], headers["x-sparkgate-attempts"]) == (200, "a", "1")
        shadow = await the_shadow(gateway)
        (of_a,), (of_b,) = gateway.fakes["a"].calls, gateway.fakes["b"].calls
        assert of_b == of_a | {"model": "b-model"}
        record = await gateway.exchange()
        assert [attempt["target"] for attempt in record["attempts"]] == ["a"]
        assert record["exchange"]["decision"]["shadow"] == "b"
        assert float(record["exchange"]["cost_usd"]) == float(shadow["cost_usd"]) == 0.009
        assert (shadow["role"], shadow["target"], shadow["result"]) == ("shadow", "b", "ok")
        assert (shadow["exchange_id"], shadow["ordinal"]) == (record["exchange"]["id"], 1)
        assert (shadow["input_tokens"], shadow["output_tokens"]) == (7, 2)
        assert (shadow["ttft_s"] is not None) == ("stream" in asked)

    with_gateway(policy(), ("a", "b"), limits=LIMITS)(test)


def test_it_is_a_request_of_its_own(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        await gateway.post(HELLO)
        shadow = await the_shadow(gateway)
        (to_a,), (to_b,) = gateway.fakes["a"].headers, gateway.fakes["b"].headers
        assert to_a["idempotency-key"] != to_b["idempotency-key"]
        assert to_b["x-request-id"] == "req_" + shadow["id"].replace("-", "")

    with_gateway(policy(), ("a", "b"), limits=LIMITS)(test)


def test_it_begins_after_the_answers_end(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [stream(*GOOD_STREAM[:2], 0.3, *GOOD_STREAM[2:])]
        call = asyncio.create_task(gateway.post(STREAM))
        await eventually(lambda: len(gateway.fakes["a"].calls) == 1)
        await none_begins(gateway)
        await call
        await the_shadow(gateway)

    with_gateway(policy(), ("a", "b"), limits=LIMITS)(test)


def test_the_fleet_learns_from_it(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        for _ in range(3):
            await gateway.post(STREAM)
        await eventually(lambda: len(shadows(gateway)) == 3)
        _, metrics = await gateway.get("/metrics")
        assert b'sparkgate_shadows_total{result="ok",target="b"} 3.0' in metrics
        assert b'sparkgate_shadow_cost_usd_total{target="b"} 0.027' in metrics
        assert b'sparkgate_attempts_total{result="ok",target="b"}' not in metrics
        asked = {**STREAM, "model": "b"}
        await gateway.post(asked)
        (candidate,) = gateway.exchanges()[-1]["exchange"]["decision"]["candidates"]
        assert candidate["prediction"]["weight"] > 2.5

    with_gateway(policy(), ("a", "b"), limits=LIMITS)(test)


def test_a_call_that_failed_or_was_left_is_not_sent_again(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(400), stream(ROLE, chunk("Hel"), cut=True), SILENT]
        assert (await gateway.post(HELLO))[0] == 400
        await gateway.post(STREAM)
        call = asyncio.create_task(gateway.post(STREAM))
        await eventually(lambda: len(gateway.fakes["a"].calls) == 3)
        call.cancel()
        await eventually(lambda: len(gateway.exchanges()) == 3)
        await none_begins(gateway)

    with_gateway(policy(), ("a", "b"), limits=LIMITS)(test)


def test_a_client_that_leaves_after_its_answer_leaves_it_alone(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["b"].script = [body(GOOD_BODY, after_s=0.3)]
        await gateway.post(HELLO, connection="close")
        assert (await the_shadow(gateway))["result"] == "ok"

    with_gateway(policy(), ("a", "b"), limits=LIMITS)(test)


def test_its_failures_are_recorded_and_cost_calls_nothing(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["b"].script = [error(429, retry_after="30"), error(500), stream(cut=True), error(500)]
        for asked in (HELLO, HELLO, STREAM, HELLO):
            assert (await gateway.post(asked))[0] == 200
        await eventually(lambda: len(shadows(gateway)) == 4)
        results = ["http_error", "http_error", "cut_off", "http_error"]
        assert sorted(shadow["result"] for shadow in shadows(gateway)) == sorted(results)
        _, health = await gateway.get("/health")
        assert health["targets"]["b"]["in_flight"] == 0
        status, headers, _ = await gateway.post({**HELLO, "model": "b"})
        assert (status, headers["x-sparkgate-attempts"]) == (200, "1")
        reason = gateway.exchanges()[-1]["exchange"]["decision"]["reason"]
        assert reason == "the model name pins b"

    with_gateway(policy(), ("a", "b"), limits=LIMITS)(test)


def test_what_has_effects_or_leaves_something_behind_is_sent_once(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        ours = {"model": "auto", "input": "hello"}
        await gateway.post({**HELLO, "store": True})
        await gateway.post(ours, "/v1/responses")
        await gateway.post({**ours, "store": False, "tools": [{"type": "web_search"}]}, "/v1/responses")
        await none_begins(gateway)
        await gateway.post({**ours, "store": False}, "/v1/responses")
        await the_shadow(gateway)

    with_gateway(policy(), ("a", "b"), limits=LIMITS)(test)


def test_a_target_that_answered_needs_no_shadow(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        await gateway.post({**HELLO, "model": "b"})
        await asyncio.sleep(0.1)
        assert len(gateway.fakes["b"].calls) == 1

    with_gateway(policy(), ("a", "b"), limits=LIMITS)(test)


def test_beside_a_hedge(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [SILENT]
        _, headers, _ = await gateway.post(STREAM)
        assert (headers["x-sparkgate-target"], headers["x-sparkgate-attempts"]) == ("b", "2")
        shadow = await the_shadow(gateway)
        assert (shadow["target"], shadow["ordinal"], shadow["result"]) == ("c", 2, "ok")
        record = await gateway.exchange()
        assert [attempt["result"] for attempt in record["attempts"]] == ["hedge_lost", "ok"]

    hedged = policy(", fallback: [b], hedge: {after: 0.1, budget: 1}", target="c")
    with_gateway(hedged, ("a", "b", "c"), limits=LIMITS)(test)


def test_a_share_of_the_calls(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        for _ in range(40):
            await gateway.post(HELLO)
        chosen = [record["exchange"]["decision"]["shadow"] for record in gateway.exchanges()]
        await eventually(lambda: len(shadows(gateway)) == chosen.count("b"))
        assert 5 <= chosen.count("b") <= 35  # 1 in a million falls outside

    with_gateway(policy(share=0.5), ("a", "b"), limits=LIMITS)(test)


def test_a_budget_ends_it_also_over_a_restart(clean_database_url: str, tmp_path: Path) -> None:
    async def calls(gateway: Gateway, expected: int) -> None:
        for _ in range(5):
            before = len(shadows(gateway))
            await gateway.post(HELLO)
            if before < expected:
                await eventually(lambda: len(shadows(gateway)) > before)  # noqa: B023
        await asyncio.sleep(0.1)
        assert len(gateway.fakes["b"].calls) == expected

    async def test() -> None:
        rules = policy(usd_per_day=0.02)
        async with running_gateway(clean_database_url, tmp_path, rules, ("a", "b"), LIMITS) as gateway:
            await calls(gateway, 3)
        arguments = ["--database-url", clean_database_url, "--spool", str(tmp_path / "spool"), "--once"]
        assert await asyncio.to_thread(drain.main, arguments) == 0
        await forget_keys(clean_database_url)  # the gateway's start in tests makes one
        async with running_gateway(clean_database_url, tmp_path, rules, ("a", "b"), LIMITS) as gateway:
            await calls(gateway, 0)

    asyncio.run(test())


def test_a_budget_that_cannot_be_counted_is_spent(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        await gateway.post(HELLO)
        assert (await the_shadow(gateway))["cost_usd"] is None
        for _ in range(3):
            await gateway.post(HELLO)
        await asyncio.sleep(0.1)
        assert len(gateway.fakes["b"].calls) == 1

    with_gateway(policy(), ("a", "b"))(test)


def test_few_run_at_a_time_and_the_gateways_end_ends_them(clean_database_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with running_gateway(clean_database_url, tmp_path, policy(), ("a", "b"), LIMITS) as gateway:
            gateway.fakes["b"].script = [SILENT] * 20
            for _ in range(12):
                assert (await gateway.post(STREAM))[0] == 200
            await eventually(lambda: len(gateway.fakes["b"].calls) == 8)
            assert shadows(gateway) == []
        await eventually(lambda: gateway.fakes["b"].closed_early == 8)
        assert len(gateway.fakes["b"].calls) == 8
        ended = [(shadow["result"], shadow["error_code"]) for shadow in shadows(gateway)]
        assert ended == [("client_gone", "shadow_ended")] * 8
        assert all(shadow["is_estimated"] and shadow["input_tokens"] > 0 for shadow in shadows(gateway))

    asyncio.run(test())


def test_a_call_takes_the_place_of_a_shadow(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["b"].script = [SILENT]
        await gateway.post(STREAM)
        await eventually(lambda: len(gateway.fakes["b"].calls) == 1)
        status, headers, _ = await gateway.post({**HELLO, "model": "b"})
        assert (status, headers["x-sparkgate-target"]) == (200, "b")
        assert (await the_shadow(gateway))["error_code"] == "shadow_ended"
        assert gateway.fakes["b"].closed_early == 1

    limits = {"a": PRICED, "b": PRICED | {"max_parallel": 1, "queue": 0}}
    with_gateway(policy(), ("a", "b"), limits=limits)(test)


def test_a_full_target_gets_no_shadow(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["b"].script = [body(GOOD_BODY, after_s=0.3)]
        pinned = asyncio.create_task(gateway.post({**HELLO, "model": "b"}))
        await eventually(lambda: len(gateway.fakes["b"].calls) == 1)
        await gateway.post(HELLO)
        await pinned
        assert len(gateway.fakes["b"].calls) == 1

    limits = {"a": PRICED, "b": PRICED | {"max_parallel": 1, "queue": 5}}
    with_gateway(policy(), ("a", "b"), limits=limits)(test)


def test_it_takes_no_callers_turn_at_an_engine(clean_database_url: str, tmp_path: Path) -> None:
    async def test() -> None:
        async with fake_upstream() as engine:
            engine.state = SPECULATING
            port = int(engine.url.removesuffix("/v1").rpartition(":")[2])
            deployment: dict[str, Any] = {"engine": {"enabled": True}, "engine_port": port}
            rules = policy(target="engine")
            async with running_gateway(
                clean_database_url, tmp_path, rules, ("a",), LIMITS, **deployment
            ) as gateway:
                await gateway.post(HELLO)
                assert (await the_shadow(gateway))["target"] == "engine"
        assert engine.headers[0]["x-sparkgate-caller"] == "%28shadow%29"

    asyncio.run(test())
