"""A fallback relieves candidates whose load would break the SLO, and those only."""

from __future__ import annotations

from router.decide import decide
from router.decision import Decision
from router.fleet import Fleet
from router.policy import Slo
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0
SLO = Slo(ttft_p95_s=1.0)


def fleet_with(a_s: float, in_flight: int, b_s: float = 0.5) -> Fleet:
    fleet = Fleet()
    seen(fleet, "a", NOW, times=20, ttft_s=a_s)
    seen(fleet, "b", NOW, times=20, ttft_s=b_s)
    for _ in range(in_flight):
        fleet.start("a")
    return fleet


def decided(fleet: Fleet, slo: Slo = SLO, **asked: object) -> Decision:
    rules = policy(objective="ttft", candidates=("a",), fallback=("c", "b"), slo=slo)
    return decide(query(**asked), catalog("a", "b", "c"), rules, fleet, NOW, 0.999)


def roles(decision: Decision) -> list[tuple[str, str]]:
    return [(it.target, it.role) for it in decision.candidates]


AS_WRITTEN = [("a", "candidate"), ("c", "fallback"), ("b", "fallback")]


def test_a_target_with_room_keeps_its_calls() -> None:
    assert roles(decided(fleet_with(0.4, 1))) == AS_WRITTEN


def test_one_whose_queue_would_break_the_slo_is_relieved_in_the_policys_order() -> None:
    decision = decided(fleet_with(0.4, 12))
    assert roles(decision) == [("c", "fallback"), ("b", "fallback"), ("a", "candidate")]
    assert decision.reason.startswith("under its load a would miss the SLO (ttft_p95_s")
    assert decision.reason.endswith("; c relieves it")


def test_a_fallback_that_would_miss_the_slo_too_relieves_nobody() -> None:
    assert roles(decided(fleet_with(0.4, 12, b_s=3.0))) == [
        ("c", "fallback"),
        ("a", "candidate"),
        ("b", "fallback"),
    ]


def test_a_limit_that_the_target_misses_idle_is_no_reason_to_shed() -> None:
    assert roles(decided(fleet_with(2.0, 9))) == AS_WRITTEN
    assert roles(decided(fleet_with(2.0, 0))) == AS_WRITTEN


def test_without_a_limit_nothing_is_shed() -> None:
    assert roles(decided(fleet_with(0.4, 50), Slo())) == AS_WRITTEN


def test_a_callers_own_limit_sheds_its_calls_only() -> None:
    fleet = fleet_with(0.4, 4)
    assert roles(decided(fleet, slo_ttft_s=0.5))[0] == ("c", "fallback")
    assert roles(decided(fleet)) == AS_WRITTEN
