"""Affinity: whether a task's next call is better off where its last one went, which still holds the start of it.

In: candidates in the order of their scores, the query, the objective, the last call's target. Out: their order.
What a cached prefix is worth is a share of the first token's wait and of the input's price, since prefix caches (of
engines and of providers) save prefilling and nothing else. A call continues a conversation when it brings an earlier
answer along; other calls of the same task share no prefix. That the target still has it is taken for granted.
"""

from __future__ import annotations

from dataclasses import replace

from router.catalog import Target
from router.decision import Candidate, Prediction
from router.policy import Objective
from router.query import Query
from router.scoring import objective_value

PREFILL_S_PER_TOKEN = 1e-4  # of an upstream that serves a large model, where it says nothing of itself
LARGEST_SHARE = 0.8  # of the wait that providers say a cached prompt saves at most
CACHED_PRICE_SHARE = 0.5  # of the input's price, where no price for cached input is listed
MESSAGES_OF_A_FIRST_CALL = 2  # instructions and a question


def keep_on(
    ranked: list[Candidate], query: Query, objective: Objective, target: Target | None
) -> list[Candidate]:
    """The last call's target first, if what it has cached makes up for what the best one is better by."""
    best = ranked[0] if ranked else None
    if best is None or target is None or best.target == target.name or not continues(query):
        return ranked
    last = next((candidate for candidate in ranked if candidate.target == target.name), None)
    if last is None or last.prediction is None or last.score is None or best.score is None:
        return ranked
    worth = reuse_share(query, objective, target, last.prediction)
    if len(last.slo_misses) > len(best.slo_misses) or last.score * (1.0 - worth) > best.score:
        return ranked
    rest = [candidate for candidate in ranked if candidate is not last]
    return [replace(last, role="sticky"), *rest]


def continues(query: Query) -> bool:
    """Whether the call repeats what an earlier one of its task held."""
    return query.has_tool_messages or query.message_count > MESSAGES_OF_A_FIRST_CALL


def reuse_share(query: Query, objective: Objective, target: Target, prediction: Prediction) -> float:
    """The share of a target's score, 0..0.8, that a cached prefix of the whole input saves.

    Time: tokens × prefill time a token, at most 0.8 × TTFT, ÷ the wait that the objective counts. Money: tokens ×
    (price − price when cached) ÷ the call's cost. The pace of a stream gains nothing.
    """
    if objective == "cost_per_completed_task":
        whole, saved = prediction.cost_usd, _saved_usd(query, target)
    else:
        whole, saved = objective_value(objective, prediction, query.stream), _saved_s(query, prediction)
    if not whole or (objective == "speed" and query.stream):
        return 0.0
    return min(saved / whole, LARGEST_SHARE)


def _saved_s(query: Query, prediction: Prediction) -> float:
    return min(query.input_tokens * PREFILL_S_PER_TOKEN, LARGEST_SHARE * prediction.ttft_s)


def _saved_usd(query: Query, target: Target) -> float:
    price, cached = target.input_usd_per_mtok or 0.0, target.cached_usd_per_mtok
    discount = price * (1.0 - CACHED_PRICE_SHARE) if cached is None else max(0.0, price - cached)
    return query.input_tokens * discount / 1e6
