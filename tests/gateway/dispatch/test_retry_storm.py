"""Trouble is not answered with more load: what a target that always fails gets to see of calls at a steady pace."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

from tests.fakes import error
from tests.gateway.conftest import HELLO, Gateway, Run

Prepare = Callable[..., Run]
CALLS_PER_S, LASTING_S = 100, 5
CALLS = CALLS_PER_S * LASTING_S
ALWAYS = [error(500)] * (10 * CALLS)


async def storm(gateway: Gateway) -> Counter[int]:
    """How often each status came, of calls that begin at their time, whatever became of those before."""
    begun = time.monotonic()

    async def call(number: int) -> int:
        await asyncio.sleep(begun + number / CALLS_PER_S - time.monotonic())
        status, _, _ = await gateway.post(HELLO)
        return status

    return Counter(await asyncio.gather(*map(call, range(CALLS))))


def test_repeats_are_a_fifth_of_the_calls_and_ten_a_second_at_most(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = list(ALWAYS)
        assert await storm(gateway) == {500: CALLS}
        seen = len(gateway.fakes["a"].calls)
        assert CALLS < seen <= 1.2 * CALLS + 10 * LASTING_S
        print(f"\n{CALLS} calls in {LASTING_S} s, {seen} seen by the target")
        assert len(gateway.exchanges()) == CALLS
        assert sum(len(record["attempts"]) for record in gateway.exchanges()) == seen

    with_gateway("version: 1\ndefaults: {retries: {max: 3}}\n")(test)


def test_where_another_target_is_well_the_failing_one_is_left_alone(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = list(ALWAYS)
        assert await storm(gateway) == {200: CALLS}
        seen = len(gateway.fakes["a"].calls)
        assert 3 <= seen <= CALLS * 0.05
        print(f"\n{CALLS} calls in {LASTING_S} s, {seen} seen by the failing target of two")
        assert len(gateway.fakes["b"].calls) == CALLS

    policy = "version: 1\ndefaults: {candidates: [a], fallback: [b], explore: 0}\n"
    with_gateway(policy, ("a", "b"))(test)


def test_an_outage_of_all_does_not_multiply_the_load_of_any(with_gateway: Prepare) -> None:
    """What three targets get to see of calls that all of them fail: each call once, a fifth more, and ten a second."""

    async def test(gateway: Gateway) -> None:
        for fake in gateway.fakes.values():
            fake.script = list(ALWAYS)
        assert (await storm(gateway)).total() == CALLS
        seen = sum(len(fake.calls) for fake in gateway.fakes.values())
        assert CALLS <= seen <= 1.2 * CALLS + 10 * LASTING_S + 100  # and what was saved up
        print(f"\n{CALLS} calls in {LASTING_S} s, {seen} seen by three failing targets")

    policy = "version: 1\ndefaults: {candidates: [a, b, c], explore: 0, retries: {max: 2}}\n"
    with_gateway(policy, ("a", "b", "c"))(test)
