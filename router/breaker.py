"""`Breaker`: whether a target is given traffic, in words of effect: admitting, shedding or probing.

Opens on consecutive failures, on a failure share over the last seconds, or on the upstream's own Retry-After; sheds
for a pause that doubles each time it fails again, then lets single probes through; one success re-admits.
Time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["admitting", "shedding", "probing"]
FAILURES_TO_SHED = 3  # one is chance, two happen in a blip; a third in a row is a pattern
SHARE_TO_SHED = 0.5  # of the calls of about the last HALF_LIFE_S, if there were CALLS_TO_RATE
CALLS_TO_RATE = 10.0
HALF_LIFE_S = 10.0
FIRST_PAUSE_S = 2.0  # a restarted engine is back in about this time
LONGEST_PAUSE_S = 20.0  # so that a recovered target has its share back within half a minute
LONGEST_ASKED_S = 60.0  # an upstream that asks for more is asked again all the same


@dataclass(slots=True)
class Breaker:
    """Mutable health of one target; times are the caller's monotonic seconds."""

    consecutive_failures: int = 0
    pause_s: float = 0.0
    until_s: float = 0.0  # end of the pause; 0 = never shed since the last success
    asked_until_s: float = 0.0  # so long the upstream has asked for patience
    _calls: float = 0.0  # decayed
    _failed: float = 0.0
    _timed_out: float = 0.0
    _at_s: float = 0.0

    def state(self, now: float) -> State:
        if self.until_s == 0.0:
            return "admitting"
        return "shedding" if now < self.until_s else "probing"

    def succeed(self, now: float) -> None:
        """Ends a pause, unless the upstream asked for it: then the call is one of those that it had already taken."""
        if self.until_s and now >= self.asked_until_s:  # what went before has ended
            self._calls = self._failed = self._timed_out = 0.0
            self.pause_s = self.until_s = 0.0
        self.consecutive_failures = 0
        self._count(0.0, now)

    def fail(self, now: float, retry_after_s: float | None = None, has_timed_out: bool = False) -> None:
        self.consecutive_failures += 1
        self._count(1.0, now)
        self._timed_out += has_timed_out
        if retry_after_s is not None:
            self._shed(now, min(retry_after_s, LONGEST_ASKED_S))
            self.asked_until_s = self.until_s
        elif (state := self.state(now)) == "probing" or (state == "admitting" and self._is_failing()):
            self._shed(now, min(max(2 * self.pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S))

    def hear(self, failures_in_a_row: int) -> None:
        """What others met with takes it to the brink and no further, as trouble of another host's network must not
        shed a target here: its own next failure sheds, its own next success forgets."""
        told = min(failures_in_a_row, FAILURES_TO_SHED - 1)
        self.consecutive_failures = max(self.consecutive_failures, told)

    def recent(self, now: float) -> tuple[float, float]:
        """How many calls have ended of late, and how many of them timed out."""
        kept = 0.5 ** (max(0.0, now - self._at_s) / HALF_LIFE_S)
        return self._calls * kept, self._timed_out * kept

    def _is_failing(self) -> bool:
        if self.consecutive_failures >= FAILURES_TO_SHED:
            return True
        return self._calls >= CALLS_TO_RATE and self._failed >= SHARE_TO_SHED * self._calls

    def _count(self, failed: float, now: float) -> None:
        since_s = now - self._at_s
        kept = 1.0
        if since_s > 0.0:
            kept, self._at_s = 0.5 ** (since_s / HALF_LIFE_S), now
        self._calls, self._failed = self._calls * kept + 1.0, self._failed * kept + failed
        self._timed_out *= kept

    def _shed(self, now: float, pause_s: float) -> None:
        self.pause_s = pause_s
        self.until_s = max(self.until_s, now + pause_s)
