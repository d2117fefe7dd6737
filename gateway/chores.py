"""Background work of a worker: what is done again and again while it serves, and ends with it.

In: chores. Out: a task each. One that fails ends the worker, which is then started anew.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

log = logging.getLogger(__name__)
END_WITHIN_S = 3.0
PAUSE = "pause of a chore"  # what its task is called, which comes and goes
Step = Callable[[], Coroutine[Any, Any, None]]
Chore = tuple[Step, Step]  # what is done, and what is waited for until it is done again


def every(interval_s: float) -> Step:
    """A pause of this length."""
    return partial(asyncio.sleep, interval_s)


@asynccontextmanager
async def running(chores: Sequence[Chore]) -> AsyncIterator[None]:
    """Does them for as long as the block. At its end a step may be finished, so that no connection is cut off in
    mid-query, but no pause."""
    stop = asyncio.Event()
    tasks = [asyncio.create_task(_repeat(step, pause, stop)) for step, pause in chores]
    for task in tasks:
        task.add_done_callback(_end_worker_on_failure)
    try:
        yield
    finally:
        stop.set()
        await asyncio.wait(tasks, timeout=END_WITHIN_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeat(step: Step, pause: Step, stop: asyncio.Event) -> None:
    stopped = asyncio.ensure_future(stop.wait())
    while not stop.is_set():
        await step()
        paused = asyncio.create_task(pause(), name=PAUSE)
        await asyncio.wait((paused, stopped), return_when=asyncio.FIRST_COMPLETED)
        paused.cancel()


def _end_worker_on_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a background task failed, this worker ends", exc_info=error)
        os.kill(os.getpid(), signal.SIGTERM)
