"""When a second target is tried beside the first: as the policy says, else at the first one's p95 once it is known."""

from __future__ import annotations

import pytest

from router.decide import decide
from router.fleet import Fleet
from router.policy import Hedge
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0


def hedge_after_s(fleet: Fleet, hedge: Hedge | None, **asked: object) -> float | None:
    rules = policy(hedge=hedge, candidates=("a",), fallback=("b",))
    return decide(query(**asked), catalog("a", "b"), rules, fleet, NOW, 0.5).hedge_after_s


def learnt(times: int) -> Fleet:
    fleet = Fleet(half_life_s=3600.0)
    seen(fleet, "a", NOW, times=times, ttft_s=0.2, tpot_s=0.02, output_tokens=40, total_s=1.0)
    return fleet


def test_without_a_hedge_in_the_policy_there_is_none() -> None:
    assert hedge_after_s(learnt(50), None) is None


def test_the_policys_own_wait_counts_whatever_is_known() -> None:
    assert hedge_after_s(learnt(0), Hedge(after_s=0.7)) == 0.7
    assert hedge_after_s(learnt(50), Hedge(after_s=0.7)) == 0.7


def test_a_tail_guessed_from_few_calls_hedges_nothing() -> None:
    assert hedge_after_s(learnt(10), Hedge()) is None


def test_a_stream_waits_for_its_first_token_and_a_whole_answer_for_its_end() -> None:
    assert hedge_after_s(learnt(50), Hedge()) == pytest.approx(0.2, rel=0.1)
    assert hedge_after_s(learnt(50), Hedge(), stream=False) == pytest.approx(1.0, rel=0.1)


def test_whole_answers_are_evidence_enough_for_whole_answers() -> None:
    fleet = Fleet(half_life_s=3600.0)
    seen(fleet, "a", NOW, times=50, ttft_s=None, tpot_s=None, total_s=1.0)
    assert hedge_after_s(fleet, Hedge(), stream=False) == pytest.approx(1.0, rel=0.1)


def test_nobody_to_ask_is_nobody_to_hedge() -> None:
    rules = policy(hedge=Hedge(after_s=0.7), candidates=("gone",))
    assert decide(query(), catalog("a"), rules, Fleet(), NOW, 0.5).hedge_after_s is None
