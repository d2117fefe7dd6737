"""`ResponseHomes`: which target gave which response, so that a later one can go on from it there.

In: ids of responses as targets give them. Out: the target to ask. One worker's memory of its newest responses: of any
other it knows the target only where there is but one that could have given it.
"""

from __future__ import annotations

from collections import OrderedDict

MAX_RESPONSES = 50_000  # about 10 MB


class ResponseHomes:
    def __init__(self, stateful: tuple[str, ...], max_responses: int = MAX_RESPONSES) -> None:
        """`stateful`: the targets that keep responses."""
        self._only = stateful[0] if len(stateful) == 1 else None
        self._max_responses = max_responses
        self._targets: OrderedDict[str, str] = OrderedDict()

    def keep(self, response_id: str, target: str) -> None:
        self._targets[response_id] = target
        self._targets.move_to_end(response_id)
        if len(self._targets) > self._max_responses:
            self._targets.popitem(last=False)

    def of(self, response_id: str) -> str | None:
        """None = unknown."""
        return self._targets.get(response_id, self._only)


NO_HOMES = ResponseHomes((), max_responses=0)
