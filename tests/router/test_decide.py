from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog import Catalog, Target
from router.decide import UnknownModel, decide
from router.explore import COLD_SHARE
from router.fleet import EngineState, Fleet
from router.policy import Policy, ShapePolicy, Slo
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0
NEVER_EXPLORE = 0.999


def order_of(decision_candidates: tuple[object, ...]) -> list[str]:
    return [candidate.target for candidate in decision_candidates]  # type: ignore[attr-defined]


def choose(fleet: Fleet, rules: Policy, known: Catalog | None = None, **asked: object) -> list[str]:
    decision = decide(query(**asked), known or catalog("a", "b"), rules, fleet, NOW, NEVER_EXPLORE)
    return order_of(decision.candidates)


def test_ttft_prefers_the_sooner_first_token_and_speed_the_faster_pace() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=0.2, tpot_s=0.05)
    seen(fleet, "b", NOW, ttft_s=0.8, tpot_s=0.01)
    assert choose(fleet, policy(objective="ttft")) == ["a", "b"]
    assert choose(fleet, policy(objective="speed")) == ["b", "a"]


def test_ttft_is_never_divided_by_tokens() -> None:
    """Long answers must not make a slow start look quick."""
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=1.0, output_tokens=10)
    seen(fleet, "b", NOW, ttft_s=3.0, output_tokens=5_000)
    assert choose(fleet, policy(objective="ttft")) == ["a", "b"]


def test_completion_p95_looks_at_the_tail() -> None:
    fleet = Fleet(half_life_s=3600.0)
    seen(fleet, "a", NOW, times=40, total_s=1.0)
    seen(fleet, "a", NOW, times=5, total_s=30.0)
    seen(fleet, "b", NOW, times=45, total_s=3.0)
    assert choose(fleet, policy(objective="completion_p95")) == ["b", "a"]


def test_cost_per_completed_task_charges_for_failures() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, times=10, cost_usd=0.0010)
    seen(fleet, "b", NOW, times=10, cost_usd=0.0009)
    rules = policy(objective="cost_per_completed_task")
    assert choose(fleet, rules) == ["b", "a"]
    seen(fleet, "b", NOW, times=3, result="bad_response")
    fleet.health("b").breaker.succeed(NOW)
    assert choose(fleet, rules) == ["a", "b"]


def test_timeouts_count_as_waits_of_at_least_that_long() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=0.2)
    seen(fleet, "b", NOW, ttft_s=0.5)
    seen(fleet, "a", NOW, times=2, result="timeout_first_token", total_s=10.0)
    assert choose(fleet, policy(objective="ttft")) == ["b", "a"]


def test_load_in_flight_raises_the_prediction() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=0.2)
    seen(fleet, "b", NOW, ttft_s=0.3)
    for _ in range(10):
        fleet.start("a")
    assert choose(fleet, policy(objective="ttft")) == ["b", "a"]


def test_a_full_engine_queue_raises_the_prediction_whoever_filled_it() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=0.2)
    seen(fleet, "b", NOW, ttft_s=0.3)
    fleet.set_engine("a", EngineState(running=8, waiting=40, max_batch=8), NOW)
    assert choose(fleet, policy(objective="ttft")) == ["b", "a"]


def test_an_slo_miss_comes_after_those_that_meet_it_but_is_not_excluded() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=2.0, tpot_s=0.01)
    seen(fleet, "b", NOW, ttft_s=0.5, tpot_s=0.03)
    rules = policy(objective="speed", slo=Slo(ttft_p95_s=1.5))
    decision = decide(query(), catalog("a", "b"), rules, fleet, NOW, NEVER_EXPLORE)
    assert order_of(decision.candidates) == ["b", "a"]
    assert decision.candidates[1].slo_misses[0].startswith("ttft_p95_s")
    assert "meets the SLO" in decision.reason


def test_a_callers_hint_tightens_but_never_loosens() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=1.0, tpot_s=0.01)
    seen(fleet, "b", NOW, ttft_s=0.3, tpot_s=0.03)
    rules = policy(objective="speed", slo=Slo(ttft_p95_s=1.5))
    assert choose(fleet, rules) == ["a", "b"]
    assert choose(fleet, rules, slo_ttft_s=0.5) == ["b", "a"]
    strict = policy(objective="speed", slo=Slo(ttft_p95_s=0.5))
    assert choose(fleet, strict, slo_ttft_s=60.0) == ["b", "a"]


def test_answers_cut_for_length_count_against_a_target() -> None:
    fleet = Fleet(half_life_s=3600.0)
    seen(fleet, "a", NOW, times=40, tpot_s=0.01)
    seen(fleet, "b", NOW, times=40, tpot_s=0.03)
    rules = policy(objective="speed", slo=Slo(truncation_rate=0.01))
    assert choose(fleet, rules) == ["a", "b"]
    seen(fleet, "a", NOW, times=2, is_truncated=True)
    assert choose(fleet, rules) == ["b", "a"]


