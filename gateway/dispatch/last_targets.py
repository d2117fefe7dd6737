"""`LastTargets`: which target answered a task's latest call, so that the next may find its beginning cached there.

One worker's memory, of so many tasks; with several workers a miss only means that nothing is known. Time is an
argument.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_TASKS = 10_000
KEPT_S = 600.0  # providers keep the beginnings of prompts for minutes


class LastTargets:
    """By caller and task id; the task that was quiet for longest goes first."""

    def __init__(self, max_tasks: int = MAX_TASKS, kept_s: float = KEPT_S) -> None:
        self._max_tasks, self._kept_s = max_tasks, kept_s
        self._targets: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def find(self, caller: str, task_id: str, now: float) -> str | None:
        target, until = self._targets.get((caller, task_id), (None, now))
        return target if now < until else None

    def note(self, caller: str, task_id: str, target: str, now: float) -> None:
        self._targets[caller, task_id] = target, now + self._kept_s
        self._targets.move_to_end((caller, task_id))
        if len(self._targets) > self._max_tasks:
            self._targets.popitem(last=False)
