"""Medians, ratios, cost and remarks, from waves whose rates are known."""

from __future__ import annotations

import pytest

from gateway.bench.engine.report import FLOOR, Ratio, figures, ratios, remarks, usd_per_mtok
from gateway.bench.engine.traces import Trace, Wave
from gateway.bench.engine.ways import ways

WAYS = ways(["lookup"], ["off", "auto"], ["prefix"])


def wave(variant: str, each: int, tokens_per_s: float, streams: int = 1, accepted: int | None = None) -> Wave:
    """Each stream decodes 10 tokens after its first, at its share of the rate."""
    step_s = streams / tokens_per_s
    trace = Trace(
        tuple((0.2 + at * step_s, 1) for at in range(11)),
        0.2 + 10 * step_s,
        11,
        rounds=5,
        drafted=accepted and 9,
        verified=accepted and 8,
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
    assert (found.verified_length, found.accepted_length, found.failed_streams) == (0.0, 1.0, 0)


def test_lengths_are_those_of_all_rounds_of_speculation() -> None:
    (found,) = figures([wave("auto", 0, 50, accepted=6), wave("auto", 1, 50, accepted=4)])
    assert found.verified_length == pytest.approx(16 / 10)
    assert found.accepted_length == pytest.approx(1 + 10 / 10)


def test_cells_and_variants_stay_in_the_order_of_the_first_waves() -> None:
    turns = [("plain", "auto", "llama.cpp (a)"), ("auto", "llama.cpp (a)", "plain")]
    waves = [wave(name, 0, 50, streams) for streams, turn in zip((8, 1), turns, strict=True) for name in turn]
    assert [(it.streams, it.variant) for it in figures(waves)] == [
        (streams, name) for streams in (8, 1) for name in turns[0]
    ]


def test_a_ratio_is_taken_within_rounds() -> None:
    """The machine is ten times as fast in the second round, which must not matter."""
    rates = [("plain", 0, 10), ("auto", 0, 15), ("plain", 1, 100), ("auto", 1, 150)]
    (found,) = ratios([wave(*each) for each in rates], WAYS)
    assert found == Ratio("code", 1, "auto", "plain", "plain", found.times)
    assert found.times == pytest.approx(1.5)


def test_of_two_builds_of_llama_the_faster_counts() -> None:
    waves = [wave("auto", 0, 60), wave("llama.cpp (a)", 0, 20), wave("llama.cpp (b)", 0, 30)]
    (found,) = [it for it in ratios(waves, WAYS) if it.against == "llama.cpp"]
    assert found.below == "llama.cpp (b)"
    assert found.times == pytest.approx(2)


def test_auto_is_held_against_the_faster_of_plain_and_its_own_drafters_fixed() -> None:
    found_ways = ways(["a", "b"], ["off", "auto", "fixed"], ["prefix"])
    by_name = {"plain": 20, "a auto": 30, "a fixed": 40, "b auto": 30, "b fixed": 10}
    found = ratios([wave(name, 0, rate) for name, rate in by_name.items()], found_ways)
    assert [(it.above, it.against, it.below) for it in found] == [
        ("a auto", "plain", "plain"),
        ("a auto", "fixed", "a fixed"),
        ("a auto", FLOOR, "a fixed"),
        ("a fixed", "plain", "plain"),
        ("b auto", "plain", "plain"),
        ("b auto", "fixed", "b fixed"),
        ("b auto", FLOOR, "plain"),
        ("b fixed", "plain", "plain"),
    ]
    assert [it.times for it in found] == pytest.approx([1.5, 0.75, 0.75, 2, 1.5, 3, 1.5, 0.5])


def test_the_faster_of_plain_and_fixed_is_unknown_where_one_has_no_rate() -> None:
    broken = Wave("plain", "code", 1, 0, (Trace(error="HTTP 500: no"),))
    waves = [broken, wave("auto", 0, 30), wave("fixed", 0, 10)]
    found = ratios(waves, ways(["lookup"], ["off", "auto", "fixed"], ["prefix"]))
    assert [it.times for it in found if it.against == FLOOR] == [None]


def test_a_failed_wave_leaves_its_round_out_of_the_ratio() -> None:
    broken = Wave("plain", "code", 1, 0, (Trace(error="HTTP 500: no"),))
    waves = [broken, wave("auto", 0, 90), wave("plain", 1, 10), wave("auto", 1, 20)]
    assert ratios(waves, WAYS)[0].times == pytest.approx(2)
    assert figures(waves)[0].failed_streams == 1
    assert "plain: 1 answers failed: HTTP 500: no" in remarks(waves, WAYS)


def test_remarks_tell_of_a_way_that_does_not_draft() -> None:
    assert remarks([wave("auto", 0, 10)], WAYS) == ["auto: nothing was drafted, so this is plain decoding."]
    assert remarks([wave("auto", 0, 10, accepted=6)], WAYS) == []


def test_remarks_tell_of_waves_without_a_steady_part() -> None:
    apart = (Trace(((0.0, 1), (1.0, 1)), 1.0, 2), Trace(((2.0, 1), (3.0, 1)), 3.0, 2))
    (remark,) = remarks([Wave("plain", "chat", 2, 0, apart)], ways(["none"], ["off"], ["prefix"]))
    assert "--tokens" in remark
