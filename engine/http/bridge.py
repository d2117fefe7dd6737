"""Carries sequences from asyncio to the engine's thread and its events back.

In: a sequence and the connection's `receive`. Out: its events, one a token, in the event loop. When
the client goes, the sequence is cancelled and frees its place at the next step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

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

    async def run(self, engine: Engine, sequence: Sequence, receive: Receive) -> AsyncGenerator[Event]:
        """Submit the sequence and yield its events up to the last; raises its error, or `ClientGone`.

        Close the generator (`aclosing`) to cancel early.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        self._queues[sequence.id] = queue
        is_ended = False
        watcher = None
        try:
            engine.submit(sequence)
            watcher = asyncio.create_task(_watch(receive, queue))
            while not is_ended:
                event = await queue.get()
                if event is None:
                    raise ClientGone
                is_ended = event.is_last
                if event.error is not None:
                    raise event.error
                yield event
        finally:
            del self._queues[sequence.id]
            if watcher is not None:
                watcher.cancel()
                if not is_ended:
                    engine.cancel(sequence.id)


async def _watch(receive: Receive, queue: asyncio.Queue[Event | None]) -> None:
    """Put None into the queue when the client hangs up."""
    while (await receive())["type"] != "http.disconnect":
        pass
    queue.put_nowait(None)
