"""One of three workers is cut off from the pool for half a minute: all together grant what one would."""

from __future__ import annotations

import pytest

from gateway.callers.pools import Pool, Workers
from gateway.callers.share import Share

A_MINUTE = 600
NAMES = ("a", "b", "c")
CUT, HEALED = 5.0, 35.0
NOTICED_S = 3.0  # until the others know that one is cut off, or back
STEP_S, TOLD_EVERY_S = 0.01, 0.1


def cut_off(name: str, now: float) -> bool:
    return name == "c" and CUT <= now < HEALED


class Fleet:
    """Three workers and a pool on virtual time, by the calls of `QuotaWatch`."""

    def __init__(self) -> None:
        self.pool: Pool | None = None
        self.shares = {name: Share(A_MINUTE, len(NAMES), 0.0, lambda: None) for name in NAMES}
        self.granted = dict.fromkeys(NAMES, 0)

    def call(self, name: str, now: float) -> None:
        share = self.shares[name]
        share.refill(now)
        if share.has_room(1.0):
            share.give_back(-1.0)
            self.granted[name] += 1

    def tell(self, name: str, now: float) -> None:
        share = self.shares[name]
        share.refill(now)
        if self.pool is not None and not share.is_pooled:
            share.join(self.pool.level, self.pool.free(now), now)
        if not share.is_due(now):
            return
        is_absent = name != "c" and cut_off("c", now - NOTICED_S)
        workers = Workers(NAMES[:2], NAMES[2:]) if is_absent else Workers(NAMES)
        report = share.report(now)
        pool = self.pool or Pool.opened(A_MINUTE, name, workers, now)
        self.pool, amount = pool.shared(A_MINUTE, share.pool_per_s, name, report, workers, now)
        share.take(report, amount, self.pool.level, self.pool.free(now), now)

    def run(self, begins: float, ends: float) -> None:
        """Each is asked for 40 calls a second."""
        for step in range(int(begins / STEP_S), int(ends / STEP_S)):
            now = step * STEP_S
            if step % 200 == 199:
                for share in self.shares.values():
                    share.resize(A_MINUTE)  # keys are read again
            for number, name in enumerate(NAMES):
                if (40 * step + number) % 100 < 40:
                    self.call(name, now)
                if (step + 3 * number) % int(TOLD_EVERY_S / STEP_S) == 0 and not cut_off(name, now):
                    self.tell(name, now)


@pytest.mark.parametrize(
    "begins",
    [pytest.param(0.0, id="before"), pytest.param(5.05, id="at-once"), pytest.param(20.0, id="meanwhile")],
)
@pytest.mark.parametrize("ends", [34.0, 60.0, 120.0])
def test_all_together_grant_what_the_limit_allows(begins: float, ends: float) -> None:
    fleet = Fleet()
    fleet.run(begins, ends)
    allowed = A_MINUTE + A_MINUTE / 60.0 * (ends - begins)
    granted = sum(fleet.granted.values())
    assert 0.98 * allowed < granted < 1.01 * allowed
    assert fleet.granted["c"] > A_MINUTE / 3
