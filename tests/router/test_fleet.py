"""What a fleet knows of its targets after what outcomes, seen in what `decide` predicts of them."""

from __future__ import annotations

import pytest

from router.decide import decide
from router.decision import Prediction
from router.fleet import Fleet
from router.outcome import Outcome
from router.waits import COLD_TPOT_S, COLD_TTFT_S
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0


def predicted(fleet: Fleet, now: float = NOW, **asked: object) -> Prediction:
    decision = decide(query(**asked), catalog("a"), policy(), fleet, now, 0.5)
    prediction = decision.candidates[0].prediction
    assert prediction is not None
    return prediction


def test_nothing_known_is_the_cold_guess() -> None:
    cold = predicted(Fleet())
    assert (cold.ttft_s, cold.tpot_s) == pytest.approx((COLD_TTFT_S, COLD_TPOT_S))


def test_a_cost_is_that_of_the_shape_once_booked_before_that_of_the_other_shapes() -> None:
    fleet = Fleet()
    assert predicted(fleet).cost_usd is None
    seen(fleet, "a", NOW, times=3, cost_usd=0.02)
    assert predicted(fleet, declared_shape="support").cost_usd == pytest.approx(0.02)
    assert predicted(fleet, declared_shape="general").cost_usd == pytest.approx(0.02)


def test_calls_that_were_not_streamed_are_known_by_their_ends() -> None:
    fleet = Fleet(half_life_s=3600.0)
    seen(fleet, "a", NOW, times=50, ttft_s=None, tpot_s=None, total_s=3.0)
    assert predicted(fleet, stream=False).completion_s == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("half_lives", [65.0, 1_001.0])
def test_what_is_long_past_weighs_nothing_beside_what_is_new(half_lives: float) -> None:
    fleet = Fleet(half_life_s=10.0)
    seen(fleet, "a", NOW, times=100, ttft_s=90.0)
    later = NOW + half_lives * 10.0
    seen(fleet, "a", later, times=10, ttft_s=0.2)
    assert predicted(fleet, later).ttft_s < COLD_TTFT_S
    assert predicted(fleet, later).weight <= 10.0


def test_what_is_recent_keeps_its_weight_when_what_is_long_past_is_dropped() -> None:
    fleet = Fleet(half_life_s=10.0)
    seen(fleet, "a", NOW, times=1, ttft_s=90.0)
    seen(fleet, "a", NOW + 630.0, times=20, ttft_s=0.4, total_s=4.0)
    seen(fleet, "a", NOW + 650.0, times=1, ttft_s=0.2, total_s=2.0)
    known = predicted(fleet, NOW + 650.0)
    assert known.weight == pytest.approx(20 / 4 + 1, rel=0.1)  # the twenty are two half-lives old
    assert 0.2 < known.ttft_s < 0.5


def test_a_first_token_that_nobody_waits_for_says_nothing() -> None:
    fleet = Fleet()
    call = fleet.start("a", "general", NOW - 90.0, is_stream=False)
    assert call is not None
    fleet.first_token("a", "general", 90.0, NOW, call)
    fleet.observe(Outcome("a", "general", "client_gone", 90.0), NOW, call)
    assert predicted(fleet).ttft_s == pytest.approx(COLD_TTFT_S)


def test_a_whole_answer_that_lost_to_a_hedge_took_at_least_so_long() -> None:
    fleet = Fleet()
    for step in range(20):
        at = NOW + 60.0 * step
        call = fleet.start("a", "general", at, is_stream=False)
        fleet.observe(Outcome("a", "general", "hedge_lost", 40.0), at + 40.0, call)
    known = predicted(fleet, NOW + 60.0 * 20, stream=False)
    assert 0.9 * 40.0 <= known.completion_s <= 1.1 * 40.0


def test_successes_in_a_row_end_what_failures_say_whatever_their_shapes() -> None:
    fleet = Fleet(half_life_s=36_000.0)
    for _ in range(10):
        seen(fleet, "a", NOW, times=7)
        seen(fleet, "a", NOW, times=3, result="http_error", http_status=500)
    fleet.health("a").outlook("general", NOW)
    before = predicted(fleet, NOW + 1.0).success_share
    assert before == pytest.approx((70 + 9) / (100 + 10))
    for number in range(14):
        assert predicted(fleet, NOW + 2.0 + number).success_share == pytest.approx(before, abs=0.03)
        fleet.start("a")
        fleet.observe(Outcome("a", "support", "ok", 1.0, 0.2, 0.02, 50), NOW + 2.0)
    seen(fleet, "a", NOW + 30.0, times=1)
    assert predicted(fleet, NOW + 30.0).success_share > 0.98


def test_each_shape_has_a_hedge_budget_of_its_own() -> None:
    fleet = Fleet()
    fleet.hedge_budget("general").deposit(1.0)
    assert not fleet.hedge_budget("support").withdraw()
    assert fleet.hedge_budget("general").withdraw()
