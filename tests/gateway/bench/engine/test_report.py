"""Medians, ratios, cost and remarks, from waves whose rates are known."""

from __future__ import annotations

import pytest

from gateway.bench.engine.report import Ratio, figures, ratios, remarks, usd_per_mtok
from gateway.bench.engine.traces import Trace, Wave


def wave(variant: str, each: int, tokens_per_s: float, streams: int = 1, accepted: int | None = None) -> Wave:
    """Each stream decodes 10 tokens after its first, at its share of the rate."""
    step_s = streams / tokens_per_s
    trace = Trace(
        tuple((0.2 + at * step_s, 1) for at in range(11)),
        0.2 + 10 * step_s,
        11,
        rounds=5,
        drafted=accepted and 9,
        accepted=accepted,
    )
    return Wave(variant, "code", streams, each, (trace,) * streams)


@pytest.mark.parametrize(
    ("usd_per_hour", "tokens_per_s", "expected"), [(25, 4000, 1.74), (25, 6680, 1.04), (0, 10, 0)]
)
def test_what_a_million_tokens_cost(usd_per_hour: float, tokens_per_s: float, expected: float) -> None:
    assert usd_per_mtok(usd_per_hour, tokens_per_s) == pytest.approx(expected, abs=0.005)


def test_figures_are_medians_over_the_rounds() -> None:
    waves = [wave("plain", each, rate, streams=4) for each, rate in enumerate((80, 200, 100))]
    (found,) = figures(waves, usd_per_hour=3.6)
    assert (found.variant, found.kind, found.streams, found.rounds) == ("plain", "code", 4, 3)
    assert found.decode_tokens_per_s == pytest.approx(100)
    assert found.stream_tokens_per_s == pytest.approx(25)
    assert found.ttft_p50_s == pytest.approx(0.2)
    assert found.usd_per_mtok == pytest.approx(10)
    assert (found.accepted_length, found.failed_streams) == (None, 0)


def test_ours_comes_first_and_cells_stay_in_their_order() -> None:
    waves = [
        wave(name, 0, 50, streams) for streams in (8, 1) for name in ("llama.cpp (a)", "speculative", "plain")
    ]
    assert [(it.streams, it.variant) for it in figures(waves)] == [
        (streams, name) for streams in (8, 1) for name in ("plain", "speculative", "llama.cpp (a)")
    ]


def test_a_ratio_is_taken_within_rounds() -> None:
    """The machine is ten times as fast in the second round, which must not matter."""
    rates = [("plain", 0, 10), ("speculative", 0, 15), ("plain", 1, 100), ("speculative", 1, 150)]
    (found,) = ratios([wave(*each) for each in rates])
    assert found == Ratio("code", 1, "speculative", "plain", found.times)
    assert found.times == pytest.approx(1.5)


def test_of_two_builds_of_llama_the_faster_counts() -> None:
    waves = [wave("speculative", 0, 60), wave("llama.cpp (a)", 0, 20), wave("llama.cpp (b)", 0, 30)]
    (found,) = ratios(waves)
    assert found.below == "llama.cpp (b)"
    assert found.times == pytest.approx(2)


def test_a_failed_wave_leaves_its_round_out_of_the_ratio() -> None:
    broken = Wave("plain", "code", 1, 0, (Trace(error="HTTP 500: no"),))
    waves = [broken, wave("speculative", 0, 90), wave("plain", 1, 10), wave("speculative", 1, 20)]
    assert ratios(waves)[0].times == pytest.approx(2)
    assert figures(waves)[0].failed_streams == 1
    assert "plain: 1 answers failed: HTTP 500: no" in remarks(waves)


def test_remarks_tell_of_an_engine_that_does_not_draft() -> None:
    assert any("drafted nothing" in it for it in remarks([wave("speculative", 0, 10)]))
    assert remarks([wave("speculative", 0, 10, accepted=6)]) == []


def test_remarks_tell_of_waves_without_a_steady_part() -> None:
    apart = (Trace(((0.0, 1), (1.0, 1)), 1.0, 2), Trace(((2.0, 1), (3.0, 1)), 3.0, 2))
    (remark,) = remarks([Wave("plain", "chat", 2, 0, apart)])
    assert "--tokens" in remark
