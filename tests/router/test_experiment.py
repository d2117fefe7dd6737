"""Weighted candidates: exact shares, whole tasks, and what becomes of a share whose target cannot serve."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.decide import decide
from router.decision import Candidate, Decision
from router.experiment import hashed, split
from router.fleet import Fleet
from router.policy import Policy
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0
DRAWS = [step / 1000 for step in range(1000)]


def known() -> Fleet:
    """Of three targets a is the quickest by far and c the slowest."""
    fleet = Fleet()
    for name, ttft_s in (("a", 0.1), ("b", 0.5), ("c", 5.0)):
        seen(fleet, name, NOW, times=20, ttft_s=ttft_s)
    return fleet


def decided(fleet: Fleet, rules: Policy, draw: float, **asked: object) -> Decision:
    return decide(query(**asked), catalog("a", "b", "c"), rules, fleet, NOW, draw)


def firsts(fleet: Fleet, rules: Policy, **asked: object) -> Counter[str]:
    return Counter(decided(fleet, rules, draw, **asked).candidates[0].target for draw in DRAWS)


def test_a_weighted_candidate_gets_its_share_whatever_its_score_and_no_more() -> None:
    fleet = known()
    assert firsts(fleet, policy(weights=(("c", 0.1),))) == {"c": 100, "a": 900}
    assert firsts(fleet, policy(weights=(("a", 0.25), ("c", 0.125)))) == {"a": 250, "c": 125, "b": 625}
    assert firsts(fleet, policy(weights=(("a", 0.25), ("b", 0.25), ("c", 0.5)))) == {
        "a": 250,
        "b": 250,
        "c": 500,
    }


def test_the_rest_is_explored_as_ever_and_never_with_a_weighted_one() -> None:
    rules = replace(policy(weights=(("c", 0.5),)), explore=0.02)
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=0.2)
    assert firsts(fleet, rules) == {"c": 500, "a": 450, "b": 50}


def test_weighted_candidates_not_drawn_stand_by_behind_the_others() -> None:
    decision = decided(known(), policy(weights=(("a", 0.1),)), 0.9)
    assert [(it.target, it.role) for it in decision.candidates] == [
        ("b", "candidate"),
        ("c", "candidate"),
        ("a", "candidate"),
    ]
    drawn = decided(known(), policy(weights=(("c", 0.1),)), 0.05)
    assert [it.target for it in drawn.candidates] == ["c", "a", "b"]
    assert (drawn.candidates[0].role, drawn.explored) == ("weighted", False)
    assert drawn.reason == "c is drawn by its weight"


def test_a_drawn_target_that_cannot_serve_leaves_its_share_to_the_rest() -> None:
    fleet = known()
    seen(fleet, "c", NOW, times=3, result="connect_error")
    assert firsts(fleet, policy(weights=(("c", 0.3),))) == {"a": 1000}


def test_where_all_others_rest_the_weighted_ones_share_all_calls_by_score() -> None:
    fleet = known()
    seen(fleet, "b", NOW, times=3, result="connect_error")
    assert firsts(fleet, policy(weights=(("a", 0.1), ("c", 0.1)))) == {"a": 900, "c": 100}


def test_all_calls_of_a_task_fall_to_the_same_arm() -> None:
    fleet, rules = known(), policy(weights=(("c", 0.3),))
    tasks = [f"task-{number}" for number in range(1000)]
    arms = {task: set(firsts_of(fleet, rules, task)) for task in tasks}
    assert all(len(arm) == 1 for arm in arms.values())
    assert 250 < sum("c" in arm for arm in arms.values()) < 350


def firsts_of(fleet: Fleet, rules: Policy, task: str) -> list[str]:
    return [decided(fleet, rules, draw, task_id=task).candidates[0].target for draw in (0.0, 0.5, 0.99)]


def test_a_pinned_model_is_no_part_of_an_experiment() -> None:
    assert firsts(known(), policy(weights=(("c", 0.5),)), model="a") == {"a": 1000}


tenths = st.lists(st.integers(0, 5), max_size=4).filter(lambda some: sum(some) <= 10)


@given(tenths, st.floats(0, 1, exclude_max=True), st.none() | st.text())
def test_nobody_is_lost_and_the_draw_stays_in_its_range(
    parts: list[int], draw: float, task: str | None
) -> None:
    ranked = [Candidate(name, "candidate", 1.0, None) for name in "cdab"]
    weights = tuple(zip("abcd", (part / 10 for part in parts), strict=False))
    arms = split(ranked, weights, draw, task)
    parted = [*([arms.drawn] if arms.drawn else []), *arms.rest, *arms.spare]
    assert sorted(it.target for it in parted) == list("abcd")
    assert 0.0 <= arms.draw < 1.0
    assert arms.drawn is not None or arms.rest


@pytest.mark.parametrize("task", ["", "t", "task-1", "ü" * 300, "\ud800"])
def test_a_task_is_hashed_to_a_draw(task: str) -> None:
    assert 0.0 <= hashed(task) < 1.0
