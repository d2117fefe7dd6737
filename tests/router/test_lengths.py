"""How long answers are expected to be, by shape and workflow, and what that means for targets with little room."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.catalog import Catalog
from router.decide import decide
from router.fleet import Fleet
from router.lengths import MAX_WORKFLOWS, Length
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0


def of(*tokens: int) -> Length:
    length = Length()
    for each in tokens:
        length.add(each)
    return length


def test_before_any_answer_nothing_is_known() -> None:
    assert of().quantile(0.5) is None
    assert of().share_over(10.0) == 0.0


def test_quantiles_of_a_few_hundred_answers() -> None:
    length = of(*(Random(1).sample(range(1, 101), 100)))
    assert length.mean == pytest.approx(50.5)
    assert length.quantile(0.5) == pytest.approx(50, abs=10)
    assert length.quantile(0.95) == pytest.approx(95, abs=5)
    assert length.share_over(80.0) == pytest.approx(0.2, abs=0.08)
    assert length.share_over(100.0) == 0.0


def test_the_last_hundreds_of_answers_count() -> None:
    length = of(*[20] * 1_000, *[9_000] * 1_000)
    assert length.mean == pytest.approx(9_000, rel=0.01)
    assert length.quantile(0.05) == pytest.approx(9_000, rel=0.02)


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=50))
def test_what_is_long_ago_is_forgotten_whatever_it_was(tokens: list[int]) -> None:
    length = of(*tokens, *[100] * 8_000)
    assert length.longest == pytest.approx(100, rel=0.03)
    assert length.quantile(1.0) == pytest.approx(100, rel=0.02)


def expected(fleet: Fleet, **asked: object) -> int:
    return decide(query(**asked), catalog("a"), policy(), fleet, NOW, 0.5).expected_output_tokens


def test_a_workflow_has_a_length_of_its_own() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, times=50, output_tokens=100)
    seen(fleet, "a", NOW, times=50, output_tokens=1_000, workflow="reports")
    assert expected(fleet, workflow="reports") == pytest.approx(1_000, rel=0.05)
    assert expected(fleet, workflow="unknown") == pytest.approx(expected(fleet), rel=0.05)
    assert 100 < expected(fleet) < 1_000
    assert expected(fleet, workflow="reports", max_output_tokens=50) == 50


def test_no_more_workflows_are_remembered_than_the_most() -> None:
    fleet = Fleet()
    for number in range(MAX_WORKFLOWS + 5):
        seen(fleet, "a", NOW, times=1, workflow=f"w{number}")
    assert len(fleet.lengths_of_workflows) == MAX_WORKFLOWS
    assert fleet.length("general", "w0") is fleet.length("general", None)


@pytest.mark.parametrize("objective", ["speed", "cost_per_completed_task"])
def test_a_target_in_which_long_answers_do_not_fit_is_passed_over(objective: str) -> None:
    fleet = Fleet()
    for name in "ab":
        seen(
            fleet,
            name,
            NOW,
            times=50,
            output_tokens=1_000,
            tpot_s=0.01 if name == "a" else 0.012,
            cost_usd=0.1,
        )
    known = catalog("a", "b").targets
    narrow = Catalog({"a": replace(known["a"], context_tokens=4_000), "b": known["b"]})
    rules = policy(objective=objective)

    def first(input_tokens: int) -> str:
        asked = query(input_tokens=input_tokens)
        return decide(asked, narrow, rules, fleet, NOW, 0.99).candidates[0].target

    assert [first(tokens) for tokens in (100, 3_500, 100)] == ["a", "b", "a"]
