"""`Watch`: a deadline of the running task that may be moved as often as one likes, at the cost of an assignment.

`asyncio.timeout` arms a timer for every wait; a stream waits for each of its pieces. Here one timer looks now and
then whether the deadline still lies ahead.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

GRAIN_S = 0.25


class Watch:
    """`with Watch(until): …` raises `TimeoutError` where the task waits when `until` (event loop's clock) passes.

    `until` may be moved; one that was moved nearer is noticed up to `GRAIN_S` late.
    """

    def __init__(self, until: float) -> None:
        self.until = until
        self._loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._is_over = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Watch:
        self._cancelling = self._task.cancelling()
        self._look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        is_ours = self._is_over and self._task.uncancel() <= self._cancelling
        if is_ours and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def _look(self) -> None:
        now = self._loop.time()
        if now < self.until:  # it may come nearer, so look again soon
            self._timer = self._loop.call_at(min(self.until, now + GRAIN_S), self._look)
        else:
            self._is_over = True
            self._task.cancel()
