"""What calls came to under the policy they had, and what they would have come to under another, with intervals. Pure.

A call that stays where it went keeps its own outcome. One that moves takes the outcome of the recorded call nearest in
time among those of the same shape that went to its new target and are of like length (nearest-neighbour matching); with
none recorded, its outcome is unknown: it is counted, never guessed, and left out of both sides of the comparison.

95 % intervals without resampling: Wilson's for shares; for a quantile the order statistics at Wilson's bounds of q
(Woodruff 1952); for means and ratios the linearised error. An outcome that stands for many calls counts once: n is
Kish's effective sample size, (Σ w)² ÷ Σ w², w being how many calls an outcome stands for.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from router.policy import Timeouts

Z = 1.96
NOBODY = "(none)"  # no target could serve the call
FAR_S = 3600.0
UNLIKE_CLASSES = 2  # a length class is a factor of 2
_DEADLINES = {"first_token": "first_token_s", "idle": "idle_s", "total": "total_s"}


@dataclass(frozen=True, slots=True)
class Sample:
    """How a recorded call ended, as its caller saw it. `target` is the one tried first."""

    target: str
    shape: str
    stream: bool
    at_s: float
    input_tokens: int
    ttft_s: float | None
    total_s: float
    is_over: bool  # it succeeded, or ran into a deadline: its time says how long such a call takes
    is_failure: bool
    timed_out: str | None  # which deadline
    cost_usd: float | None
    is_completed: bool | None = None  # its task; None = it has none
    timeouts: Timeouts | None = None  # that it ran under


@dataclass(frozen=True, slots=True)
class Played:
    """A recorded call and where another policy would have sent it; None = nobody could have served it."""

    own: Sample
    target: str | None
    timeouts: Timeouts
    task: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval; a bound is None where so few samples set none. `n`: effective sample size."""

    value: float
    low: float | None
    high: float | None
    n: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Of the same calls on either side. Times of calls that succeeded or ran into a deadline."""

    ttft_p50_s: Estimate | None
    ttft_p95_s: Estimate | None
    completion_p50_s: Estimate | None
    completion_p95_s: Estimate | None
    timeout_rate: Estimate | None
    failure_rate: Estimate | None
    cost_usd: Estimate | None  # mean of a call
    cost_per_completed_task_usd: Estimate | None


@dataclass(frozen=True, slots=True)
class ShapeReport:
    """One shape, or all. `moves`: (from, to, calls), stays included, most first."""

    shape: str
    calls: int
    moved: int
    unknown: int
    moves: list[tuple[str, str, int]]
    old: Figures
    new: Figures


@dataclass(slots=True)
class Notes:
    """What the figures rest on less firmly, in calls that moved or met another deadline."""

    far: int = 0  # took the outcome of a call more than FAR_S away
    unlike: int = 0  # took the outcome of a call much longer or shorter
    cut_by_new: int = 0  # would have run into a deadline that is shorter now
    freed_by_new: int = 0  # ran into a deadline that is longer now


@dataclass(slots=True)
class _Pool:
    """Samples of one shape, target and way to answer, in order of time, by length class."""

    by_class: dict[int, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def nearest(self, to: Sample) -> tuple[Sample, int]:
        """The sample nearest in time among those of the nearest length; and how many classes away that is."""
        wanted = _length_class(to)
        distance = min(abs(each - wanted) for each in self.by_class)
        of_like_length = [self.by_class.get(wanted - distance), self.by_class.get(wanted + distance)]
        found = [_nearest(samples, to.at_s) for samples in of_like_length if samples]
        return min(found, key=lambda sample: abs(sample.at_s - to.at_s)), distance


def reports(
    played: Sequence[Played], shadows: Iterable[Sample] = ()
) -> tuple[list[ShapeReport], ShapeReport, Notes]:
    """By shape, busiest first; over all; and what to bear in mind. `shadows` are outcomes beside those of the calls."""
    pools: dict[tuple[str, str, bool], _Pool] = defaultdict(_Pool)
    samples = [*(each.own for each in played), *shadows]
    for sample in sorted(samples, key=lambda sample: sample.at_s):
        if sample.target != NOBODY:
            pools[sample.shape, sample.target, sample.stream].by_class[_length_class(sample)].append(sample)
    notes = Notes()
    stands_in = [_stand_in(each, pools, notes) for each in played]
    by_shape: dict[str, list[int]] = defaultdict(list)
    for index, each in enumerate(played):
        by_shape[each.own.shape].append(index)
    busiest = sorted(by_shape.items(), key=lambda item: -len(item[1]))
    every = range(len(played))
    return (
        [_report(shape, members, played, stands_in) for shape, members in busiest],
        _report("all", every, played, stands_in),
        notes,
    )


def _stand_in(each: Played, pools: dict[tuple[str, str, bool], _Pool], notes: Notes) -> Sample | None:
    """The recorded outcome that is taken for this call's under the new policy; None = unknown."""
    own = each.own
    if each.target is None:
        return own if own.target == NOBODY else None
    if each.target == own.target:
        found = own
    else:
        pool = pools.get((own.shape, each.target, own.stream))
        if pool is None:
            return None
        found, classes = pool.nearest(own)
        notes.far += abs(found.at_s - own.at_s) > FAR_S
        notes.unlike += classes >= UNLIKE_CLASSES
    if found.timed_out is not None and found.timeouts is not None:
        deadline = _DEADLINES[found.timed_out]
        notes.freed_by_new += getattr(each.timeouts, deadline) > getattr(found.timeouts, deadline)
    notes.cut_by_new += _is_cut(found, each.timeouts)
    return found


