"""Carries sequences from asyncio to the engine's thread and its events back.

In: the sequences of one answer and the connection's `receive`. Out: their events, one a token, in the event
loop. When the client goes, they are cancelled and free their places at the next step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from collections.abc import Sequence as Ordered

from starlette.types import Receive

from engine.loop import Engine
from engine.sequence import Event, Sequence


class ClientGone(Exception):
    """The connection was closed by the client; there is nobody to answer."""


class Bridge:
    """One for each event loop. `deliver` is called in the engine's thread, all else in the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queues: dict[str, asyncio.Queue[Event | None]] = {}

    def deliver(self, events: list[Event]) -> None:
        """Hand a step's events over, in one call for all of them."""
        try:
            self._loop.call_soon_threadsafe(self._dispatch, events)
        except RuntimeError:  # the event loop is closed: so are all connections
            return

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            queue = self._queues.get(event.sequence_id)
            if queue is not None:
                queue.put_nowait(event)

    async def run(
        self, engine: Engine, sequences: Ordered[Sequence], receive: Receive
    ) -> AsyncGenerator[Event]:
        """Submit sequences of one prompt and yield all their events; raises the error of any, or `ClientGone`.

        The others are submitted once the first has read the prompt, so that they find it in the cache.
        Close the generator (`aclosing`) to cancel early.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues |= {sequence.id: queue for sequence in sequences}
        open_ids: set[str] = set()
        watcher = None

        def submit(some: Ordered[Sequence]) -> None:
            for sequence in some:
                engine.submit(sequence)
                open_ids.add(sequence.id)

        others = sequences[1:]
        try:
            submit(sequences[:1])
            watcher = asyncio.create_task(_watch(receive, queue))
            while open_ids:
                event = await queue.get()
                if event is None:
                    raise ClientGone
                if event.is_last:
                    open_ids.discard(event.sequence_id)
                if event.error is not None:
                    raise event.error
                submit(others)
                others = ()
                yield event
        finally:
            for sequence in sequences:
                del self._queues[sequence.id]
            if watcher is not None:
                watcher.cancel()
            for sequence_id in open_ids:
                engine.cancel(sequence_id)


async def _watch(receive: Receive, queue: asyncio.Queue[Event | None]) -> None:
    """Put None into the queue when the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    queue.put_nowait(None)
