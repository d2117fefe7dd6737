"""What is expected of an engine that tells its own pace: a step at the next batch size ÷ the tokens it yields."""

from __future__ import annotations

import pytest

from router.catalog import Target
from router.fleet import EngineState, Fleet
from router.predict import predict
from router.waits import COLD_TPOT_S
from tests.router.calls import query, seen

NOW = 1_000.0
ENGINE = Target("engine", "engine", "m")
STEPS_PER_S = {1: 50.0, 4: 40.0, 8: 25.0}


def state(running: int = 0, waiting: int = 0, **given: object) -> EngineState:
    return EngineState(running, waiting, max_batch=8, steps_per_s=STEPS_PER_S, **given)  # type: ignore[arg-type]


def tpot_s(fleet: Fleet, shape: str = "general") -> float:
    health = fleet.health("engine")
    return predict(query(), shape, ENGINE, health, health.outlook(shape, NOW), 100).tpot_s


@pytest.mark.parametrize(
    ("running", "steps_per_s"), [(0, 50.0), (1, 50.0), (3, 40.0), (5, 40.0), (6, 25.0), (8, 25.0), (30, 25.0)]
)
def test_the_step_is_that_of_the_nearest_batch_size_with_one_more(running: int, steps_per_s: float) -> None:
    assert state(running).tpot_s("general") == pytest.approx(1 / steps_per_s)


def test_a_step_yields_the_accepted_length_of_the_shape_else_that_of_all() -> None:
    said = state(accepted_length=2.0, accepted_length_by_shape={"code_generation": 4.0})
    assert said.tpot_s("support") == pytest.approx(0.02 / 2.0)
    assert said.tpot_s("code_generation") == pytest.approx(0.02 / 4.0)


def test_an_engine_without_a_measured_step_says_nothing() -> None:
    assert EngineState(0, 0, 8, accepted_length=3.0).tpot_s("general") is None
    fleet = Fleet()
    fleet.set_engine("engine", EngineState(0, 0, 8), NOW)
    assert tpot_s(fleet) == pytest.approx(COLD_TPOT_S)


def test_a_cold_engine_is_predicted_from_its_own_pace() -> None:
    fleet = Fleet()
    fleet.set_engine("engine", state(accepted_length=2.0, accepted_length_by_shape={"support": 4.0}), NOW)
    assert tpot_s(fleet) == pytest.approx(0.01)
    assert tpot_s(fleet, "support") == pytest.approx(0.005)


def test_what_an_engine_says_of_its_present_load_is_not_raised_by_it_again() -> None:
    fleet = Fleet()
    fleet.set_engine("engine", state(running=7, waiting=25), NOW)
    for _ in range(4):
        fleet.start("engine")
    assert tpot_s(fleet) == pytest.approx(1 / 25.0)


def test_calls_of_a_shape_outweigh_what_the_engine_says() -> None:
    fleet = Fleet(half_life_s=3600.0)
    seen(fleet, "engine", NOW, times=20, tpot_s=0.1)
    fleet.set_engine("engine", state(accepted_length=2.0), NOW)
    assert tpot_s(fleet) == pytest.approx((0.1**20 * 0.01) ** (1 / 21))


def test_a_shape_never_seen_is_predicted_by_the_engine_and_not_by_other_shapes() -> None:
    fleet = Fleet()
    seen(fleet, "engine", NOW, times=20, tpot_s=0.1)
    fleet.set_engine("engine", state(accepted_length_by_shape={"code_generation": 4.0}), NOW)
    assert tpot_s(fleet, "code_generation") == pytest.approx(0.005)


@pytest.mark.parametrize(("tokens_per_s", "ttft_s"), [(0.0, 0.2), (1_000.0, 3.0), (100_000.0, 0.2)])
def test_a_long_prompt_takes_an_engine_as_long_as_its_rate_of_reading_says(
    tokens_per_s: float, ttft_s: float
) -> None:
    fleet = Fleet()
    seen(fleet, "engine", NOW, times=50)
    fleet.set_engine("engine", state(prefill_tokens_per_s=tokens_per_s), NOW)
    health = fleet.health("engine")
    outlook = health.outlook("general", NOW)
    found = predict(query(input_tokens=3_000), "general", ENGINE, health, outlook, 100)
    assert found.ttft_s == pytest.approx(ttft_s, rel=0.1)
