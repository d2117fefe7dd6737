"""The waiting sequences, in the order in which they may begin: callers take turns, each one's own in order.

Sequences that were preempted come before all others, longest admitted first. Knows no blocks and no time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from engine.sequence import Sequence


class WaitingQueue:
    """Iterate to see who comes next; `take` whoever was admitted, in that order."""

    def __init__(self) -> None:
        self._interrupted: deque[Sequence] = deque()
        self._by_caller: OrderedDict[str, deque[Sequence]] = OrderedDict()  # whose turn is first comes first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._interrupted
        turns = deque(iter(queue) for queue in self._by_caller.values())
        while turns:
            queue = turns.popleft()
            sequence = next(queue, None)
            if sequence is not None:
                yield sequence
                turns.append(queue)

    def add(self, sequence: Sequence) -> None:
        """A new one waits behind its caller's earlier ones."""
        self._by_caller.setdefault(sequence.caller, deque()).append(sequence)
        self._count += 1

    def put_back(self, sequence: Sequence) -> None:
        """A preempted one; of several the youngest is put back first."""
        self._interrupted.appendleft(sequence)
        self._count += 1

    def take(self, sequence: Sequence) -> None:
        """Remove the next one; the turn passes to the next caller."""
        assert next(iter(self), None) is sequence, "sequences begin in the queue's order"
        self._count -= 1
        if self._interrupted:
            self._interrupted.popleft()
            return
        queue = self._by_caller.pop(sequence.caller)
        queue.popleft()
        if queue:
            self._by_caller[sequence.caller] = queue

    def remove(self, sequence: Sequence) -> None:
        """Remove one from anywhere. ValueError if it does not wait."""
        if sequence in self._interrupted:
            self._interrupted.remove(sequence)
        else:
            queue = self._by_caller.get(sequence.caller, deque())
            queue.remove(sequence)
            if not queue:
                del self._by_caller[sequence.caller]
        self._count -= 1
