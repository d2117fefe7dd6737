"""How many calls a target gets at a time, who waits, and who is told at once that there is no room."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dispatch.gates import Busy, Gate, Loan
from tests.fakes import GOOD_BODY, body
from tests.gateway.conftest import HELLO, Gateway, Run, eventually

Prepare = Callable[..., Run]
SLOW = body(GOOD_BODY, after_s=0.3)


def test_callers_take_turns_whoever_asked_first() -> None:
    async def test() -> None:
        gate, served = Gate(1, 10), []

        async def call(caller: str) -> None:
            await gate.enter(caller)
            served.append(caller)
            await asyncio.sleep(0)
            gate.leave()

        await gate.enter("first")
        calls = [asyncio.create_task(call(caller)) for caller in ("a", "a", "a", "b", "c")]
        await asyncio.sleep(0)
        gate.leave()
        await asyncio.gather(*calls)
        assert served == ["a", "b", "c", "a", "a"]
        assert (gate.inside, gate.waiting) == (0, 0)

    asyncio.run(test())


@given(
    max_parallel=st.integers(1, 3),
    queue=st.integers(0, 4),
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["ask", "end", "give up", "borrow", "return"])),
        max_size=60,
    ),
)
def test_whatever_happens_the_limits_hold_and_every_place_comes_back(
    max_parallel: int, queue: int, steps: list[tuple[str, str]]
) -> None:
    async def test() -> None:
        gate = Gate(max_parallel, queue)
        asking: list[asyncio.Task[None]] = []
        inside, borrowed = 0, 0
        loans: list[Loan] = []

        async def settle() -> None:
            nonlocal inside
            for _ in range(3):
                await asyncio.sleep(0)
            for task in [task for task in asking if task.done()]:
                asking.remove(task)
                inside += not task.cancelled() and task.exception() is None

        def given_up() -> None:
            nonlocal borrowed
            borrowed -= 1

        for caller, step in steps:
            if step == "ask":
                asking.append(asyncio.create_task(gate.enter(caller)))
            elif step == "end" and inside:
                inside -= 1
                gate.leave()
            elif step == "borrow":
                loan = Loan(gate, given_up)
                try:
                    await loan.enter(caller)
                except Busy:
                    assert inside + borrowed == max_parallel
                else:
                    loans.append(loan)
                    borrowed += 1
            elif step == "return" and loans:
                borrowed -= loans[0] in gate.loans
                loans.pop(0).leave()
            elif asking:
                asking[-1].cancel()
            await settle()
            assert gate.inside == inside + borrowed <= max_parallel
            assert gate.waiting == len(asking) <= queue
            assert not asking or inside == max_parallel  # nobody waits beside a free place or a borrowed one
        for task in asking:
            task.cancel()
        await settle()
        for _ in range(inside):
            gate.leave()
        for loan in loans:
            loan.leave()
        assert (gate.inside, gate.waiting) == (0, 0)

    asyncio.run(test())


def test_a_full_queue_refuses_at_once() -> None:
    async def test() -> None:
        gate = Gate(1, 0)
        await gate.enter("a")
        with pytest.raises(Busy):
            await gate.enter("b")

    asyncio.run(test())


def test_more_calls_than_a_target_takes_go_to_the_next_one(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [SLOW, SLOW]
        answers = await asyncio.gather(*(gateway.post(HELLO) for _ in range(3)))
        targets = sorted(headers["x-sparkgate-target"] for _, headers, _ in answers)
        assert (len(gateway.fakes["a"].calls), targets) == (1, ["a", "b", "b"])
        tried = [record["attempts"] for record in gateway.exchanges()]
        assert sorted(attempt["result"] for attempts in tried for attempt in attempts) == [
            "busy",
            "busy",
            "ok",
            "ok",
            "ok",
        ]
        assert all(record["exchange"]["status"] == 200 for record in gateway.exchanges())

    policy = "version: 1\ndefaults: {candidates: [a], fallback: [b], explore: 0}\n"
    with_gateway(policy, ("a", "b"), limits={"a": {"max_parallel": 1, "queue": 0}})(test)


def test_where_all_are_busy_the_client_is_told_when_to_come_back(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [SLOW, SLOW, SLOW]
        first = [asyncio.create_task(gateway.post(HELLO)) for _ in range(2)]
        await eventually(lambda: len(gateway.fakes["a"].calls) == 1)
        await asyncio.sleep(0.05)
        status, headers, raw = await gateway.post(HELLO)
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(raw)["error"]["code"] == "target_busy"
        assert [status for status, _, _ in await asyncio.gather(*first)] == [200, 200]
        assert max(len(gateway.fakes["a"].calls), 2) == 2
        _, _, raw = await gateway.post(HELLO)
        assert json.loads(raw) == GOOD_BODY  # being busy is no failure of the target

    policy = "version: 1\ndefaults: {retries: {max: 0}}\n"
    with_gateway(policy, ("a",), limits={"a": {"max_parallel": 1, "queue": 1}})(test)


def test_a_client_that_leaves_the_queue_gives_its_place_up(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [SLOW]
        first = asyncio.create_task(gateway.post(HELLO))
        await eventually(lambda: len(gateway.fakes["a"].calls) == 1)
        waiting = asyncio.create_task(gateway.post(HELLO))
        await asyncio.sleep(0.05)
        waiting.cancel()
        await eventually(lambda: len(gateway.exchanges()) == 1)
        assert gateway.exchanges()[0]["exchange"]["error_code"] == "client_gone"
        assert (await first)[0] == 200
        assert len(gateway.fakes["a"].calls) == 1

    with_gateway(limits={"a": {"max_parallel": 1}})(test)
