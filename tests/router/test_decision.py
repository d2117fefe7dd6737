"""Who stands where in a decision, in the cases that few calls meet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from router.catalog import Catalog, Target
from router.decide import decide
from router.decision import Candidate, Decision
from router.explore import explore
from router.fleet import Fleet
from router.policy import Policy, Rule, Slo
from router.query import Query
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0


def names(decision: Decision) -> list[str]:
    return [candidate.target for candidate in decision.candidates]


def test_of_targets_that_all_rest_the_one_whose_rest_ends_first_is_called_up() -> None:
    fleet = Fleet()
    for name, retry_after_s in (("a", 30.0), ("b", 5.0), ("c", 50.0)):
        seen(fleet, name, NOW, times=1, result="http_error", http_status=429, retry_after_s=retry_after_s)
    decision = decide(query(), catalog("a", "b", "c"), policy(), fleet, NOW, 0.5)
    assert names(decision) == ["b"]
    assert {rejection.target for rejection in decision.rejections} == {"a", "c"}


def test_a_candidate_that_is_also_a_fallback_is_tried_once() -> None:
    rules = policy(candidates=("a", "b"), fallback=("b", "c"))
    decision = decide(query(), catalog("a", "b", "c"), rules, Fleet(), NOW, 0.5)
    assert sorted(names(decision)) == ["a", "b", "c"]
    assert decision.candidates[-1].role == "fallback"


def test_a_model_name_that_pins_targets_takes_part_in_no_experiment() -> None:
    known = Catalog(catalog("a", "b").targets, models={"pair": ("a", "b")})
    rules = policy(weights=(("b", 1.0),))
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=0.1)
    seen(fleet, "b", NOW, ttft_s=5.0, total_s=6.0)
    assert names(decide(query(), known, rules, fleet, NOW, 0.5)) == ["b", "a"]
    assert names(decide(query(model="pair"), known, rules, fleet, NOW, 0.5)) == ["a", "b"]


def test_the_arms_that_were_not_drawn_are_tried_last() -> None:
    rules = policy(weights=(("a", 0.4), ("b", 0.4)))
    decision = decide(query(), catalog("a", "b", "c"), rules, Fleet(), NOW, 0.1)
    assert [(one.target, one.role) for one in decision.candidates] == [
        ("a", "weighted"),
        ("c", "candidate"),
        ("b", "candidate"),
    ]


def test_an_unknown_cost_counts_as_the_median_of_those_known() -> None:
    prices = {"unknown": None, "dear": 9.0, "usual": 5.0, "cheap": 1.0}
    known = Catalog(
        {
            name: Target(name, "openai", "m", input_usd_per_mtok=usd, output_usd_per_mtok=usd)
            for name, usd in prices.items()
        }
    )
    rules = policy(objective="cost_per_completed_task")
    ranked = names(decide(query(), known, rules, Fleet(), NOW, 0.5))
    assert ranked[0] == "cheap"
    assert ranked[-1] == "dear"


def test_the_first_rule_that_fits_sets_the_shape() -> None:
    rules = (
        Rule((("caller", "batch"),), "summarization"),
        Rule((("caller", "web"),), "support"),
        Rule((("caller", "*"),), "reasoning"),
    )
    chosen = Policy("p1", {}, rules=rules)
    decision = decide(
        Query("/v1/chat/completions", "auto", caller="web"), catalog("a"), chosen, Fleet(), NOW, 0.5
    )
    assert (decision.shape, decision.shape_source) == ("support", "rule")


def test_one_of_which_nothing_is_known_may_be_anything() -> None:
    known, unknown = Candidate("a", "candidate", 0.1, None), Candidate("b", "candidate", None, None)
    ordered, explored = explore([known, unknown], share=0.02, draw=0.05)
    assert explored
    assert ordered == [replace(unknown, role="explore"), known]


def test_what_is_written_of_a_candidate_is_written_once() -> None:
    candidate, written = Candidate("a", "candidate", 0.1, None), []

    def write(one: Candidate) -> str:
        written.append(one)
        return one.target.upper()

    assert [candidate.written(write), candidate.written(write)] == ["A", "A"]
    assert written == [candidate]


PRICED = Catalog({"a": Target("a", "openai", "m", input_usd_per_mtok=1.0, output_usd_per_mtok=2.0)})
DEARER = Catalog({"a": replace(PRICED.targets["a"], output_usd_per_mtok=4.0)})


PLAIN = policy()


@pytest.mark.parametrize(
    ("asked", "known", "rules"),
    [
        ({"stream": False}, PRICED, PLAIN),
        ({"max_output_tokens": 7}, PRICED, PLAIN),
        ({"input_tokens": 9_000}, PRICED, PLAIN),
        ({}, DEARER, PLAIN),
        ({}, PRICED, policy(slo=Slo(ttft_p95_s=0.01))),
        ({}, PRICED, policy(objective="speed")),
    ],
)
def test_a_candidate_is_weighed_anew_for_another_call(
    asked: dict[str, Any], known: Catalog, rules: Policy
) -> None:
    served, fresh = Fleet(), Fleet()
    for fleet in (served, fresh):
        seen(fleet, "a", NOW)
    before = decide(query(declared_shape="general"), PRICED, PLAIN, served, NOW, 0.5)
    call = query(declared_shape="general", **asked)
    after = decide(call, known, rules, served, NOW, 0.5)
    assert after.candidates == decide(call, known, rules, fresh, NOW, 0.5).candidates
    assert after.candidates != before.candidates


def test_a_candidate_is_weighed_anew_once_more_is_known() -> None:
    fleet, call = Fleet(), query(max_output_tokens=20)
    seen(fleet, "a", NOW)
    before = decide(call, PRICED, PLAIN, fleet, NOW, 0.5)
    seen(fleet, "a", NOW + 1.0, ttft_s=3.0, total_s=4.0)
    after = decide(call, PRICED, PLAIN, fleet, NOW + 1.0, 0.5)
    assert (after.candidates[0].score or 0.0) > (before.candidates[0].score or 0.0)


def test_a_target_whose_answers_are_all_cut_is_the_last_and_not_impossible() -> None:
    fleet = Fleet(half_life_s=3600.0)
    seen(fleet, "a", NOW, times=40, is_truncated=True)
    seen(fleet, "b", NOW, times=40, tpot_s=0.05)
    decision = decide(query(), catalog("a", "b"), policy(objective="speed"), fleet, NOW, 0.5)
    assert names(decision) == ["b", "a"]
