from __future__ import annotations

import pytest

from engine.rates import StepRates


def test_only_sizes_seen_are_reported() -> None:
    rates = StepRates()
    assert rates.steps_per_s == {}
    rates.observe(4, 0, 0.05)
    rates.observe(1, 0, 0.02)
    assert rates.steps_per_s == {1: pytest.approx(50), 4: pytest.approx(20)}
    assert rates.decode_tokens_per_s > 0


def test_a_step_with_prefill_says_nothing_about_decoding() -> None:
    rates = StepRates()
    rates.observe(3, 100, 0.05)
    assert rates.steps_per_s == {}
    assert rates.prefill_tokens_per_s == pytest.approx(2000)
    assert rates.decode_tokens_per_s == 0.0


def test_old_steps_fade() -> None:
    rates = StepRates()
    for seconds in [1.0] * 5 + [0.01] * 100:
        rates.observe(1, 0, seconds)
    assert rates.steps_per_s[1] == pytest.approx(100, rel=0.01)
