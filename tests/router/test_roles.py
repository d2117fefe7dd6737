"""Draft and final steps of a task: each role has candidates of its own where the policy names some."""

from __future__ import annotations

import pytest

from router.decide import decide
from router.decision import Decision
from router.fleet import Fleet
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0
ROLES = {"draft": ("a", "b"), "final": ()}


def decided(fleet: Fleet | None = None, **asked: object) -> Decision:
    rules = policy(candidates=("b", "c"), roles=ROLES, fallback=("c",))
    return decide(query(**asked), catalog("a", "b", "c"), rules, fleet or Fleet(), NOW, 0.999)


def test_a_draft_goes_to_the_draft_list_and_then_to_the_fallback() -> None:
    decision = decided(role="draft")
    assert {it.target for it in decision.candidates if it.role == "candidate"} == {"a", "b"}
    assert [it.target for it in decision.candidates if it.role == "fallback"] == ["c"]
    assert decision.role == "draft"
    assert decision.as_json()["role"] == "draft"


@pytest.mark.parametrize("role", [None, "final"])
def test_a_role_without_a_list_changes_nothing(role: str | None) -> None:
    decision = decided(role=role)
    assert {it.target for it in decision.candidates} == {"b", "c"}
    assert decision.role is None


def test_a_pinned_model_goes_where_it_says_whatever_the_role() -> None:
    assert [it.target for it in decided(role="draft", model="c").candidates] == ["c"]


def test_the_fallback_serves_where_the_whole_list_rests() -> None:
    fleet = Fleet()
    for name in ("a", "b"):
        seen(fleet, name, NOW, times=3, result="connect_error")
    assert [it.target for it in decided(fleet, role="draft").candidates] == ["c"]