def test_timeouts_beyond_the_slo_count_against_a_target() -> None:
    fleet = Fleet(half_life_s=3600.0)
    seen(fleet, "a", NOW, times=100, ttft_s=0.1)
    seen(fleet, "b", NOW, times=100, ttft_s=0.5)
    seen(fleet, "a", NOW, result="timeout_idle", times=1)
    assert choose(fleet, policy(objective="ttft")) == ["a", "b"]
    assert choose(fleet, policy(objective="ttft", slo=Slo(timeout_rate=0.005))) == ["b", "a"]


def test_a_call_that_does_not_stream_is_judged_by_its_end() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=0.1, tpot_s=0.5)
    seen(fleet, "b", NOW, ttft_s=0.9, tpot_s=0.01)
    rules = policy(objective="ttft")
    assert choose(fleet, rules) == ["a", "b"]
    assert choose(fleet, rules, stream=False) == ["b", "a"]


@pytest.mark.parametrize(
    ("given", "asked", "words"),
    [
        ({"disabled_reason": "the environment variable K is not set"}, {}, "disabled"),
        ({"context_tokens": 40}, {"input_tokens": 50}, "do not fit its context"),
        ({"has_tools": False}, {"has_tools": True}, "cannot do tools"),
        ({"has_images": False}, {"has_images": True}, "cannot do images"),
        ({"has_json": False}, {"wants_json": True}, "cannot do JSON"),
        ({"endpoints": frozenset()}, {}, "does not serve"),
    ],
)
def test_hard_limits_exclude_and_say_why(
    given: dict[str, object], asked: dict[str, object], words: str
) -> None:
    targets = catalog("a", "b").targets
    known = Catalog({**targets, "a": replace(targets["a"], **given)})  # type: ignore[arg-type]
    decision = decide(query(**asked), known, policy(), Fleet(), NOW, NEVER_EXPLORE)
    assert order_of(decision.candidates) == ["b"]
    assert decision.rejections[0].target == "a"
    assert words in decision.rejections[0].reason


def test_a_shedding_target_rests_unless_nobody_else_can_serve() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, times=3, result="connect_error")
    assert choose(fleet, policy()) == ["b"]
    assert choose(fleet, policy(), catalog("a")) == ["a"]
    assert choose(fleet, policy(candidates=("a",), fallback=("b",))) == ["b"]


def test_a_probing_target_gets_one_call_at_a_time() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW - 10, times=3, result="connect_error")
    assert set(choose(fleet, policy())) == {"a", "b"}
    fleet.start("a")
    assert choose(fleet, policy()) == ["b"]


def test_an_engine_that_is_gone_is_not_asked() -> None:
    fleet = Fleet()
    fleet.set_engine("a", None, NOW - 5)
    decision = decide(query(), catalog("a", "b"), policy(), fleet, NOW, NEVER_EXPLORE)
    assert order_of(decision.candidates) == ["b"]
    assert "has not answered" in decision.rejections[0].reason


def test_fallbacks_follow_the_candidates_in_the_policys_order() -> None:
    rules = policy(candidates=("a",), fallback=("c", "b"))
    decision = decide(query(), catalog("a", "b", "c"), rules, Fleet(), NOW, NEVER_EXPLORE)
    assert [(c.target, c.role) for c in decision.candidates] == [
        ("a", "candidate"),
        ("c", "fallback"),
        ("b", "fallback"),
    ]


def test_a_pinned_name_goes_there_and_nowhere_else() -> None:
    rules = policy(fallback=("b",))
    decision = decide(query(model="a"), catalog("a", "b"), rules, Fleet(), NOW, 0.0)
    assert order_of(decision.candidates) == ["a"]
    assert "pins" in decision.reason


def test_a_names_own_fallbacks_stand_in_for_its_targets_and_for_no_others() -> None:
    known = catalog("a", "b", "c", models={"m": ("a",)}, fallbacks={"m": ("c", "a")})
    rules = policy(candidates=("b",), fallback=("b",))
    decision = decide(query(model="m"), known, rules, Fleet(), NOW, 0.0)
    assert [(c.target, c.role) for c in decision.candidates] == [("a", "candidate"), ("c", "fallback")]
    free = decide(query(), known, rules, Fleet(), NOW, 0.0)
    assert order_of(free.candidates) == ["b"]
    bound = decide(query(model="m", target="a"), known, rules, Fleet(), NOW, 0.0)
    assert order_of(bound.candidates) == ["a"]


def test_an_unknown_model_is_refused_when_so_configured() -> None:
    with pytest.raises(UnknownModel):
        decide(query(model="nope"), catalog("a", unknown_model="reject"), policy(), Fleet(), NOW, 0.5)


def test_nobody_can_serve_is_a_value_with_reasons() -> None:
    known = Catalog({"a": Target("a", "openai", "m", disabled_reason="no key")})
    decision = decide(query(), known, policy(), Fleet(), NOW, NEVER_EXPLORE)
    assert decision.candidates == ()
    assert decision.rejections[0].reason == "disabled: no key"


