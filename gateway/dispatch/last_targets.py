"""`LastTargets`: which target answered a task's latest call, so that the next may find its beginning cached there; and
which had what part in the task, so that its outcome is credited to them.

One worker's memory, of so many tasks; with several workers a miss only means that nothing is known. Time is an
argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from gateway.ledger.records import Attempt

MAX_TASKS = 10_000
KEPT_S = 600.0  # providers keep the beginnings of prompts for minutes


@dataclass(slots=True)
class _Task:
    """`tokens`: of its answers, by target and shape."""

    target: str
    until: float
    tokens: dict[tuple[str, str], int] = field(default_factory=dict)


class LastTargets:
    """By caller and task id; the task that was quiet for longest goes first."""

    def __init__(self, max_tasks: int = MAX_TASKS, kept_s: float = KEPT_S) -> None:
        self._max_tasks, self._kept_s = max_tasks, kept_s
        self._tasks: OrderedDict[tuple[str, str], _Task] = OrderedDict()

    def find(self, caller: str, task_id: str, now: float) -> str | None:
        task = self._tasks.get((caller, task_id))
        return task.target if task is not None and now < task.until else None

    def note(self, caller: str, task_id: str, target: str, now: float) -> None:
        key, until = (caller, task_id), now + self._kept_s
        task = self._tasks.get(key)
        if task is None:
            self._tasks[key] = _Task(target, until)
            if len(self._tasks) > self._max_tasks:
                self._tasks.popitem(last=False)
        else:
            task.target, task.until = target, until
            self._tasks.move_to_end(key)

    def add(self, caller: str, task_id: str, shape: str, attempts: Iterable[Attempt]) -> None:
        """The part that attempts had in a task that was noted."""
        tokens = self._tasks[caller, task_id].tokens
        for attempt in attempts:
            if attempt.usage is not None and attempt.usage.output_tokens:
                key = attempt.target, shape
                tokens[key] = tokens.get(key, 0) + attempt.usage.output_tokens

    def take_shares(self, caller: str, task_id: str) -> dict[tuple[str, str], float]:
        """Of the answers' tokens since the last time, by target and shape; empty where nothing is known."""
        task = self._tasks.get((caller, task_id))
        if task is None:
            return {}
        tokens, task.tokens = task.tokens, {}
        total = sum(tokens.values())
        return {key: count / total for key, count in tokens.items()}
