"""`Room`: how many of our calls at a time a target takes, learnt where it refuses one more.

A refusal beside as many calls as it ever took shows its limit: from then on it is full with so many, which saves the
refusals to come and the pauses that they ask for. After a while one more is tried, then ever more; a limit that shows
again is trusted for twice as long. A refusal beside fewer calls says nothing of the kind: others fill it, or it counts
calls by the minute.
In: loads (calls beside the one told of), refusals, the time. Out: how many may be there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FIRST_TRUST_S, LONGEST_TRUST_S = 60.0, 600.0
MOST_LIFTS = 30
SAME = 1.25  # a limit within a quarter of the old one is the old one


@dataclass(slots=True)
class Room:
    """Of one target. `limit`: calls at a time; infinite until it is known."""

    limit: float = math.inf
    taken: int = 0  # calls at a time that it is known to have taken, since it refused last
    trust_s: float = FIRST_TRUST_S
    refused_s: float = -math.inf

    def refuse(self, load: int, begun_s: float, now: float) -> None:
        """A call beside `load` others was refused; one that had begun before the last refusal came tells no more."""
        if begun_s < self.refused_s or load == 0:
            return
        if load < self.taken:
            self.limit = math.inf
        else:
            is_known = self.limit <= load <= self.limit * SAME
            self.trust_s = min(2 * self.trust_s, LONGEST_TRUST_S) if is_known else FIRST_TRUST_S
            self.limit = load
        self.taken, self.refused_s = load, now

    def is_full(self, in_flight: int, now: float) -> bool:
        if in_flight < self.limit:
            return False
        lifts = min(int((now - self.refused_s) / self.trust_s), MOST_LIFTS)
        return in_flight >= self.limit + (1 << lifts) - 1