def test_a_cold_target_is_neither_flooded_nor_starved() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, times=20)
    rules = replace(policy(objective="ttft"), explore=0.02)
    draws = [step / 1000 for step in range(1000)]
    firsts = [decide(query(), catalog("a", "b"), rules, fleet, NOW, d).candidates[0].target for d in draws]
    assert firsts.count("b") == COLD_SHARE * 1000


def test_one_that_is_known_to_be_worse_is_not_explored_and_one_that_may_be_well_again_is() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, times=60, ttft_s=0.4)
    seen(fleet, "b", NOW, times=60, ttft_s=5.0)
    seen(fleet, "c", NOW, times=40, ttft_s=0.2)
    seen(fleet, "c", NOW, times=10, ttft_s=5.0)
    rules = replace(policy(objective="ttft"), explore=0.02)
    draws = [step / 1000 for step in range(1000)]
    known = catalog("a", "b", "c")
    firsts = [decide(query(), known, rules, fleet, NOW, draw).candidates[0] for draw in draws]
    assert Counter((it.target, it.role) for it in firsts) == {("a", "candidate"): 980, ("c", "explore"): 20}


@pytest.mark.parametrize(("age_s", "first"), [(60.0, "b"), (3600.0, "a")])
def test_one_not_heard_of_for_long_is_tried_anew(age_s: float, first: str) -> None:
    """Slow ones must not be banished for good."""
    fleet = Fleet()
    seen(fleet, "a", NOW - age_s, ttft_s=9.0)
    seen(fleet, "b", NOW, times=50, ttft_s=1.5)
    rules = replace(policy(objective="ttft"), explore=0.02)
    assert decide(query(), catalog("a", "b"), rules, fleet, NOW, 0.01).candidates[0].target == first


def test_the_decision_is_json_with_its_whole_story() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW)
    value = decide(query(), catalog("a", "b"), policy(), fleet, NOW, 0.25).as_json()
    assert value["policy_hash"] == "p1"
    assert value["draw"] == 0.25
    assert {c["target"] for c in value["candidates"]} == {"a", "b"}
    assert set(value["candidates"][0]["prediction"]) >= {
        "ttft_s",
        "tpot_s",
        "completion_s",
        "cost_usd",
        "weight",
    }
    assert value["reason"]


figures = st.fixed_dictionaries(
    {"ttft_s": st.floats(0.001, 100), "tpot_s": st.floats(1e-4, 1), "total_s": st.floats(0.01, 1000)}
)


@given(
    st.dictionaries(st.sampled_from("abcde"), figures, min_size=1),
    st.sampled_from(["ttft", "speed", "completion_p95", "cost_per_completed_task"]),
    st.floats(0, 1, exclude_max=True),
    st.booleans(),
)
def test_every_target_is_either_a_candidate_or_rejected_and_nothing_twice(
    learnt: dict[str, dict[str, float]], objective: str, draw: float, stream: bool
) -> None:
    fleet = Fleet()
    for name, values in learnt.items():
        seen(fleet, name, NOW, times=3, result="ok", **values)
    rules = Policy("h", {}, ShapePolicy(objective=objective), explore=0.1)  # type: ignore[arg-type]
    known = catalog(*"abcde")
    decision = decide(query(stream=stream), known, rules, fleet, NOW, draw)
    names = order_of(decision.candidates) + [rejection.target for rejection in decision.rejections]
    assert sorted(names) == list("abcde")
    again = decide(query(stream=stream), known, rules, fleet, NOW, draw)
    assert again == decision


def ejected(fleet: Fleet, names: str) -> None:
    for number, name in enumerate(names):
        seen(fleet, name, 100.0 + 0.1 * number, times=3, result="connect_error", total_s=0.1)


@pytest.mark.parametrize(("most", "resting"), [(1.0, "abc"), (0.5, "bc"), (0.3, "c"), (0.01, "c")])
def test_no_more_of_a_fleet_rests_for_failures_than_may(most: float, resting: str) -> None:
    """Those whose pause ends first are called back, and one at least may rest."""
    fleet = Fleet()
    ejected(fleet, "abc")
    rules = replace(policy(), max_ejected=most)
    decision = decide(query(), catalog(*"abcde"), rules, fleet, 100.3, 0.5)
    assert sorted(rejection.target for rejection in decision.rejections) == list(resting)


def test_who_does_not_answer_is_not_called_back() -> None:
    fleet = Fleet()
    ejected(fleet, "ab")
    fleet.set_engine("c", None, 90.0)
    rules = replace(policy(), max_ejected=0.4)
    decision = decide(query(), catalog(*"abcd"), rules, fleet, 100.3, 0.5)
    assert sorted(rejection.target for rejection in decision.rejections) == ["b", "c"]
