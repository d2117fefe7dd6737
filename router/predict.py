"""What a target is expected to do with a call: first token, pace, end and cost.

In: the fleet's estimates, a query, a shape, the time. Out: a `Prediction`.
Predicted completion = TTFT + expected output tokens × time per output token. Calls that were not streamed teach
no TTFT; a target known only from those is predicted by its mean completion. An engine's own measure of its pace
is worth as much as the other shapes' calls, whose place it takes: it knows the load and how far drafts carry.
"""

from __future__ import annotations

import math

from router.catalog import Target
from router.decision import Prediction
from router.fleet import Health
from router.lengths import Length
from router.outlook import Outlook
from router.pace import STEEPEST
from router.query import Query
from router.shapes import EXPECTED_OUTPUT_TOKENS

TAIL_OVER_MEAN = 3.0  # p95 of exponential waits is 3.0 × their mean: the guess until there are samples


def expected_output_tokens(
    query: Query, shape: str, outlooks: list[Outlook], of_workflow: Length | None = None
) -> int:
    """Mean output length of this shape over the candidates, within the caller's limit; a workflow's own, with that as
    a prior."""
    total, ended = float(EXPECTED_OUTPUT_TOKENS[shape]), 1.0
    for outlook in outlooks:
        total += outlook.output_tokens_sum
        ended += outlook.output_weight
    limit, mean = query.max_output_tokens, total / ended
    if of_workflow is not None:
        mean = (of_workflow.mean * of_workflow.weight + mean) / (of_workflow.weight + 1.0)
    return round(mean if limit is None or mean < limit else limit) or 1


def predict(
    query: Query, shape: str, target: Target, health: Health, outlook: Outlook, output_tokens: int
) -> Prediction:
    """What is known of the target for this shape, and its load."""
    load, engine = health.in_flight, health.engine
    ttft_times = _times(outlook.ttft_slope, load)
    tpot_times = _times(outlook.tpot_slope, load)
    tpot_s = outlook.tpot_s * tpot_times
    if engine is not None:  # its own queue counts too, whoever filled it
        ttft_times = max(ttft_times, (engine.running + engine.waiting + 1) / engine.max_batch)
        said_s, weight = engine.tpot_s(shape), outlook.tpot_weight
        if said_s is not None:
            own = math.log(outlook.tpot_own_s * tpot_times)
            tpot_s = math.exp((own * weight + math.log(said_s)) / (weight + 1.0))
    ttft_s = outlook.ttft_s * ttft_times
    if (
        engine is not None and engine.prefill_tokens_per_s
    ):  # a long prompt takes its time, whatever others took
        prefill_s = query.input_tokens / engine.prefill_tokens_per_s
        ttft_s = ttft_s if ttft_s > prefill_s else prefill_s
    usual_s, completion_s = (
        outlook.usual_ttft_s + output_tokens * outlook.usual_tpot_s,
        ttft_s + output_tokens * tpot_s,
    )
    burden = load * (outlook.ttft_slope * ttft_s + outlook.tpot_slope * output_tokens * tpot_s) / completion_s
    if outlook.completion_s is not None:
        ttft_times = tpot_times = _times(outlook.completion_slope, load)
        completion_s = usual_s = outlook.completion_s * ttft_times
        burden = load * outlook.completion_slope
    if (
        outlook.mean_s
    ):  # long calls are in the way of more others; not in proportion, as both times are guesses
        burden *= math.sqrt(completion_s / outlook.mean_s)
    tail = TAIL_OVER_MEAN if outlook.usual_p95_s is None else outlook.usual_p95_s / usual_s
    # Of such calls as booked; before there are any, from the price list; else unknown.
    cost_usd = outlook.cost_usd
    if cost_usd is None and target.input_usd_per_mtok is not None and target.output_usd_per_mtok is not None:
        cost_usd = query.input_tokens * target.input_usd_per_mtok + output_tokens * target.output_usd_per_mtok
        cost_usd /= 1e6
    return Prediction(
        ttft_s,
        tpot_s,
        completion_s,
        completion_s * tail,
        cost_usd,
        outlook.success_share,
        load,
        ttft_times if ttft_times > tpot_times else tpot_times,
        outlook.completion_weight,
        outlook.hope,
        1.0 + burden,
        (TAIL_OVER_MEAN / tail) ** (1.0 - outlook.p95_share),
    )


def _times(slope: float, load: int) -> float:
    """How many times as long a wait is at this load as at none."""
    growth = slope * load
    return math.exp(growth if growth < STEEPEST else STEEPEST)


def ttft_p95_s(outlook: Outlook, prediction: Prediction) -> float:
    """p95 of the first token: seen where there are samples, else guessed from the mean."""
    seen_s = outlook.ttft_p95_s
    return (
        prediction.ttft_s * TAIL_OVER_MEAN if seen_s is None else seen_s * prediction.ttft_s / outlook.ttft_s
    )
