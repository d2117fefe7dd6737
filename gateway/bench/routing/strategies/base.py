"""What a routing strategy is to the simulator, and what the simple ones share.

In: calls as a gateway knows them, the time, what became of tries. Out: targets to try. A strategy knows no more than a
gateway would; the oracle alone is handed the true state of the world.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

from gateway.bench.routing.calls import Call
from gateway.bench.routing.scenarios import Place
from router.fleet import EngineState
from router.outcome import Outcome

MAX_RETRIES = 2  # as in our default policy and in LiteLLM's Router


@dataclass(slots=True)
class Choice:
    """A target to try after a pause, and who is tried beside it where it has no first token after `hedge_after_s`."""

    target: str
    after_s: float = 0.0
    is_explored: bool = False
    hedge_after_s: float | None = None
    hedge: Callable[[], str | None] | None = None


Failed = tuple[float, Outcome]  # when, and what
Route = Generator[Choice, Failed, None]


class Strategy(Protocol):
    """One way to route, for one run."""

    name: str

    def join(self, place: Place, now: float) -> None:
        """From now on there is this target. Its name and its prices may be looked at, nothing else."""

    def route(self, call: Call, now: float) -> Route:
        """Targets to try, one after the other; is sent what became of a try that failed before its first token."""

    def begin(self, call: Call, target: str, now: float) -> None:
        """A try of the call begins at the target."""

    def first_token(self, call: Call, target: str, ttft_s: float, now: float) -> None:
        """The first token of a try is here, so many seconds after the try began."""

    def observe(self, call: Call, outcome: Outcome, now: float) -> None:
        """A try has ended, one way or another."""

    def look(self, target: str, state: EngineState, now: float) -> None:
        """An engine has said how it is."""


class Peer:
    """Picks a target for each try, another one after a failure."""

    name: str

    def __init__(self) -> None:
        self.targets: list[str] = []
        self.in_flight: dict[str, int] = {}

    def join(self, place: Place, now: float) -> None:
        self.targets.append(place.name)
        self.in_flight[place.name] = 0

    def route(self, call: Call, now: float) -> Route:
        tried: set[str] = set()
        for _ in range(1 + MAX_RETRIES):
            left = [name for name in self.targets if name not in tried] or self.targets
            choice = self.pick(call, left, now)
            now, outcome = yield Choice(choice)
            if not outcome.is_retryable:
                return
            tried.add(choice)

    def pick(self, call: Call, among: list[str], now: float) -> str:
        raise NotImplementedError

    def begin(self, call: Call, target: str, now: float) -> None:
        self.in_flight[target] += 1

    def first_token(self, call: Call, target: str, ttft_s: float, now: float) -> None:
        """Those that learn of it from its outcome need do nothing."""

    def observe(self, call: Call, outcome: Outcome, now: float) -> None:
        self.in_flight[outcome.target] -= 1

    def look(self, target: str, state: EngineState, now: float) -> None:
        """Who counts its own calls does not ask."""


class Elsewhere(Peer):
    """Others, who send all they have to one target, and once."""

    name = "others"

    def __init__(self, target: str) -> None:
        super().__init__()
        self.in_flight[target] = 0
        self._target = target

    def route(self, call: Call, now: float) -> Route:
        yield Choice(self._target)
