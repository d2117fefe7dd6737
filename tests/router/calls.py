"""Small builders of router values, so that each test writes only what it is about."""

from __future__ import annotations

from typing import Any

from router.catalog import Catalog, Target
from router.fleet import Fleet
from router.outcome import Outcome, Result
from router.policy import Policy, ShapePolicy
from router.query import Query

CHAT = "/v1/chat/completions"


def query(**given: Any) -> Query:
    return Query(**{"endpoint": CHAT, "model": "auto", "stream": True, "input_tokens": 50, **given})


def catalog(*names: str, **given: Any) -> Catalog:
    return Catalog(targets={name: Target(name, "openai", f"{name}-model") for name in names}, **given)


def policy(**given: Any) -> Policy:
    """One set of rules for every shape, no exploration."""
    return Policy(hash="p1", shapes={}, defaults=ShapePolicy(**given), explore=0.0)


def seen(
    fleet: Fleet, target: str, now: float, *, times: int = 10, result: Result = "ok", **given: Any
) -> None:
    """`times` finished attempts of shape `general`, one a tenth of a second, the last at `now`."""
    figures = {"total_s": 1.0, "ttft_s": 0.2, "tpot_s": 0.02, "output_tokens": 50} if result == "ok" else {}
    for step in range(times):
        fleet.start(target)
        outcome = Outcome(target, "general", result, **{"total_s": 1.0, **figures, **given})
        fleet.observe(outcome, now - 0.1 * (times - 1 - step))
