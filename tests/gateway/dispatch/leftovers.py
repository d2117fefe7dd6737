"""What calls may leave behind in a gateway that runs in this process: tasks, parts of streams, counts of calls.

In: a running gateway. An `AssertionError` says what stayed.
"""

from __future__ import annotations

import asyncio
import gc

from gateway.dispatch.relay import Relay
from gateway.dispatch.tally import Tally
from gateway.dispatch.tries import Try
from gateway.upstreams.http_response import Response
from gateway.wire.sse import EventSplitter
from tests.gateway.conftest import Gateway, eventually

PARTS = (Relay, Try, Tally, Response, EventSplitter)


def task_kinds() -> set[str]:
    """The names of the coroutines that run beside this one; the tasks of chores come and go, but not their kind."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    return {getattr(task.get_coro(), "__qualname__", "") for task in others} | {"Event.wait"}


def parts() -> set[int]:
    """What serving a call is made of, by `id`. `isinstance` would wake lazy modules among the objects."""
    gc.collect()
    return {id(each) for each in gc.get_objects() if type(each) in PARTS}


async def nothing_is_left(gateway: Gateway, kinds_before: set[str], parts_before: set[int]) -> None:
    """Compared with a moment at which there was no call."""
    await eventually(lambda: task_kinds() <= kinds_before)
    _, health = await gateway.get("/health")
    assert {target["in_flight"] for target in health["targets"].values()} == {0}
    _, metrics = await gateway.get("/metrics")
    assert b"\nsparkgate_in_flight 0.0\n" in metrics
    assert parts() <= parts_before
