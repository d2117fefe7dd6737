"""How long to wait before a part that died is started again: pure functions of counts and durations.

In: how often in a row it failed, how long it ran. Out: seconds. Knows no clock and no processes.
"""

from __future__ import annotations

FIRST_S = 0.5  # a single crash should be hardly noticed
LONGEST_S = 15.0  # and what keeps crashing must not eat a core, yet come back soon once it is mended
STEADY_S = 30.0  # a part that ran this long is taken for healthy: its next failure counts as the first


def failures_in_a_row(before: int, ran_s: float) -> int:
    """The count after one more failure of a part that had failed `before` times and now ran `ran_s`."""
    return 1 if ran_s >= STEADY_S else before + 1


def delay_s(failures: int) -> float:
    """0.5, 1, 2, 4, 8, then 15 seconds for the first, second, … failure in a row."""
    if failures < 1:
        raise ValueError(f"a delay follows a failure; {failures} failures have none")
    doublings = min(failures - 1, 16)  # far past LONGEST_S, so the power stays small
    return float(min(LONGEST_S, FIRST_S * 2**doublings))
