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
    crowding, engine = health.crowding(), health.engine
    prior_s = outlook.usual_tpot_s
    if (
        engine is not None
    ):  # its own queue counts too, whoever filled it; of its pace it speaks at its present load
        crowding = max(crowding, (engine.running + engine.waiting + 1) / engine.max_batch)
        said_s = engine.tpot_s(shape)
        prior_s = prior_s if said_s is None else said_s / crowding
    ttft_s = outlook.ttft_s * crowding
    tpot_s = (outlook.tpot_sum_s + PRIOR_WEIGHT * prior_s) / (outlook.tpot_weight + PRIOR_WEIGHT) * crowding
    known_s, tail_s = outlook.completion_s, outlook.completion_p95_s
    completion_s = ttft_s + output_tokens * tpot_s if known_s is None else known_s * crowding
    cost_usd = (
        outlook.cost_usd
    )  # of such calls as booked; before there are any, from the price list; else unknown
    if cost_usd is None and target.input_usd_per_mtok is not None and target.output_usd_per_mtok is not None:
        cost_usd = query.input_tokens * target.input_usd_per_mtok + output_tokens * target.output_usd_per_mtok
        cost_usd /= 1e6
    return Prediction(
        ttft_s,
        tpot_s,
        completion_s,
        completion_s * TAIL_OVER_MEAN if tail_s is None else tail_s * crowding,
        cost_usd,
        outlook.success_share,
        health.in_flight,
        crowding,
        outlook.completion_weight,
    )


def ttft_p95_s(outlook: Outlook, prediction: Prediction) -> float:
    """p95 of the first token: seen where there are samples, else guessed from the mean."""
    seen_s = outlook.ttft_p95_s
    return prediction.ttft_s * TAIL_OVER_MEAN if seen_s is None else seen_s * prediction.crowding
