"""Why a target may not serve a call, where what its engine says or how it does just now decides."""

from __future__ import annotations

import pytest

from router.catalog import Catalog, Target
from router.decide import decide
from router.eligibility import inability, unwell
from router.fleet import EngineState, Fleet
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0
ENGINE = Target("engine", "engine", "m")


@pytest.mark.parametrize(("input_tokens", "fits"), [(2_048, True), (2_049, False)])
def test_an_engine_tells_its_context_where_the_configuration_does_not(input_tokens: int, fits: bool) -> None:
    fleet = Fleet()
    fleet.set_engine("engine", EngineState(0, 0, 8, max_context_tokens=2_048), NOW)
    refused = inability(query(input_tokens=input_tokens), ENGINE, fleet.health("engine"))
    assert (refused is None) is fits


def test_a_draining_engine_gets_nothing_more() -> None:
    fleet = Fleet()
    fleet.set_engine("engine", EngineState(0, 0, 8, draining=True), NOW)
    assert unwell(fleet.health("engine"), NOW) == "draining"


def test_an_engine_is_missed_a_second_after_it_fell_silent_however_often_it_is_asked_since() -> None:
    fleet = Fleet()
    fleet.set_engine("engine", EngineState(0, 0, 8), NOW)
    fleet.set_engine("engine", None, NOW)
    fleet.set_engine("engine", None, NOW + 0.9)
    assert unwell(fleet.health("engine"), NOW + 0.9) is None
    assert "has not answered" in (unwell(fleet.health("engine"), NOW + 1.0) or "")
    fleet.set_engine("engine", EngineState(0, 0, 8), NOW + 2.0)
    assert unwell(fleet.health("engine"), NOW + 2.0) is None


@pytest.mark.parametrize("result", ["client_gone", "busy", "hedge_lost"])
def test_what_is_no_fault_of_the_target_neither_sheds_nor_heals_it(result: str) -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, times=20, result=result)  # type: ignore[arg-type]
    assert unwell(fleet.health("a"), NOW) is None
    seen(fleet, "a", NOW, times=3, result="connect_error")
    seen(fleet, "a", NOW, times=1, result=result)  # type: ignore[arg-type]
    assert "shedding" in (unwell(fleet.health("a"), NOW) or "")


def test_a_target_that_is_no_more_is_refused_by_name() -> None:
    rules = policy(candidates=("gone", "a"), fallback=("went",))
    decision = decide(query(), catalog("a"), rules, Fleet(), NOW, 0.5)
    assert [candidate.target for candidate in decision.candidates] == ["a"]
    assert {refused.target: refused.reason for refused in decision.rejections} == {
        "gone": "no such target any more",
        "went": "no such target any more",
    }


def test_a_resting_candidate_is_called_up_before_a_resting_fallback() -> None:
    fleet, rules = Fleet(), policy(candidates=("a",), fallback=("b",))
    for name in ("b", "a"):
        seen(fleet, name, NOW, times=3, result="connect_error")
    decision = decide(query(), catalog("a", "b"), rules, fleet, NOW, 0.5)
    assert [candidate.target for candidate in decision.candidates] == ["a"]


def test_a_resting_fallback_is_called_up_where_no_candidate_can_serve() -> None:
    fleet, rules = Fleet(), policy(candidates=("a",), fallback=("b",))
    seen(fleet, "b", NOW, times=3, result="connect_error")
    known = Catalog({"a": Target("a", "openai", "m", disabled_reason="no key"), **catalog("b").targets})
    decision = decide(query(), known, rules, fleet, NOW, 0.5)
    assert [(candidate.target, candidate.role) for candidate in decision.candidates] == [("b", "fallback")]
