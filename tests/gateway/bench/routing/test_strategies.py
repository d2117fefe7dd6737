"""Strategies do what their papers and packages say, in worlds small enough to see it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from gateway.bench.routing.calls import Call, calls
from gateway.bench.routing.compare import compare
from gateway.bench.routing.scenarios import SCENARIOS, Arrivals, Place
from gateway.bench.routing.simulate import LITELLM, LITELLM_ROUTER, NAMES, ORACLE, OURS, run
from gateway.bench.routing.strategies.base import Strategy
from gateway.bench.routing.strategies.litellm import LowestLatency, Routed, driven
from gateway.bench.routing.strategies.ours import Ours
from gateway.bench.routing.strategies.peak_ewma import PeakEwma
from gateway.bench.routing.strategies.prequal import Prequal
from gateway.bench.routing.strategies.simple import LeastInFlight, RoundRobin
from router.outcome import Outcome
from tests.gateway.bench.routing.worlds import ONE, WELL, scenario

# litellm's own, on import
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "DeprecationWarning")]
CALL = Call(0, 0.0, ONE, 1)
A, B = WELL, replace(WELL, name="b")
SHORT = replace(SCENARIOS["calm"], duration_s=20.0, arrivals=Arrivals(4.0))


def ok(target: str, total_s: float) -> Outcome:
    return Outcome(target, "general", "ok", total_s, ttft_s=total_s, output_tokens=1)


def failed(target: str) -> Outcome:
    return Outcome(target, "general", "http_error", 1.0, http_status=500)


def joined(strategy: Strategy, *places: Place) -> None:
    for place in places:
        strategy.join(place, 0.0)


def end(strategy: Strategy, outcome: Outcome, now: float) -> None:
    strategy.begin(CALL, outcome.target, now - outcome.total_s)
    strategy.observe(CALL, outcome, now)


def first(strategy: Strategy, now: float) -> str:
    return next(strategy.route(CALL, now)).target


def test_round_robin_takes_turns_and_a_retry_goes_elsewhere() -> None:
    strategy = RoundRobin()
    joined(strategy, A, B)
    assert [first(strategy, 0.0) for _ in range(3)] == ["a", "b", "a"]
    route = strategy.route(CALL, 0.0)
    tried = next(route).target
    assert route.send((1.0, failed(tried))).target != tried


def test_the_fewest_in_flight_is_picked() -> None:
    strategy = LeastInFlight(Random(1))
    joined(strategy, A, B)
    strategy.begin(CALL, "a", 0.0)
    assert first(strategy, 0.0) == "b"


def test_peak_ewma_jumps_to_a_peak_and_forgets_it_by_its_time_constant() -> None:
    strategy = PeakEwma(Random(1), 60.0)
    joined(strategy, A, B)
    end(strategy, ok("a", 8.0), 10.0)
    assert strategy.load("a", 10.0) == 8.0
    end(strategy, ok("a", 1.0), 20.0)
    assert strategy.load("a", 20.0) == pytest.approx(8.0 * 0.36788 + 1.0 * 0.63212, rel=1e-4)
    end(strategy, failed("b"), 20.0)
    assert first(strategy, 20.0) == "a"


def test_prequal_takes_the_quickest_of_the_cold() -> None:
    strategy = Prequal(Random(1), 60.0)
    joined(strategy, A, B)
    for at in range(1, 6):
        end(strategy, ok("a", 1.0), float(at))
        end(strategy, ok("b", 2.0), float(at))
    assert first(strategy, 6.0) == "a"
    for _ in range(9):
        strategy.begin(CALL, "a", 6.0)
    assert first(strategy, 6.0) == "b"


def test_ours_is_the_router_with_its_breaker() -> None:
    strategy = Ours(scenario(A, B), Random(1))
    joined(strategy, A, B)
    for at in range(1, 31):
        end(strategy, ok("a", 1.0), float(at))
        end(strategy, ok("b", 4.0), float(at))
    assert [first(strategy, 31.0) for _ in range(40)].count("a") > 35
    for _ in range(3):
        end(strategy, failed("a"), 31.0)
    assert {first(strategy, 31.5) for _ in range(40)} == {"b"}


def test_litellms_handler_is_asked_and_told() -> None:
    """As its code says: what it never saw gets everything, then the lowest mean of ten, whatever else is known."""
    pytest.importorskip("litellm")
    with driven(Random(1)) as clock:
        strategy = LowestLatency(clock)
        joined(strategy, A, B)
        end(strategy, ok("a", 1.0), 1.0)
        assert {first(strategy, 2.0) for _ in range(20)} == {"b"}
        end(strategy, ok("b", 4.0), 5.0)
        for at in range(6, 15):
            end(strategy, failed("a"), float(at))
        assert {first(strategy, 15.0) for _ in range(20)} == {"a"}


def test_litellms_router_cools_down_what_fails_in_virtual_time() -> None:
    pytest.importorskip("litellm")
    with driven(Random(1)) as clock:
        strategy = Routed(clock)
        try:
            joined(strategy, A, B)
            end(strategy, ok("a", 1.0), 1.0)
            end(strategy, ok("b", 4.0), 5.0)
            assert first(strategy, 6.0) == "a"
            for _ in range(9):
                end(strategy, failed("a"), 7.0)
            assert {first(strategy, 7.5) for _ in range(20)} == {"b"}
            assert first(strategy, 7.0 + 5.0 + 0.1) == "a"  # after the default cooldown of 5 s
        finally:
            strategy.close()


def test_ours_and_litellms_router_stay_away_as_long_as_they_were_asked_to() -> None:
    refusal = Outcome("a", "general", "http_error", 0.1, http_status=429, retry_after_s=20.0)
    pytest.importorskip("litellm")
    with driven(Random(1)) as clock:
        routed = Routed(clock)
        try:
            for strategy in (routed, Ours(scenario(A, B), Random(1))):
                joined(strategy, A, B)
                for at in range(1, 10):
                    end(strategy, ok("a", 1.0), float(at))
                    end(strategy, ok("b", 4.0), float(at))
                end(strategy, refusal, 10.0)
                end(strategy, ok("a", 9.0), 15.0)
                assert {first(strategy, 29.0) for _ in range(20)} == {"b"}, strategy.name
                assert "a" in {first(strategy, 31.0) for _ in range(60)}, strategy.name
        finally:
            routed.close()


def test_the_same_seed_is_the_same_run() -> None:
    for name in NAMES:
        if name in (LITELLM, LITELLM_ROUTER):
            pytest.importorskip("litellm")
        once, again = run(SHORT, name, 3), run(SHORT, name, 3)
        assert [each.records for each in once] == [each.records for each in again], name
        assert len(once[0].records) == len(calls(SHORT, 3)), name


def test_seeds_differ() -> None:
    assert calls(SHORT, 1) != calls(SHORT, 2)


@pytest.mark.parametrize("name", ["calm", "slowdown", "failures", "prices"])
def test_the_oracle_is_not_beaten_by_what_knows_less(name: str) -> None:
    world = replace(SCENARIOS[name], duration_s=100.0)
    sooner = tuple(replace(each, begins_s=40.0, ends_s=70.0) for each in world.incidents)
    for seed in (1, 2):
        found = compare(
            replace(world, incidents=sooner), ["random", "least in flight", "prequal", OURS], seed
        ).runs
        assert min(found, key=lambda each: each.score).strategy == ORACLE, f"seed {seed}"
