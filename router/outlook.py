"""`Outlook`: what is known of a target for a task shape, read out so that many decisions can share it.

A shape's own estimate falls back on the target's other shapes, and that on a cold prior, each worth one sample.
In: what the target's outcomes taught, the time. Out: figures as of then, before load is reckoned in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from router.breaker import Breaker
from router.learnt import Learnt
from router.waits import Waits

ENOUGH_SAMPLES = 3.0
PRIOR_SUCCESSES, PRIOR_CALLS = 9.0, 10.0  # what is believed of a target before it is known
RATE_EVIDENCE = 20.0  # a rate of timeouts or truncations over fewer calls than this is chance
P95_EVIDENCE = 200.0  # of so many calls ten are beyond the p95: as good as a guess
UNHEARD_S = 600.0  # a target may be e times as fast after so long; the logarithm grows with the root of time
FARTHEST_HOPE = 5.0
FRESH_S = 0.05
FRESH_SHARE = 0.01  # of the evidence: so much more makes a figure old before its time


@dataclass(slots=True)
class Outlook:
    """Seconds, dollars and shares. `…_weight` is the decayed number of samples behind a figure."""

    learnt: Learnt
    until_s: float  # read it anew from then on, or
    until_samples: int  # once more than these are there

    ttft_s: float  # like all waits here of an idle target
    ttft_slope: float  # of the wait's logarithm for each call in flight
    ttft_weight: float
    ttft_p95_s: float | None  # None = too few samples to tell
    tpot_s: float
    tpot_own_s: float  # of the shape's own samples, without any prior
    tpot_slope: float
    tpot_weight: float
    completion_s: float | None  # of calls that were not streamed, where nothing else is known; else None
    completion_slope: float
    completion_weight: float
    usual_p95_s: float | None  # of completions, with the target as fast as `usual_…`
    p95_share: float  # of trust in it, the rest being in a guess
    usual_ttft_s: float
    usual_tpot_s: float
    hope: float  # of a wait, the share that would be left were the target as well as it may be; 0 = it is not known
    output_tokens_sum: float
    output_weight: float
    cost_usd: float | None
    success_share: float
    recent_calls: float  # of whatever shape; those that hang are taken for timeouts
    recent_timeouts: float
    mean_s: float  # of calls of whatever shape; 0 = none has ended
    timeout_rate: float | None  # None = too few calls to tell
    truncation_rate: float | None
    task_share: float  # of tasks that it had a part in, those that were completed


def read_out(
    shape: str, own: Learnt, of_all: Iterable[Learnt], waits: Waits, breaker: Breaker, now: float
) -> Outlook:
    """`own` is of the shape, `of_all` of all the target's shapes."""
    mine, one = own.sums, own.weight_of(now)
    first, token, whole, (slower, hung) = waits.first, waits.token, waits.whole, waits.overdue(now)
    recent_calls, recent_timeouts = breaker.recent(now)
    calls = (mine.succeeded + mine.failed) / one
    is_rated = calls >= RATE_EVIDENCE
    at_rest = -first.slope * first.load, -token.slope * token.load, -whole.slope * whole.load
    own_ttft, own_whole, own_tpot = first.level(shape), whole.level(shape), token.level(shape)
    is_streamed = first.pooled.weight > 0.0 or not whole.pooled.weight
    weight = own_ttft.weight if is_streamed else own_whole.weight
    ttft_p95_s = own.ttft.quantile(0.95) if own_ttft.weight >= ENOUGH_SAMPLES else None
    return Outlook(
        learnt=own,
        until_s=now + FRESH_S,
        until_samples=own.num_samples + int(FRESH_SHARE * calls),
        ttft_s=math.exp(first.idle(shape) + at_rest[0] + slower),
        ttft_slope=first.slope,
        ttft_weight=own_ttft.weight,
        ttft_p95_s=None if ttft_p95_s is None else ttft_p95_s * math.exp(first.now + at_rest[0] + slower),
        tpot_s=math.exp(token.idle(shape) + at_rest[1] + slower),
        tpot_own_s=math.exp(own_tpot.log_s + token.now + at_rest[1] + slower),
        tpot_slope=token.slope,
        tpot_weight=own_tpot.weight,
        completion_s=None if is_streamed else math.exp(whole.idle(shape) + at_rest[2]),
        completion_slope=whole.slope,
        completion_weight=mine.completion_ended / one,
        usual_p95_s=own.completion.quantile(0.95) if weight >= ENOUGH_SAMPLES else None,
        p95_share=weight / (weight + P95_EVIDENCE),
        usual_ttft_s=math.exp(first.usually(shape)),
        usual_tpot_s=math.exp(token.usually(shape)),
        hope=_hope(waits, slower, now) if weight >= ENOUGH_SAMPLES else 0.0,
        output_tokens_sum=mine.output_tokens / one,
        output_weight=mine.outputs / one,
        cost_usd=_cost_usd((own,) if mine.costed >= one else of_all, now),
        success_share=(mine.succeeded / one + PRIOR_SUCCESSES) / (calls + PRIOR_CALLS),  # a Beta's mean
        recent_calls=recent_calls + hung,
        recent_timeouts=recent_timeouts + hung,
        mean_s=waits.mean_s,
        timeout_rate=mine.timed_out / one / calls if is_rated else None,
        truncation_rate=mine.truncated / one / calls if is_rated else None,
        task_share=1.0 - own.tasks.failed / (own.tasks.completed + own.tasks.failed + PRIOR_SUCCESSES),
    )


def _hope(waits: Waits, slower: float, now: float) -> float:
    """A slow target may be well again; one not heard of may have become better."""
    better = min(pace.usual - pace.now for pace in (waits.first, waits.token, waits.whole)) - slower
    unheard = max(0.0, now - waits.heard_s) / UNHEARD_S
    return math.exp(min(0.0, better) - min(math.sqrt(unheard), FARTHEST_HOPE))


def _cost_usd(some: Iterable[Learnt], now: float) -> float | None:
    """Mean cost of such calls as booked; None before there is one call's worth."""
    cost_usd = costed = 0.0
    for each in some:
        one = each.weight_of(now)
        cost_usd, costed = cost_usd + each.sums.cost_usd / one, costed + each.sums.costed / one
    return cost_usd / costed if costed >= 1.0 else None
