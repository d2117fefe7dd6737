"""Sticky routing: a task stays where its prefix is cached while that is worth more than a better score."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.affinity import LARGEST_SHARE, reuse_share
from router.catalog import Catalog, Target
from router.decide import decide
from router.decision import Decision, Prediction
from router.fleet import Fleet
from router.policy import Objective, Policy, Slo
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0
NEVER_EXPLORE = 0.999


def known(a_s: float = 1.0, b_s: float = 1.4) -> Fleet:
    fleet = Fleet()
    seen(fleet, "a", NOW, times=20, ttft_s=a_s)
    seen(fleet, "b", NOW, times=20, ttft_s=b_s)
    return fleet


def step(fleet: Fleet, rules: Policy | None = None, known: Catalog | None = None, **asked: Any) -> Decision:
    """A later call of a task whose last one went to b."""
    call = query(
        **{
            "task_id": "t",
            "last_target": "b",
            "message_count": 5,
            "declared_shape": "general",
            "input_tokens": 5_000,
            **asked,
        }
    )
    return decide(call, known or catalog("a", "b"), rules or policy(), fleet, NOW, NEVER_EXPLORE)


def test_a_task_stays_where_its_prefix_is_if_that_saves_more_than_the_better_target() -> None:
    decision = step(known())
    assert [(it.target, it.role) for it in decision.candidates] == [("b", "sticky"), ("a", "candidate")]
    assert decision.reason.startswith("b holds the start of this task")


@pytest.mark.parametrize(
    "asked",
    [
        {"input_tokens": 1_000},  # 0.1 s of prefilling against 0.4 s
        {"last_target": None},
        {"last_target": "gone"},
        {"last_target": "a"},
        {"message_count": 2},  # another call of the task, which shares no prefix
    ],
)
def test_it_moves_on_where_little_or_nothing_is_cached(asked: dict[str, Any]) -> None:
    decision = step(known(), **asked)
    assert [(it.target, it.role) for it in decision.candidates] == [("a", "candidate"), ("b", "candidate")]


def test_tool_messages_continue_a_conversation_however_few_they_are() -> None:
    assert step(known(), message_count=2, has_tool_messages=True).candidates[0].role == "sticky"


def test_a_much_better_target_takes_the_task_over() -> None:
    assert step(known(b_s=9.0), input_tokens=20_000).candidates[0].target == "a"


def test_the_policy_may_say_no() -> None:
    assert step(known(), policy(sticky=False)).candidates[0].target == "a"


def test_a_limit_that_only_the_last_target_misses_ends_the_stay() -> None:
    assert step(known(), policy(slo=Slo(ttft_p95_s=1.2))).candidates[0].target == "a"


def test_one_that_rests_or_cannot_serve_is_left() -> None:
    fleet = known()
    seen(fleet, "b", NOW, times=3, result="connect_error")
    assert [it.target for it in step(fleet).candidates] == ["a"]


def test_under_cost_the_discount_on_cached_input_counts() -> None:
    prices = {"a": (1.0, 4.0, None), "b": (1.3, 4.0, 0.1)}
    targets = {
        name: replace(
            catalog("a", "b").targets[name],
            input_usd_per_mtok=into,
            output_usd_per_mtok=out,
            cached_usd_per_mtok=cached,
        )
        for name, (into, out, cached) in prices.items()
    }
    rules = policy(objective="cost_per_completed_task")
    assert step(known(), rules, Catalog(targets)).candidates[0].role == "sticky"
    dear = {**targets, "b": replace(targets["b"], cached_usd_per_mtok=1.3)}
    assert step(known(), rules, Catalog(dear)).candidates[0].target == "a"


FIGURES = Prediction(
    ttft_s=1.0,
    tpot_s=0.01,
    completion_s=2.0,
    completion_p95_s=4.0,
    cost_usd=0.02,
    success_share=1.0,
    in_flight=0,
    crowding=1.0,
    weight=10.0,
)
PRICED = Target("b", "openai", "m", input_usd_per_mtok=2.0, output_usd_per_mtok=8.0)


@pytest.mark.parametrize(
    ("objective", "stream", "share"),
    [
        ("ttft", True, 0.5),
        ("ttft", False, 0.25),
        ("speed", True, 0.0),
        ("speed", False, 0.25),
        ("completion_p95", True, 0.125),
        ("cost_per_completed_task", True, 0.25),  # half of 5,000 tokens' price
    ],
)
def test_what_a_cached_prefix_saves_by_objective(objective: Objective, stream: bool, share: float) -> None:
    call = query(input_tokens=5_000, stream=stream)
    assert reuse_share(call, objective, PRICED, FIGURES) == pytest.approx(share)


def test_a_prefix_saves_part_of_the_first_tokens_wait_and_never_all() -> None:
    call = query(input_tokens=1_000_000)
    assert reuse_share(call, "ttft", PRICED, FIGURES) == LARGEST_SHARE
    assert reuse_share(call, "cost_per_completed_task", PRICED, FIGURES) == LARGEST_SHARE
    unpriced = Target("b", "openai", "m")
    assert reuse_share(call, "cost_per_completed_task", unpriced, FIGURES) == 0.0
    free = replace(FIGURES, cost_usd=None)
    assert reuse_share(call, "cost_per_completed_task", PRICED, free) == 0.0