def _is_cut(sample: Sample, timeouts: Timeouts) -> bool:
    """Whether these deadlines would have ended what its own did not."""
    if sample.timed_out is not None or not sample.is_over:
        return False
    waited_s = sample.ttft_s if sample.stream else None
    return sample.total_s > timeouts.total_s or (waited_s is not None and waited_s > timeouts.first_token_s)


def _report(
    shape: str, members: Sequence[int], played: Sequence[Played], stands_in: Sequence[Sample | None]
) -> ShapeReport:
    moves: Counter[tuple[str, str]] = Counter()
    pairs: list[tuple[Played, Sample]] = []
    for index in members:
        each, found = played[index], stands_in[index]
        moves[each.own.target, each.target or NOBODY] += 1
        if found is not None:
            pairs.append((each, found))
    return ShapeReport(
        shape=shape,
        calls=len(members),
        moved=sum(calls for (old, new), calls in moves.items() if old != new),
        unknown=len(members) - len(pairs),
        moves=[(old, new, calls) for (old, new), calls in moves.most_common()],
        old=_figures([(each, each.own) for each, _ in pairs], is_new=False),
        new=_figures(pairs, is_new=True),
    )


def _figures(pairs: list[tuple[Played, Sample]], *, is_new: bool) -> Figures:
    """`pairs`: calls and the outcomes taken for theirs."""
    n = effective(sample for _, sample in pairs)
    is_cut = [is_new and _is_cut(sample, each.timeouts) for each, sample in pairs]
    ttft_s = sorted(it.ttft_s for _, it in pairs if it.stream and it.ttft_s is not None)
    total_s = sorted(
        min(it.total_s, each.timeouts.total_s) if cut else it.total_s
        for (each, it), cut in zip(pairs, is_cut, strict=True)
        if it.is_over
    )
    timeouts = sum(it.timed_out is not None or cut for (_, it), cut in zip(pairs, is_cut, strict=True))
    failures = sum(it.is_failure or cut for (_, it), cut in zip(pairs, is_cut, strict=True))
    share = n / len(pairs) if pairs else 0.0
    return Figures(
        ttft_p50_s=quantile(ttft_s, 0.5, share * len(ttft_s)),
        ttft_p95_s=quantile(ttft_s, 0.95, share * len(ttft_s)),
        completion_p50_s=quantile(total_s, 0.5, share * len(total_s)),
        completion_p95_s=quantile(total_s, 0.95, share * len(total_s)),
        timeout_rate=rate(timeouts, len(pairs), n),
        failure_rate=rate(failures, len(pairs), n),
        cost_usd=mean([it.cost_usd for _, it in pairs if it.cost_usd is not None], share),
        cost_per_completed_task_usd=_cost_per_completed(pairs),
    )


