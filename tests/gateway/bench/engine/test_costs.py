"""What output tokens of an own machine cost, by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bench.engine.costs import Machine, Upstream, break_even_tokens_per_day, compared, fastest

EIGHT_H100 = Machine("8 × H100", usd_per_hour=25, tokens_per_s=4000)


@pytest.mark.parametrize(("tokens_per_s", "usd"), [(4000, "1.74"), (6680, "1.04")])
def test_the_published_example(tokens_per_s: float, usd: str) -> None:
    assert f"{Machine('8 × H100', 25, tokens_per_s).usd_per_mtok():.2f}" == usd


def test_a_machine_used_half_the_time_makes_tokens_twice_as_dear() -> None:
    assert EIGHT_H100.usd_per_mtok(0.5) == pytest.approx(2 * EIGHT_H100.usd_per_mtok())


def test_the_break_even_of_the_published_example() -> None:
    """600 USD a day buy 300 M tokens at 2 USD; the machine makes 345.6 M a day at most, which would be 1.74 each."""
    assert break_even_tokens_per_day(EIGHT_H100, 2.0) == pytest.approx(300e6)
    assert break_even_tokens_per_day(EIGHT_H100, 1.73) is None
    assert break_even_tokens_per_day(Machine("free", 0, 10), 0.0) == 0.0


@given(st.floats(0.01, 1e4), st.floats(1, 1e5), st.floats(0.001, 1e3))
def test_at_the_break_even_both_cost_the_same(usd_per_hour: float, tokens_per_s: float, usd: float) -> None:
    machine = Machine("m", usd_per_hour, tokens_per_s)
    tokens = break_even_tokens_per_day(machine, usd)
    if tokens is None:
        assert machine.usd_per_mtok() > usd
    else:
        assert machine.usd_per_mtok(tokens / (tokens_per_s * 86_400)) == pytest.approx(usd)


def test_upstreams_charge_input_too() -> None:
    upstream = Upstream("u", input_usd_per_mtok=0.5, output_usd_per_mtok=1.0)
    (found,) = compared([EIGHT_H100], [1.0], [upstream], input_per_output=2.0)["upstreams"]
    (even,) = found["break_even"]
    assert found["usd_per_mtok"] == 2.0
    assert even["tokens_per_day"] == pytest.approx(300e6)
    assert even["utilisation"] == pytest.approx(300 / 345.6)


def test_a_variants_rate_is_the_highest_that_it_reached() -> None:
    rates = [("plain", 1, 50.0), ("plain", 8, 200.0), ("auto", 1, 80.0), ("auto", 8, None), ("cut", 1, None)]
    figures = [
        {"variant": name, "kind": "chat", "streams": streams, "decode_tokens_per_s": rate}
        for name, streams, rate in rates
    ]
    assert fastest(figures, 1.0) == [
        Machine("plain, chat × 8", 1.0, 200.0),
        Machine("auto, chat × 1", 1.0, 80.0),
    ]
