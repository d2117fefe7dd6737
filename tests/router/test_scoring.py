"""Scores by objective: what a cut or failed answer costs, and the pressure of an error budget that is burning."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.decide import decide
from router.decision import Decision
from router.fleet import Fleet
from router.policy import Policy, Slo, Timeouts
from router.scoring import DOUBLING_BURN, pressure
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0
NEVER_EXPLORE = 0.999


def decided(fleet: Fleet, rules: Policy, **asked: object) -> Decision:
    return decide(query(**asked), catalog("a", "b"), rules, fleet, NOW, NEVER_EXPLORE)


def first(fleet: Fleet, rules: Policy, **asked: object) -> str:
    return decided(fleet, rules, **asked).candidates[0].target


def score(fleet: Fleet, rules: Policy, target: str = "a") -> float:
    (found,) = [it.score for it in decided(fleet, rules).candidates if it.target == target]
    assert found is not None
    return found


def test_speed_counts_an_answer_that_is_cut_as_one_to_be_made_again() -> None:
    whole, cut = Fleet(half_life_s=3600.0), Fleet(half_life_s=3600.0)
    seen(whole, "a", NOW, times=40)
    seen(cut, "a", NOW, times=30)
    seen(cut, "a", NOW, times=10, is_truncated=True)
    ratio = score(cut, policy(objective="speed")) / score(whole, policy(objective="speed"))
    assert ratio == pytest.approx(1 / (1 - 10 / 40), rel=0.01)
    cost = policy(objective="cost_per_completed_task")
    seen(whole, "a", NOW, cost_usd=0.001)
    seen(cut, "a", NOW, cost_usd=0.001)
    assert score(cut, cost) > 1.2 * score(whole, cost)
    assert score(cut, policy(objective="ttft")) == pytest.approx(
        score(whole, policy(objective="ttft")), rel=1e-4
    )


def test_speed_prefers_the_pace_at_which_whole_answers_come() -> None:
    fleet = Fleet(half_life_s=3600.0)
    seen(fleet, "a", NOW, times=30, tpot_s=0.020)
    seen(fleet, "a", NOW, times=10, tpot_s=0.020, is_truncated=True)
    seen(fleet, "b", NOW, times=40, tpot_s=0.025)
    assert first(fleet, policy(objective="speed")) == "b"


def test_cost_charges_failed_attempts_to_the_completions() -> None:
    """Ten of thirty attempts fail and are paid for all the same: a completion costs half as much again."""
    fleet = Fleet(half_life_s=36_000.0)
    seen(fleet, "a", NOW, times=200, cost_usd=0.001)
    seen(fleet, "a", NOW, times=100, result="bad_response", cost_usd=0.001)
    fleet.health("a").breaker.succeed(NOW)
    assert score(fleet, policy(objective="cost_per_completed_task")) == pytest.approx(0.0015, rel=0.03)


def test_an_unknown_cost_is_taken_for_the_typical_one() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, cost_usd=0.002)
    rules = policy(objective="cost_per_completed_task")
    assert score(fleet, rules, "b") == pytest.approx(0.002 / 0.9)
    assert score(Fleet(), rules, "b") == 0.0


def test_burning_the_error_budget_is_penalised_little_by_little() -> None:
    rules, lenient = (policy(objective="ttft", slo=Slo(timeout_rate=rate)) for rate in (0.005, 1.0))
    scores = []
    for timeouts in (0, 1, 2):
        fleet = Fleet(half_life_s=36_000.0)
        for _ in range(100 - timeouts):
            seen(fleet, "a", NOW, times=1, ttft_s=0.2)
        seen(fleet, "a", NOW, times=timeouts, result="timeout_idle", total_s=0.0)
        scores.append((score(fleet, rules), score(fleet, lenient)))
    factors = [pressed / plain for pressed, plain in scores]
    assert factors[0] == 1.0
    assert factors == sorted(factors)
    assert factors[-1] == pytest.approx(1 + ((2 + 0.1) / 120 / 0.005 - 1) / DOUBLING_BURN, rel=0.01)


def test_calls_that_hang_are_taken_for_timeouts_and_a_target_that_hangs_for_one_shape_for_all() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, times=50)
    seen(fleet, "b", NOW, times=50, ttft_s=0.22, total_s=1.1)
    assert decide(query(), catalog("a", "b"), policy(), fleet, NOW, 0.5).candidates[0].target == "a"
    for _ in range(2):
        fleet.start("a", "support", NOW)
        fleet.start("b", "support", NOW + 19.9)
    assert decide(query(), catalog("a", "b"), policy(), fleet, NOW + 20.0, 0.5).candidates[0].target == "b"


def test_pressure_begins_only_beyond_the_budget() -> None:
    fleet = Fleet(half_life_s=36_000.0)
    seen(fleet, "a", NOW, times=1)
    outlook = fleet.health("a").outlook("general", NOW)
    assert pressure(replace(outlook, recent_calls=980.0, recent_timeouts=4.9), 0.005) == pytest.approx(1.0)
    assert pressure(replace(outlook, recent_calls=980.0, recent_timeouts=3.0), 0.005) == 1.0
    burnt = replace(outlook, recent_calls=100.0, recent_timeouts=50.0)
    assert pressure(burnt, 0.005) > 5.0


def test_all_three_hints_tighten() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=0.5, tpot_s=0.04, total_s=3.0)
    seen(fleet, "b", NOW, ttft_s=0.8, tpot_s=0.01, total_s=1.5)
    rules = policy(objective="ttft")
    assert first(fleet, rules) == "a"
    assert first(fleet, rules, slo_tpot_s=0.02) == "b"
    assert first(fleet, rules, deadline_s=2.0) == "b"
    speed = policy(objective="speed")
    assert first(fleet, speed) == "b"
    assert first(fleet, speed, slo_ttft_s=0.6) == "a"
    assert first(fleet, policy(objective="ttft", slo=Slo(tpot_s=0.02)), slo_tpot_s=9.0) == "b"


def test_a_hinted_call_leaves_no_trace_in_what_is_kept_for_others() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=0.5, total_s=3.0)
    seen(fleet, "b", NOW, ttft_s=0.8, total_s=1.5)
    rules = policy(objective="ttft")
    assert first(fleet, rules, deadline_s=2.0) == "b"
    assert first(fleet, rules) == "a"
    assert first(fleet, rules, deadline_s=2.0) == "b"


def test_a_deadline_cuts_every_wait_and_never_lengthens_one() -> None:
    rules = policy(timeouts=Timeouts(3.0, 10.0, 30.0))
    assert decided(Fleet(), rules, deadline_s=5.0).timeouts == Timeouts(3.0, 5.0, 5.0)
    assert decided(Fleet(), rules, deadline_s=500.0).timeouts == Timeouts(3.0, 10.0, 30.0)


def test_a_tasks_outcome_is_credited_by_the_share_that_a_target_had_in_it() -> None:
    rules = policy(objective="cost_per_completed_task")

    def scores(*ended: bool, share: float = 1.0) -> list[float]:
        fleet = Fleet()
        for name in "ab":
            seen(fleet, name, NOW, times=50, cost_usd=0.1)
        for is_completed in ended:
            fleet.credit({("a", "general"): share}, is_completed, NOW)
        return [score(fleet, rules, name) for name in "ab"]

    plain = scores()
    assert scores(True, True) == plain
    assert scores(False) == pytest.approx([plain[0] / 0.9, plain[1]])
    assert scores(False, False, False, share=1 / 3) == pytest.approx(scores(False))
    assert scores(*[False, True] * 100)[0] == pytest.approx(2 * plain[0], rel=0.1)


def test_what_became_of_tasks_is_forgotten_by_and_by() -> None:
    fleet = Fleet()
    for is_completed, at in ((True, NOW), (False, NOW + 30 * 60.0)):
        fleet.credit({("a", "general"): 1.0}, is_completed, at)
    tasks = fleet.health("a").of("general").tasks
    assert (tasks.completed, tasks.failed) == pytest.approx((0.5, 1.0))
