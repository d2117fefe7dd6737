"""What a soak run has shown, and whether it is well: nothing grows, nothing is lost, nothing gets slower. Pure.

In: `Run`, what was seen of it. Out: a `Check` for each criterion, with its figure and what it may be at most. Times
are in seconds since the load began.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

WARM_UP = 0.2  # of a process's time under load, and of the run's
MOST_GROWTH = 0.05  # of its memory, from warm-up to the end
MOST_DESCRIPTORS = 5  # more than before the load, once it is over: a few files and connections come and go
MOST_SLOWER, MOST_SLOWER_S = 1.25, 0.0005  # last third against first; what is shorter is noise
POINTS = 150  # of a series that its slope is taken from
AROUND_S = 10.0  # a restart, in which latencies tell nothing
FEW_POINTS = 10


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    rss_mb: float
    descriptors: int


@dataclass(frozen=True, slots=True)
class Slice:
    """Ten seconds of calls as the ledger has them; None: no call of that kind was in it."""

    at_s: float
    calls: int
    overhead_p99_s: float | None
    ttft_p99_s: float | None


@dataclass(slots=True)
class Run:
    """`processes`: samples by name, a name for each process that lived to the end. `at_rest`: what it had open before
    the load (of one started later: what its like had), and after it. `rows`: of the calls that were `answered`,
    how many are in the ledger; `doubled`, how many of its rows are there again."""

    seconds: float
    rate: float
    processes: dict[str, list[Sample]] = field(default_factory=dict)
    at_rest: dict[str, tuple[int, int]] = field(default_factory=dict)
    slices: list[Slice] = field(default_factory=list)
    restarts: list[tuple[float, str]] = field(default_factory=list)
    answered: int = 0
    rows: int = 0
    doubled: int = 0
    outcomes: int = 0
    outcome_rows: int = 0
    reloads: int = 0
    policies: int = 0
    quarantined: int = 0
    broken: int = 0  # calls that a restart cut off
    may_break: int = 0
    unexpected: dict[str, int] = field(default_factory=dict)
    seen: dict[str, int] = field(default_factory=dict)  # what clients met, by kind


@dataclass(frozen=True, slots=True)
class Check:
    name: str
    found: str
    limit: str
    is_well: bool


def checks(run: Run) -> list[Check]:
    found = [_growth(name, samples) for name, samples in run.processes.items()]
    found += [_descriptors(name, *counts) for name, counts in run.at_rest.items()]
    found += [
        _latency("overhead p99", run, [(each.at_s, each.overhead_p99_s) for each in run.slices]),
        _latency("first token p99", run, [(each.at_s, each.ttft_p99_s) for each in run.slices]),
        _equal("answered calls in the ledger", run.rows, run.answered, at_least=1),
        _equal("rows that are there twice", run.doubled, 0),
        _equal("outcomes in the ledger", run.outcome_rows, run.outcomes, at_least=1),
        _equal("policy versions", run.policies, run.reloads, at_least=1),
        _equal("lines in quarantine", run.quarantined, 0),
        _at_most("calls cut off by restarts", run.broken, run.may_break),
        _equal("unexpected answers", sum(run.unexpected.values()), 0),
    ]
    return found


def slope_per_s(points: Sequence[tuple[float, float]]) -> float:
    """Theil and Sen's: the median of the slopes between all pairs, which a third of wild points does not move."""
    step = max(1, len(points) // POINTS)
    slopes = [(b - a) / (then - now) for (now, a), (then, b) in combinations(points[::step], 2) if then > now]
    return statistics.median(slopes) if slopes else 0.0


def _warm(samples: Sequence[Sample]) -> Sequence[Sample]:
    """Those after the warm-up."""
    if not samples:
        return samples
    first, last = samples[0].at_s, samples[-1].at_s
    return [each for each in samples if each.at_s >= first + WARM_UP * (last - first)]


def _growth(name: str, samples: Sequence[Sample]) -> Check:
    """Of the last two thirds of what follows the warm-up, reckoned for all of it."""
    warm = _warm(samples)
    late = warm[len(warm) // 3 :]
    if len(late) < FEW_POINTS:
        return Check(f"memory of {name}", f"{len(late)} samples", f"{FEW_POINTS} or more", False)
    level = statistics.median(each.rss_mb for each in late)
    span_s = warm[-1].at_s - warm[0].at_s
    growth = slope_per_s([(each.at_s, each.rss_mb) for each in late]) * span_s / level
    words = f"{growth:+.1%} of {level:.0f} MB"
    return Check(f"memory of {name}", words, f"{MOST_GROWTH:+.0%}", growth <= MOST_GROWTH)


def _descriptors(name: str, before: int, after: int) -> Check:
    words = f"{before} → {after} at rest"
    return Check(
        f"descriptors of {name}", words, f"{MOST_DESCRIPTORS:+d}", after - before <= MOST_DESCRIPTORS
    )


def _latency(name: str, run: Run, points: Sequence[tuple[float, float | None]]) -> Check:
    """The median of the slices of the last third against the first, restarts left out."""
    begin_s = WARM_UP * run.seconds
    calm = [
        (at_s, value)
        for at_s, value in points
        if value is not None
        and at_s >= begin_s
        and not any(-AROUND_S <= at_s - moment_s <= AROUND_S for moment_s, _ in run.restarts)
    ]
    third_s = (run.seconds - begin_s) / 3
    first = [value for at_s, value in calm if at_s < begin_s + third_s]
    last = [value for at_s, value in calm if at_s >= run.seconds - third_s]
    if not first or not last:
        return Check(name, "too few calls", "some in the first and last third", False)
    then_s, now_s = statistics.median(first), statistics.median(last)
    is_well = now_s <= then_s * MOST_SLOWER or now_s - then_s <= MOST_SLOWER_S
    return Check(name, f"{then_s * 1e3:.2f} → {now_s * 1e3:.2f} ms", f"x {MOST_SLOWER}", is_well)


def _equal(name: str, found: int, wanted: int, at_least: int = 0) -> Check:
    return Check(name, f"{found:,}", f"= {wanted:,}", found == wanted >= at_least)


def _at_most(name: str, found: int, limit: int) -> Check:
    return Check(name, f"{found:,}", f"≤ {limit:,}", found <= limit)
