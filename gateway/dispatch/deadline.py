"""`Watch`: a deadline of the running task that may be moved as often as one likes, at the cost of an assignment.

`asyncio.timeout` arms a timer for every wait; a stream waits for each of its pieces. Here one timer of the event loop
looks after all watches, twenty times a second while there are any.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

GRAIN_S = 0.05


class Watch:
    """`with Watch(until): …` raises `TimeoutError` where the task waits when `until` (event loop's clock) passes.

    It is noticed up to `GRAIN_S` late. `until` may be moved.
    """

    __slots__ = ("_cancelling", "_clock", "_is_over", "_task", "until")

    def __init__(self, until: float) -> None:
        self.until = until
        self._is_over = False

    def __enter__(self) -> Watch:
        self._clock = clock = _clock_of(asyncio.get_running_loop())
        task = asyncio.current_task(clock.loop)
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        clock.watches[self] = None
        if not clock.is_ticking:
            clock.tick()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.watches.pop(self, None)
        if self._is_over and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def end(self) -> None:
        self._is_over = True
        self._task.cancel()


class _Clock:
    """Looks after the watches of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.watches: dict[Watch, None] = {}
        self.is_ticking = False

    def tick(self) -> None:
        now = self.loop.time()
        for watch in [watch for watch in self.watches if watch.until <= now]:
            del self.watches[watch]
            watch.end()
        self.is_ticking = bool(self.watches)
        if self.is_ticking:
            self.loop.call_later(GRAIN_S, self.tick)


_clock: _Clock | None = None


def _clock_of(loop: asyncio.AbstractEventLoop) -> _Clock:
    """A worker has one loop."""
    global _clock
    if _clock is None or _clock.loop is not loop:
        _clock = _Clock(loop)
    return _clock
