"""What a target is expected to do with a call: first token, pace, end and cost.

In: the fleet's estimates, a query, a shape, the time. Out: a `Prediction`.
Predicted completion = TTFT + expected output tokens × time per output token. Calls that were not streamed teach
no TTFT; a target known only from those is predicted by its mean completion. An engine's own measure of its pace
is worth as much as the other shapes' calls, whose place it takes: it knows the load and how far drafts carry.
"""

from __future__ import annotations

from router.catalog import Target
from router.decision import Prediction
from router.fleet import Health
from router.outlook import PRIOR_WEIGHT, Outlook
from router.query import Query
from router.shapes import EXPECTED_OUTPUT_TOKENS

TAIL_OVER_MEAN = 3.0  # p95 of exponential waits is 3.0 × their mean: the guess until there are samples


def expected_output_tokens(query: Query, shape: str, outlooks: list[Outlook]) -> int:
    """Mean output length of this shape over the candidates, within the caller's limit."""
    total, ended = float(EXPECTED_OUTPUT_TOKENS[shape]), 1.0
    for outlook in outlooks:
        total += outlook.output_tokens_sum
        ended += outlook.output_weight
    limit, mean = query.max_output_tokens, total / ended
    return max(1, round(mean if limit is None else min(mean, limit)))


def predict(
    query: Query, shape: str, target: Target, health: Health, outlook: Outlook, output_tokens: int
) -> Prediction:
    """What is known of the target for this shape, and its load."""
    crowding = _crowding(health)
    ttft_s = outlook.ttft_s * crowding
    tpot_s = _tpot_s(shape, health, outlook, crowding)
    known_s = outlook.completion_s
    completion_s = ttft_s + output_tokens * tpot_s if known_s is None else known_s * crowding
    tail_s = outlook.completion_p95_s
    return Prediction(
        ttft_s,
        tpot_s,
        completion_s,
        completion_s * TAIL_OVER_MEAN if tail_s is None else tail_s * crowding,
        _cost_usd(query, target, outlook, output_tokens),
        outlook.success_share,
        health.in_flight,
        crowding,
        outlook.completion_weight,
    )


def ttft_p95_s(outlook: Outlook, prediction: Prediction) -> float:
    """p95 of the first token: seen where there are samples, else guessed from the mean."""
    seen_s = outlook.ttft_p95_s
    return prediction.ttft_s * TAIL_OVER_MEAN if seen_s is None else seen_s * prediction.crowding


def _crowding(health: Health) -> float:
    """Load above the usual; an engine's own queue counts too, whoever filled it."""
    crowding = health.crowding()
    if engine := health.engine:
        crowding = max(crowding, (engine.running + engine.waiting + 1) / engine.max_batch)
    return crowding


def _tpot_s(shape: str, health: Health, outlook: Outlook, crowding: float) -> float:
    """At the present load; what an engine says of its own pace is said of that load."""
    said_s = health.engine.tpot_s(shape) if health.engine else None
    prior_s = outlook.usual_tpot_s if said_s is None else said_s / crowding
    mean_s = (outlook.tpot_sum_s + PRIOR_WEIGHT * prior_s) / (outlook.tpot_weight + PRIOR_WEIGHT)
    return mean_s * crowding


def _cost_usd(query: Query, target: Target, outlook: Outlook, output_tokens: int) -> float | None:
    """Mean cost of such calls as booked; before there are any, from the price list; else unknown."""
    if outlook.cost_usd is not None:
        return outlook.cost_usd
    if target.input_usd_per_mtok is None or target.output_usd_per_mtok is None:
        return None
    return (query.input_tokens * target.input_usd_per_mtok + output_tokens * target.output_usd_per_mtok) / 1e6
