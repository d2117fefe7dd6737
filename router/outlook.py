"""`Outlook`: what is known of a target for a task shape, read out of `Learnt` so that many decisions can share it.

A shape's own estimate falls back on the target's other shapes, and that on a cold prior, each worth one sample.
In: the two `Learnt`, the time. Out: figures as of then, before load is reckoned in.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.learnt import Learnt

COLD_TTFT_S = 1.0
COLD_TPOT_S = 0.03
PRIOR_WEIGHT = 1.0  # one real sample moves a cold estimate half way
ENOUGH_SAMPLES = 3.0
RATE_EVIDENCE = 20.0  # a rate of timeouts or truncations over fewer calls than this is chance
FRESH_S = 0.05
FRESH_SHARE = 0.01  # of the evidence: so much more makes a figure old before its time


@dataclass(slots=True)
class Outlook:
    """Seconds, dollars and shares. `…_weight` is the decayed number of samples behind a figure."""

    learnt: Learnt
    until_s: float  # read it anew from then on, or
    until_samples: int  # once more than these are there

    ttft_s: float
    ttft_weight: float
    ttft_p95_s: float | None  # None = too few samples to tell
    tpot_sum_s: float
    tpot_weight: float
    usual_tpot_s: float  # over all shapes
    completion_s: float | None  # of calls that were not streamed, where nothing else is known; else None
    completion_weight: float
    completion_p95_s: float | None
    output_tokens_sum: float
    output_weight: float
    cost_usd: float | None
    success_share: float
    timeout_rate: float | None  # None = too few calls to tell
    truncation_rate: float | None


def read_out(own: Learnt, pooled: Learnt, now: float) -> Outlook:
    """`own` is of the shape, `pooled` of all the target's shapes."""
    mine, one = own.sums, own.weight_of(now)
    all_, one_of_all = pooled.sums, pooled.weight_of(now)
    usual_ttft_s = _mean(all_.ttft_s, all_.ttft_ended, COLD_TTFT_S, one_of_all)
    calls = (mine.succeeded + mine.failed) / one
    is_rated = calls >= RATE_EVIDENCE
    ttft_weight, completion_weight = mine.ttft_ended / one, mine.completion_ended / one
    return Outlook(
        learnt=own,
        until_s=now + FRESH_S,
        until_samples=own.num_samples + int(FRESH_SHARE * calls),
        ttft_s=_mean(mine.ttft_s, mine.ttft_ended, usual_ttft_s, one),
        ttft_weight=ttft_weight,
        ttft_p95_s=own.ttft.quantile(0.95) if ttft_weight >= ENOUGH_SAMPLES else None,
        tpot_sum_s=mine.tpot_s / one,
        tpot_weight=mine.tpot_ended / one,
        usual_tpot_s=_mean(all_.tpot_s, all_.tpot_ended, COLD_TPOT_S, one_of_all),
        completion_s=_completion_s(own, pooled, one, one_of_all),
        completion_weight=completion_weight,
        completion_p95_s=own.completion.quantile(0.95) if completion_weight >= ENOUGH_SAMPLES else None,
        output_tokens_sum=mine.output_tokens / one,
        output_weight=mine.outputs / one,
        cost_usd=_cost_usd(own, pooled, one, one_of_all),
        success_share=(mine.succeeded / one + 9.0) / (calls + 10.0),  # a Beta's mean; prior nine of ten
        timeout_rate=mine.timed_out / one / calls if is_rated else None,
        truncation_rate=mine.truncated / one / calls if is_rated else None,
    )


def _mean(total: float, ended: float, prior: float, one: float) -> float:
    return (total + PRIOR_WEIGHT * prior * one) / (ended + PRIOR_WEIGHT * one)


def _completion_s(own: Learnt, pooled: Learnt, one: float, one_of_all: float) -> float | None:
    """Where no call was streamed, there is no time to first token to reckon from: whole calls are what is known."""
    mine, all_ = own.sums, pooled.sums
    if all_.ttft_ended >= one_of_all or all_.completion_ended < one_of_all:
        return None
    usual_s = all_.completion_s / all_.completion_ended
    return _mean(mine.completion_s, mine.completion_ended, usual_s, one)


def _cost_usd(own: Learnt, pooled: Learnt, one: float, one_of_all: float) -> float | None:
    """Mean cost of such calls as booked; None before there is one."""
    for sums, unit in ((own.sums, one), (pooled.sums, one_of_all)):
        if sums.costed >= unit:
            return sums.cost_usd / sums.costed
    return None
