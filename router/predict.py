"""What a target is expected to do with a call: first token, pace, end and cost.

In: the fleet's estimates, a query, a shape, the time. Out: a `Prediction`.
Predicted completion = TTFT + expected output tokens × time per output token. Calls that were not streamed teach
no TTFT; a target known only from those is predicted by its mean completion. An engine's own measure of its pace
is worth as much as the other shapes' calls, whose place it takes: it knows the load and how far drafts carry.
"""

from __future__ import annotations

from router.catalog import Target
from router.decision import Prediction
from router.fleet import ALL_SHAPES, Health, Learnt
from router.query import Query
from router.shapes import EXPECTED_OUTPUT_TOKENS

COLD_TTFT_S = 1.0
COLD_TPOT_S = 0.03
TAIL_OVER_MEAN = 3.0  # p95 of exponential waits is 3.0 × their mean: the guess until there are samples
ENOUGH_SAMPLES = 3.0


def expected_output_tokens(query: Query, shape: str, healths: list[Health], now: float) -> int:
    """Mean output length of this shape over the candidates, within the caller's limit."""
    waited = ended = 0.0
    for health in healths:
        lengths = health.of(shape).output_tokens
        waited, ended = waited + lengths.waited.at(now), ended + lengths.ended.at(now)
    mean = (waited + EXPECTED_OUTPUT_TOKENS[shape]) / (ended + 1.0)
    limit = query.max_output_tokens
    return max(1, round(mean if limit is None else min(mean, limit)))


def predict(
    query: Query, shape: str, target: Target, health: Health, output_tokens: int, now: float
) -> Prediction:
    """Shape's own estimate, shrunk to the target's other shapes, shrunk to a cold prior."""
    own, pooled = health.of(shape), health.of(ALL_SHAPES)
    crowding = _crowding(health, now)
    ttft_s = own.ttft.mean_s(now, pooled.ttft.mean_s(now, COLD_TTFT_S)) * crowding
    tpot_s = own.tpot.mean_s(now, _tpot_prior_s(shape, health, crowding, now)) * crowding
    completion_s = ttft_s + output_tokens * tpot_s
    if pooled.ttft.weight(now) < 1.0 <= pooled.completion.weight(now):
        completion_s = own.completion.mean_s(now, pooled.completion.mean_s(now, completion_s)) * crowding
    return Prediction(
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        completion_s=completion_s,
        completion_p95_s=_tail_s(own, completion_s, crowding, now),
        cost_usd=_cost_usd(query, target, own, pooled, output_tokens, now),
        success_share=own.success_share(now),
        in_flight=health.in_flight,
        crowding=crowding,
        weight=own.completion.weight(now),
    )


def ttft_p95_s(health: Health, shape: str, prediction: Prediction, now: float) -> float:
    """p95 of the first token: seen where there are samples, else guessed from the mean."""
    seen = health.of(shape).ttft
    quantile = seen.quantile_s(0.95) if seen.weight(now) >= ENOUGH_SAMPLES else None
    return quantile * prediction.crowding if quantile is not None else prediction.ttft_s * TAIL_OVER_MEAN


def _crowding(health: Health, now: float) -> float:
    """Load above the usual; an engine's own queue counts too, whoever filled it."""
    crowding = health.crowding(now)
    if engine := health.engine:
        crowding = max(crowding, (engine.running + engine.waiting + 1) / engine.max_batch)
    return crowding


def _tpot_prior_s(shape: str, health: Health, crowding: float, now: float) -> float:
    """At the usual load; an engine speaks of its present one."""
    said = health.engine.tpot_s(shape) if health.engine else None
    if said is not None:
        return said / crowding
    return health.of(ALL_SHAPES).tpot.mean_s(now, COLD_TPOT_S)


def _tail_s(own: Learnt, mean_s: float, crowding: float, now: float) -> float:
    quantile = own.completion.quantile_s(0.95) if own.completion.weight(now) >= ENOUGH_SAMPLES else None
    return quantile * crowding if quantile is not None else mean_s * TAIL_OVER_MEAN


def _cost_usd(
    query: Query, target: Target, own: Learnt, pooled: Learnt, output_tokens: int, now: float
) -> float | None:
    """Mean cost of such calls as booked; before there are any, from the price list; else unknown."""
    for learnt in (own, pooled):
        if (costed := learnt.costed.at(now)) >= 1.0:
            return learnt.cost_usd.at(now) / costed
    if target.input_usd_per_mtok is None or target.output_usd_per_mtok is None:
        return None
    return (query.input_tokens * target.input_usd_per_mtok + output_tokens * target.output_usd_per_mtok) / 1e6
