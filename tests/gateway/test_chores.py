"""Background work: again and again, to the end of a step, never to the end of a pause."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from gateway import chores
from gateway.chores import every, running


def test_the_end_waits_for_a_step_and_for_no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "END_WITHIN_S", 3600.0)
    done: list[str] = []
    began = asyncio.Event()

    async def slow() -> None:
        began.set()
        await asyncio.sleep(0.05)
        done.append("slow")

    async def quick() -> None:
        done.append("quick")

    async def scenario() -> None:
        async with running([(slow, every(3600.0)), (quick, every(3600.0))]):
            await began.wait()

    asyncio.run(scenario())
    assert sorted(done) == ["quick", "slow"]


def test_a_step_that_hangs_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chores, "END_WITHIN_S", 0.01)
    began = asyncio.Event()

    async def hang() -> None:
        began.set()
        await asyncio.sleep(3600.0)

    async def scenario() -> None:
        async with running([(hang, every(0.0))]):
            await began.wait()

    asyncio.run(scenario())


def test_it_is_done_again_after_each_pause() -> None:
    times = 0
    enough = asyncio.Event()

    async def count() -> None:
        nonlocal times
        times += 1
        if times == 3:
            enough.set()

    async def scenario() -> None:
        async with running([(count, every(0.001))]):
            await enough.wait()

    asyncio.run(scenario())


def test_one_that_fails_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []
    ended = asyncio.Event()

    def kill(_: int, number: int) -> None:
        sent.append(number)
        ended.set()

    async def fail() -> None:
        raise RuntimeError("broken")

    async def scenario() -> None:
        async with running([(fail, every(0.0))]):
            await ended.wait()

    monkeypatch.setattr(os, "kill", kill)
    asyncio.run(scenario())
    assert sent == [signal.SIGTERM]
