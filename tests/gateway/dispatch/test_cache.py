"""Answers to deterministic calls: kept for their caller, shared by those who ask at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from gateway.dispatch.cache import OVERHEAD_BYTES, Answer, AnswerCache
from tests.fakes import DONE, GOOD_BODY, GOOD_STREAM, body, chunk, error, stream
from tests.gateway.conftest import HELLO, Gateway, Run, eventually

Prepare = Callable[..., Run]
SURE = {**HELLO, "temperature": 0}
CACHED = "version: 1\ndefaults: {cache: {ttl_s: 60}}\n"


def test_the_second_call_is_answered_from_the_cache_with_what_it_saved(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        _, _, first = await gateway.post(SURE)
        status, headers, second = await gateway.post({**SURE, "metadata": {"task_id": "another"}})
        assert (status, second) == (200, first)
        assert headers["x-sparkgate-cache"] == "hit"
        assert headers["content-type"] == "application/json"
        assert len(gateway.fakes["a"].calls) == 1
        missed, hit = gateway.exchanges()
        assert missed["exchange"]["cache"] is None
        assert (hit["exchange"]["cache"], hit["attempts"]) == ("hit", [])
        assert hit["exchange"]["saved_usd"] == missed["exchange"]["cost_usd"] == "0.000013000"
        assert hit["exchange"]["cost_usd"] == "0.000000000"

    prices = {"input_usd_per_mtok": 1, "output_usd_per_mtok": 3}
    with_gateway(CACHED, limits={"a": {"prices": prices}})(test)


def test_streams_are_kept_whole(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        _, _, first = await gateway.post({**SURE, "stream": True})
        _, headers, second = await gateway.post({**SURE, "stream": True})
        assert second == first == b"".join(GOOD_STREAM[:4]) + DONE
        assert headers["content-type"].startswith("text/event-stream")
        await gateway.post(SURE)  # another question: the same words, not streamed
        assert len(gateway.fakes["a"].calls) == 2

    with_gateway(CACHED)(test)


@pytest.mark.parametrize(
    "other",
    [
        HELLO,  # left to chance
        {**HELLO, "temperature": 0.7},
        {**SURE, "max_tokens": 5},
        {**SURE, "messages": [{"role": "user", "content": "hello!"}]},
        {**SURE, "x_new_option": True},
    ],
)
def test_other_calls_are_asked_anew(with_gateway: Prepare, other: dict[str, object]) -> None:
    async def test(gateway: Gateway) -> None:
        for asked in (SURE, other, other):
            await gateway.post(asked)
        assert len(gateway.fakes["a"].calls) >= 2
        assert gateway.fakes["a"].calls[1] != gateway.fakes["a"].calls[0]

    with_gateway(CACHED)(test)


def test_nothing_is_kept_unless_the_policy_says_so(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        await gateway.post(SURE)
        await gateway.post(SURE)
        assert len(gateway.fakes["a"].calls) == 2

    with_gateway()(test)


def test_equal_calls_at_the_same_time_are_one(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [body(GOOD_BODY, after_s=0.2)]
        answers = await asyncio.gather(*(gateway.post({**SURE, "seed": 1}) for _ in range(5)))
        assert {raw for _, _, raw in answers} == {answers[0][2]}
        assert len(gateway.fakes["a"].calls) == 1
        ways = sorted(str(record["exchange"]["cache"]) for record in gateway.exchanges())
        assert ways == ["None", "joined", "joined", "joined", "joined"]

    with_gateway(CACHED)(test)


def test_an_answer_that_failed_or_broke_off_is_not_kept(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(400), stream(chunk("Hel"), cut=True)]
        assert (await gateway.post({**SURE, "stream": True}))[0] == 400
        assert b"error" in (await gateway.post({**SURE, "stream": True}))[2]
        assert (await gateway.post({**SURE, "stream": True}))[2].endswith(DONE)
        assert len(gateway.fakes["a"].calls) == 3

    with_gateway(CACHED)(test)


def test_those_who_waited_for_a_client_that_left_ask_for_themselves(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [body(GOOD_BODY, after_s=5.0)]
        first = asyncio.create_task(gateway.post(SURE))
        await eventually(lambda: len(gateway.fakes["a"].calls) == 1)
        waiting = [asyncio.create_task(gateway.post(SURE)) for _ in range(2)]
        await asyncio.sleep(0.05)
        first.cancel()
        assert [status for status, _, _ in await asyncio.gather(*waiting)] == [200, 200]

    with_gateway(CACHED)(test)


def test_who_waits_for_an_equal_call_waits_no_longer_than_its_own_deadline(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [body(GOOD_BODY, after_s=2.0)]
        first = asyncio.create_task(gateway.post(SURE))
        await eventually(lambda: len(gateway.fakes["a"].calls) == 1)
        status, _, raw = await gateway.post(SURE, x_deadline_ms="100")
        assert (status, first.done()) == (504, False)
        assert b"timeout_total" in raw
        assert gateway.exchanges()[0]["exchange"]["timed_out"] == "total"
        assert (await first)[0] == 200

    with_gateway(CACHED)(test)


def test_the_oldest_answers_go_first_and_old_ones_are_no_answers() -> None:
    async def test() -> None:
        cache = AnswerCache(max_bytes=16 * (100 + OVERHEAD_BYTES))
        for index in range(20):
            assert cache.begin(b"%d" % index)
            cache.end(b"%d" % index, Answer(b"x" * 100, "application/json", None, until=10.0))
        assert cache.find(b"3", now=5.0) is None
        assert cache.find(b"4", now=5.0) is not None
        assert cache.find(b"4", now=10.0) is None
        assert cache.find(b"4", now=5.0) is None
        cache.begin(b"large")
        cache.end(b"large", Answer(b"x" * 5000, "application/json", None, until=10.0))
        assert cache.find(b"large", now=5.0) is None

    asyncio.run(test())