def _cost_per_completed(pairs: list[tuple[Played, Sample]]) -> Estimate | None:
    """Cost of all calls of all tasks ÷ tasks completed; None while none was.

    Each call of a task carries an equal part of its completion; one that takes another's outcome takes over whether
    that one's task was completed.
    """
    in_tasks = [
        (each, found) for each, found in pairs if each.task is not None and found.cost_usd is not None
    ]
    calls_of = Counter(each.task for each, _ in in_tasks)
    cost: dict[object, float] = defaultdict(float)
    completed: dict[object, float] = defaultdict(float)
    for each, found in in_tasks:
        is_completed = each.own.is_completed if found.is_completed is None else found.is_completed
        cost[each.task] += found.cost_usd or 0.0
        completed[each.task] += bool(is_completed) / calls_of[each.task]
    total = math.fsum(completed.values())
    if not total:
        return None
    ratio = math.fsum(cost.values()) / total
    residuals = math.fsum((cost[task] - ratio * completed[task]) ** 2 for task in cost)
    reuse = len(in_tasks) / effective(found for _, found in in_tasks)
    n = len(cost) / reuse
    return _around(ratio, math.sqrt(residuals * reuse) / total, n)


def effective(samples: Iterable[Sample]) -> float:
    """Kish's effective number of samples, of which some may be there several times."""
    times = Counter(map(id, samples)).values()
    return sum(times) ** 2 / sum(w * w for w in times) if times else 0.0


def rate(hits: int, calls: int, n: float) -> Estimate | None:
    if not calls:
        return None
    low, high = wilson(hits / calls, n)
    return Estimate(hits / calls, low, high, n)


def quantile(ordered: Sequence[float], q: float, n: float) -> Estimate | None:
    """Nearest-rank, of sorted values. A bound that lies beyond all samples, as far as n of them can tell, is None."""
    if not ordered:
        return None
    low, high = wilson(q, n)
    return Estimate(
        _at(ordered, q),
        None if (1 - q) ** n > 0.025 else _at(ordered, low),
        None if q**n > 0.025 else _at(ordered, high),
        n,
    )


def mean(values: list[float], share: float) -> Estimate | None:
    """`share`: effective samples a value."""
    if not values:
        return None
    n, middle = share * len(values), math.fsum(values) / len(values)
    if n <= 1.0:
        return Estimate(middle, None, None, n)
    variance = math.fsum((value - middle) ** 2 for value in values) / len(values)
    return _around(middle, math.sqrt(variance / (n - 1)), n)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Bounds of a probability, of which `share` was seen in n trials (Wilson 1927)."""
    if n <= 0:
        return 0.0, 1.0
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    reach = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def _around(value: float, error: float, n: float) -> Estimate:
    """With Student's t in its first expansion about the normal."""
    if n <= 1.0:
        return Estimate(value, None, None, n)
    reach = (Z + (Z**3 + Z) / (4 * (n - 1))) * error
    return Estimate(value, max(0.0, value - reach), value + reach, n)


def _at(ordered: Sequence[float], q: float) -> float:
    return ordered[min(max(math.ceil(q * len(ordered) - 1e-9) - 1, 0), len(ordered) - 1)]


def _length_class(sample: Sample) -> int:
    return sample.input_tokens.bit_length()


def _nearest(ordered: list[Sample], at_s: float) -> Sample:
    after = bisect_left(ordered, at_s, key=lambda sample: sample.at_s)
    around = ordered[max(0, after - 1) : after + 1]
    return min(around, key=lambda sample: abs(sample.at_s - at_s))
