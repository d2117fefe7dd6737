"""`RetryBudget`: how many repeat tries a target may get, so that trouble is not answered with more load; `HedgeBudget`.

A leaky bucket after finagle's: every call puts in `budget` of a try, every repeat takes one out, what is not
used within 10 s expires, and a small reserve keeps rare traffic able to retry. Trying *another* target is not a
repeat: it adds no load to the one in trouble. Time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

WINDOW_S = 10.0
RESERVE_PER_S = 1.0
MOST_SAVED = 10.0


@dataclass(slots=True)
class RetryBudget:
    """Balance of one target, decaying with a time constant of `WINDOW_S`."""

    balance: float = RESERVE_PER_S * WINDOW_S
    at_s: float = 0.0

    def deposit(self, budget: float, now: float) -> None:
        self._settle(now)
        self.balance += budget

    def withdraw(self, now: float) -> bool:
        """Takes one repeat out; False when there is none."""
        self._settle(now)
        if self.balance < 1.0:
            return False
        self.balance -= 1.0
        return True

    def _settle(self, now: float) -> None:
        """Exponential expiry, first-order: towards the reserve from both sides."""
        share = min(1.0, max(0.0, now - self.at_s) / WINDOW_S)
        self.balance += share * (RESERVE_PER_S * WINDOW_S - self.balance)
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
