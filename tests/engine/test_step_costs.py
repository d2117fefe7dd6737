from __future__ import annotations

import random

import pytest

from engine.step_costs import StepCosts

CURVE = {1: 0.010, 8: 0.012, 64: 0.040}


def step_s(costs: StepCosts, sequences: int, rows: int) -> float:
    return costs.steps_s(sequences, rows, 0, is_greedy=True)[0]


def test_the_curve_is_linear_between_and_beyond_what_was_measured() -> None:
    costs = StepCosts(CURVE)
    assert step_s(costs, 1, 1) == pytest.approx(0.010)
    assert step_s(costs, 1, 8) == pytest.approx(0.012)
    assert step_s(costs, 1, 36) == pytest.approx(0.026)
    assert step_s(costs, 1, 120) == pytest.approx(0.068)


def test_more_rows_never_cost_less() -> None:
    costs = StepCosts({1: 0.02, 8: 0.01, 16: 0.03})
    assert step_s(costs, 1, 8) == pytest.approx(0.02)
    assert step_s(costs, 1, 12) == pytest.approx(0.025)


def test_one_figure_is_a_machine_where_rows_are_free() -> None:
    assert step_s(StepCosts({1: 1.0}), 4, 100) == 1.0


def test_a_slower_machine_is_noticed_at_every_number_of_rows() -> None:
    costs = StepCosts(CURVE)
    for _ in range(60):
        costs.observe(4, 4, 0.022, 0.0, is_greedy=True)
    assert step_s(costs, 4, 4) == pytest.approx(0.022, rel=0.02)
    assert step_s(costs, 4, 64) == pytest.approx(0.080, rel=0.15)
    assert step_s(costs, 5, 64) == step_s(costs, 4, 64)  # nothing nearer is known


def test_a_curve_measured_beside_a_busy_neighbour_does_not_stay() -> None:
    truth = StepCosts(CURVE)
    costs = StepCosts({1: 0.02, 8: 0.1, 64: 0.9})
    choose = random.Random(1)
    for _ in range(2000):
        rows = choose.choice([4, 4, 20, 32])
        costs.observe(4, rows, step_s(truth, 4, rows), 0.0, is_greedy=True)
    for rows in (4, 20, 32):
        assert step_s(costs, 4, rows) == pytest.approx(step_s(truth, 4, rows), rel=0.1)


def test_choosing_tokens_costs_by_the_row_and_more_where_they_are_drawn() -> None:
    costs = StepCosts(CURVE)
    costs.observe(1, 1, 0.010, 0.001, is_greedy=True)
    costs.observe(1, 1, 0.010, 0.003, is_greedy=False)
    greedy, drawn = (costs.steps_s(1, 8, 0, is_greedy=one)[0] for one in (True, False))
    assert greedy == pytest.approx(0.020)
    assert drawn == pytest.approx(0.036)


def test_what_was_learned_can_be_kept() -> None:
    costs = StepCosts({1: 0.010, 64: 0.300})  # rows beside a busy neighbour
    assert costs.curve == pytest.approx({1: 0.010, 64: 0.300})
    for _ in range(2000):
        for rows in (1, 64):
            costs.observe(1, rows, step_s(StepCosts(CURVE), 1, rows), 0.0, is_greedy=True)
    later = StepCosts(costs.curve)
    assert step_s(later, 1, 64) / step_s(later, 1, 1) == pytest.approx(4.0, rel=0.1)
