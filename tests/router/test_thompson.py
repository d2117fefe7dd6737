"""Thompson sampling of completion: who may be the cheapest is tried as often as that is so, who cannot be never."""

from __future__ import annotations

from dataclasses import replace

import pytest

from router.decide import decide
from router.decision import Candidate, Decision, Prediction
from router.fleet import Fleet
from router.policy import Policy, ShapePolicy
from router.thompson import DRAW_BITS, completion, read, sample
from tests.router.calls import catalog, query, seen

NOW = 1_000.0
DRAWS = [(step + 0.5) / 2000 for step in range(2000)]
FIGURES = Prediction(
    ttft_s=1.0,
    tpot_s=0.01,
    completion_s=2.0,
    completion_p95_s=4.0,
    cost_usd=0.01,
    success_share=0.95,
    in_flight=0,
    crowding=1.0,
    weight=10.0,
)


def candidate(name: str, cost_usd: float, share: float, weight: float, misses: int = 0) -> Candidate:
    figures = replace(FIGURES, cost_usd=cost_usd, success_share=share, weight=weight)
    return Candidate(name, "candidate", cost_usd / share, figures, ("limit",) * misses)


def tried(*ranked: Candidate) -> dict[str, int]:
    firsts = [sample(list(ranked), draw)[0][0].target for draw in DRAWS]
    return {it.target: firsts.count(it.target) for it in ranked}


@pytest.mark.parametrize(("share", "weight"), [(0.9, 0.0), (0.92, 10.0), (0.6, 50.0), (0.99, 500.0)])
def test_drawn_probabilities_are_spread_as_the_beta_is(share: float, weight: float) -> None:
    belief = read(candidate("a", 1.0, share, weight))
    drawn = [completion(belief, int(draw * 2**DRAW_BITS)) for draw in DRAWS]
    a = weight + 9.0
    calls = a / share
    mean = sum(drawn) / len(drawn)
    deviation = (sum((it - mean) ** 2 for it in drawn) / len(drawn)) ** 0.5
    assert mean == pytest.approx(share, abs=0.02)
    assert deviation == pytest.approx((share * (1 - share) / (calls + 1)) ** 0.5, rel=0.5)
    assert all(0.0 < it < 1.0 for it in drawn)


def test_a_target_that_would_be_dearer_even_if_it_never_failed_is_never_tried() -> None:
    assert tried(candidate("a", 1.0, 0.95, 50.0), candidate("b", 3.0, 0.9, 0.0))["b"] == 0


def test_a_cheaper_one_that_failed_is_tried_the_oftener_the_less_is_known_of_it() -> None:
    best = candidate("a", 1.0, 0.98, 100.0)
    little = tried(best, candidate("b", 0.8, 0.7, 2.0))["b"]
    much = tried(best, candidate("b", 0.8, 0.7, 200.0))["b"]
    assert 0 < little < len(DRAWS) / 2
    assert much < little / 10


def test_equal_ones_share_the_calls() -> None:
    shares = tried(*(candidate(name, 1.0, 0.9, 20.0) for name in "abc"))
    assert all(500 < calls < 850 for calls in shares.values())


def test_one_that_misses_more_limits_is_not_tried() -> None:
    assert tried(candidate("a", 1.0, 0.9, 20.0), candidate("b", 0.5, 0.9, 20.0, misses=1))["b"] == 0


def test_the_one_tried_says_so_and_the_others_keep_their_order() -> None:
    ranked = [candidate(name, 1.0, 0.9, 20.0) for name in "abc"]
    orders = {tuple((it.target, it.role) for it in sample(ranked, draw)[0]) for draw in DRAWS}
    assert orders == {
        (("a", "candidate"), ("b", "candidate"), ("c", "candidate")),
        (("b", "explore"), ("a", "candidate"), ("c", "candidate")),
        (("c", "explore"), ("a", "candidate"), ("b", "candidate")),
    }
    assert sample(ranked[:1], 0.5) == (ranked[:1], False)
    assert sample([], 0.5) == ([], False)


def test_what_has_no_prediction_is_taken_at_its_score() -> None:
    plain = [Candidate("a", "candidate", 2.0, None), Candidate("b", "candidate", None, None)]
    assert sample(plain, 0.5)[0][0].target == "b"


def known(explore: float) -> tuple[Fleet, Policy]:
    """Of two targets the dear one is hardly known, which would draw a tenth of the calls under other objectives."""
    fleet = Fleet()
    seen(fleet, "a", NOW, times=40, cost_usd=0.001)
    seen(fleet, "b", NOW, times=1, cost_usd=0.010)
    rules = ShapePolicy(objective="cost_per_completed_task")
    return fleet, Policy("p1", {}, rules, explore=explore)


def decided(fleet: Fleet, rules: Policy, draw: float) -> Decision:
    return decide(query(), catalog("a", "b"), rules, fleet, NOW, draw)


def test_decisions_by_cost_are_sampled_and_do_not_pay_for_dear_targets() -> None:
    fleet, rules = known(explore=0.02)
    assert not any(decided(fleet, rules, draw).explored for draw in DRAWS[::10])
    seen(fleet, "c", NOW, cost_usd=0.0009)
    seen(fleet, "c", NOW, times=2, result="bad_response")
    fleet.health("c").breaker.succeed(NOW)
    decisions = [decide(query(), catalog("a", "c"), rules, fleet, NOW, draw) for draw in DRAWS[::10]]
    assert {it.candidates[0].target for it in decisions} == {"a", "c"}
    assert all(it.explored == (it.candidates[0].role == "explore") for it in decisions)


def test_without_exploration_the_expected_cost_decides() -> None:
    fleet, rules = known(explore=0.0)
    seen(fleet, "c", NOW, cost_usd=0.0009)
    seen(fleet, "c", NOW, times=2, result="bad_response")
    fleet.health("c").breaker.succeed(NOW)
    for draw in DRAWS[::100]:
        assert decide(query(), catalog("a", "c"), rules, fleet, NOW, draw).candidates[0].target == "a"
