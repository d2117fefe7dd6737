"""A second target beside a slow first one: the quicker answers, the other is ended and booked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.fakes import GOOD_BODY, GOOD_STREAM, ROLE, body, error, stream
from tests.gateway.conftest import HELLO, Gateway, Run, eventually

Prepare = Callable[..., Run]
STREAM = {**HELLO, "stream": True}
HEDGED = (
    "version: 1\ndefaults: {candidates: [a], fallback: [b], explore: 0, hedge: {after: 0.1, budget: 1}}\n"
)


def results(record: dict[str, list[dict[str, str]]]) -> list[tuple[str, str]]:
    return [(attempt["target"], attempt["result"]) for attempt in record["attempts"]]


def test_the_second_answers_and_the_first_is_ended_and_charged(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [stream(ROLE, 5.0, *GOOD_STREAM[1:])]
        status, headers, _ = await gateway.post(STREAM)
        assert (status, headers["x-sparkgate-target"]) == (200, "b")
        await eventually(lambda: gateway.fakes["a"].closed_early == 1)
        record = await gateway.exchange()
        assert results(record) == [("a", "hedge_lost"), ("b", "ok")]
        assert record["exchange"]["target"] == "b"
        assert record["exchange"]["attempts"] == 2
        lost = record["attempts"][0]
        assert lost["is_estimated"]
        assert lost["input_tokens"] > 0

    with_gateway(HEDGED, ("a", "b"))(test)


def test_the_first_may_still_win(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [stream(0.3, *GOOD_STREAM)]
        gateway.fakes["b"].script = [stream(5.0, *GOOD_STREAM)]
        _, headers, _ = await gateway.post(STREAM)
        assert headers["x-sparkgate-target"] == "a"
        assert results(await gateway.exchange()) == [("a", "ok"), ("b", "hedge_lost")]
        await eventually(lambda: gateway.fakes["b"].closed_early == 1)

    with_gateway(HEDGED, ("a", "b"))(test)


def test_a_quick_first_is_not_hedged(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        for _ in range(5):
            await gateway.post(STREAM)
        assert gateway.fakes["b"].calls == []

    with_gateway(HEDGED, ("a", "b"))(test)


def test_whole_answers_are_hedged_too_and_a_failed_first_leaves_it_to_the_second(
    with_gateway: Prepare,
) -> None:
    async def test(gateway: Gateway) -> None:
        async def slow_error(request, asked):  # type: ignore[no-untyped-def]
            await asyncio.sleep(0.3)
            return await error(500)(request, asked)

        gateway.fakes["a"].script = [slow_error]
        gateway.fakes["b"].script = [body(GOOD_BODY, after_s=0.4)]
        status, headers, _ = await gateway.post(HELLO)
        assert (status, headers["x-sparkgate-target"]) == (200, "b")
        assert results(await gateway.exchange()) == [("a", "http_error"), ("b", "ok")]

    with_gateway(HEDGED, ("a", "b"))(test)


def test_when_both_fail_the_client_hears_of_it_once(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [stream(0.2, cut=True)]
        gateway.fakes["b"].script = [stream(0.3, cut=True)]
        status, _, _ = await gateway.post(STREAM)
        assert status == 502
        assert results(await gateway.exchange()) == [("a", "cut_off"), ("b", "cut_off")]

    with_gateway(HEDGED.replace("explore: 0", "explore: 0, retries: {max: 1}"), ("a", "b"))(test)


def test_hedges_are_a_share_of_the_calls_at_most(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [body(GOOD_BODY, after_s=0.2)] * 20
        await asyncio.gather(*(gateway.post(HELLO) for _ in range(20)))
        assert len(gateway.fakes["b"].calls) == 4

    with_gateway(HEDGED.replace("budget: 1", "budget: 0.2"), ("a", "b"))(test)


def test_a_client_that_leaves_in_the_race_ends_both(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        for fake in gateway.fakes.values():
            fake.script = [stream(ROLE, 5.0)]
        call = asyncio.create_task(gateway.post(STREAM))
        await eventually(lambda: len(gateway.fakes["b"].calls) == 1)
        call.cancel()
        await eventually(lambda: all(fake.closed_early == 1 for fake in gateway.fakes.values()))
        assert results(await gateway.exchange()) == [("a", "client_gone"), ("b", "client_gone")]

    with_gateway(HEDGED, ("a", "b"))(test)
