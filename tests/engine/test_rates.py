from __future__ import annotations

import pytest

from engine.rates import EndRate, StepRates, least


def test_only_sizes_seen_are_reported() -> None:
    rates = StepRates()
    assert rates.steps_per_s == {}
    rates.observe(4, 0, 4, 0.05)
    rates.observe(1, 0, 1, 0.02)
    assert rates.steps_per_s == {1: pytest.approx(50), 4: pytest.approx(20)}
    assert rates.decode_tokens_per_s > 0


def test_a_step_with_prefill_says_nothing_about_decoding() -> None:
    rates = StepRates()
    rates.observe(3, 100, 3, 0.05)
    assert rates.steps_per_s == {}
    assert rates.prefill_tokens_per_s == pytest.approx(2000)
    assert rates.decode_tokens_per_s == 0.0


def test_old_steps_fade() -> None:
    rates = StepRates()
    for seconds in [1.0] * 5 + [0.01] * 100:
        rates.observe(1, 0, 1, seconds)
    assert rates.steps_per_s[1] == pytest.approx(100, rel=0.01)


def test_the_end_of_a_sequence_is_foreseen_from_measured_steps() -> None:
    rates = StepRates()
    assert rates.finish_s(10, 10, 1) is None
    rates.observe(1, 0, 1, 0.02)
    rates.observe(8, 0, 8, 0.05)
    rates.observe(0, 100, 0, 0.1)
    assert rates.finish_s(0, 100, 1) == pytest.approx(2.0)
    assert rates.finish_s(0, 100, 7) == pytest.approx(5.0)  # eight is the nearest size seen
    assert rates.finish_s(500, 100, 1) == pytest.approx(2.5)


def test_ends_come_as_often_as_they_lately_did() -> None:
    ends = EndRate()
    assert ends.mean_s is None
    for step in range(1, 400):
        ends.observe(1 if step % 10 == 0 else 0, 0.1)
    assert ends.mean_s == pytest.approx(1.0, rel=0.1)
    for _ in range(100):
        ends.observe(1, 0.1)
    assert ends.mean_s == pytest.approx(0.1, rel=0.1)


def test_a_long_time_without_an_end_counts() -> None:
    ends = EndRate()
    ends.observe(1, 1.0)
    before = ends.mean_s
    ends.observe(0, 60.0)
    assert before is not None
    assert ends.mean_s is not None
    assert ends.mean_s > 30 * before


def test_the_least_of_what_is_known() -> None:
    assert least([None, 3.0, 2.0]) == 2.0
    assert least([None]) is None
