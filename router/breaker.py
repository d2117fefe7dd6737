"""`Breaker`: whether a target is given traffic, in words of effect: admitting, shedding or probing.

Opens on consecutive failures or on the upstream's own Retry-After, sheds for a pause that doubles each time it
fails again, then lets single probes through; one success re-admits. Time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["admitting", "shedding", "probing"]
FAILURES_TO_SHED = 3  # one is chance, two happen in a blip; a third in a row is a pattern
FIRST_PAUSE_S = 2.0  # a restarted engine is back in about this time
LONGEST_PAUSE_S = 60.0  # so that a recovered target is noticed within a minute


@dataclass(slots=True)
class Breaker:
    """Mutable health of one target; times are the caller's monotonic seconds."""

    consecutive_failures: int = 0
    pause_s: float = 0.0
    until_s: float = 0.0  # end of the pause; 0 = never shed since the last success

    def state(self, now: float) -> State:
        if self.until_s == 0.0:
            return "admitting"
        return "shedding" if now < self.until_s else "probing"

    def succeed(self) -> None:
        self.consecutive_failures, self.pause_s, self.until_s = 0, 0.0, 0.0

    def fail(self, now: float, retry_after_s: float | None = None) -> None:
        self.consecutive_failures += 1
        if retry_after_s is not None:
            self._shed(now, min(retry_after_s, LONGEST_PAUSE_S))
        elif self.state(now) == "probing" or self.consecutive_failures == FAILURES_TO_SHED:
            self._shed(now, min(max(2 * self.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S))

    def _shed(self, now: float, pause_s: float) -> None:
        self.pause_s = pause_s
        self.until_s = max(self.until_s, now + pause_s)
