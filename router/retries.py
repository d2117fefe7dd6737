"""`RetryBudget`: how many further tries may be made, so that trouble is not answered with more load; `HedgeBudget`.

A leaky bucket after finagle's: every call puts in `budget` of a try, every further try takes one out, what is not
used within 10 s expires, and a small reserve keeps rare traffic able to retry. There is one for each target, of which
only repeats take, since another target's try adds no load to the one in trouble; and one over all calls, of which each
further try takes, so that an outage of many never multiplies the load of the others. Time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field

WINDOW_S = 10.0
RESERVE_PER_S = 1.0  # of a target
RESERVE_OF_ALL_PER_S = 10.0
MOST_SAVED = 10.0


@dataclass(slots=True)
class RetryBudget:
    """Balance, going back to the reserve with a time constant of `WINDOW_S`."""

    reserve_per_s: float = RESERVE_PER_S
    balance: float = field(init=False)
    at_s: float = 0.0

    def __post_init__(self) -> None:
        self.balance = self.reserve_per_s * WINDOW_S

    def deposit(self, budget: float, now: float) -> None:
        self._settle(now)
        self.balance += budget

    def withdraw(self, now: float) -> bool:
        """Takes one try out; False when there is none."""
        self._settle(now)
        if self.balance < 1.0:
            return False
        self.balance -= 1.0
        return True

    def _settle(self, now: float) -> None:
        """Exponential expiry, first-order: towards the reserve from both sides."""
        share = min(1.0, max(0.0, now - self.at_s) / WINDOW_S)
        self.balance += share * (self.reserve_per_s * WINDOW_S - self.balance)
        self.at_s = now


@dataclass(slots=True)
class HedgeBudget:
    """Second tries beside running ones: a share of the calls, `MOST_SAVED` saved up, so that rare traffic has one."""

    balance: float = 0.0

    def deposit(self, budget: float) -> None:
        self.balance = min(self.balance + budget, MOST_SAVED)

    def withdraw(self) -> bool:
        """Takes one hedge out; False when there is none."""
        if self.balance < 1.0 - 1e-9:  # ten tenths
            return False
        self.balance -= 1.0
        return True
