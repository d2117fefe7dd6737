"""The rates that are read off a wave, on arrivals written by hand."""

from __future__ import annotations

import pytest

from gateway.bench.engine.traces import Trace, Wave, accepted_length, verified_length


def steady(first_s: float, last_s: float, step_s: float, characters: int = 3) -> Trace:
    """A token of `characters` every `step_s`."""
    count = round((last_s - first_s) / step_s) + 1
    pieces = tuple((first_s + at * step_s, characters) for at in range(count))
    return Trace(pieces, last_s, count)


def rate(*traces: Trace) -> float | None:
    return Wave("plain", "chat", len(traces), 0, traces).decode_tokens_per_s


def test_one_stream_is_measured_from_its_first_chunk_to_its_end() -> None:
    trace = steady(0.5, 1.5, 0.1)
    assert trace.ttft_s == 0.5
    assert trace.tokens_per_s == pytest.approx(10)
    assert rate(trace) == pytest.approx(10)


def test_the_steady_part_begins_with_the_last_stream_and_ends_with_the_first() -> None:
    slow_before = Trace(((0.1, 5), (0.9, 5), (1.0, 5), (1.1, 5), (1.2, 5), (3.0, 5)), 3.0, 6)
    late = Trace(((1.0, 5), (1.1, 5), (1.2, 5)), 1.2, 3)
    assert rate(slow_before, late) == pytest.approx(4 / 0.2)


def test_a_chunk_of_several_tokens_counts_by_its_characters() -> None:
    trace = Trace(((0.0, 10), (1.0, 30), (2.0, 40)), 2.0, 16)
    assert trace.tokens_between(0.0, 1.0) == pytest.approx(6)
    assert trace.tokens_per_s == pytest.approx(7)


def test_streams_that_never_decode_together_give_no_rate() -> None:
    assert rate(steady(0.0, 1.0, 0.1), steady(1.5, 2.5, 0.1)) is None


def test_a_wave_with_a_failed_or_silent_stream_gives_no_rate() -> None:
    good = steady(0.0, 1.0, 0.1)
    assert rate(good, Trace(error="gone")) is None
    assert rate(good, Trace(end_s=1.0, tokens=3)) is None


def test_lengths_are_means_over_all_rounds() -> None:
    traces = [
        Trace(rounds=10, drafted=30, verified=20, accepted=15),
        Trace(rounds=30, drafted=9, verified=8, accepted=5),
        Trace(),
    ]
    assert verified_length(traces) == 28 / 40
    assert accepted_length(traces) == 1 + 20 / 40  # every round brings the target's own


def test_a_round_without_drafts_commits_one_token() -> None:
    traces = [Trace(rounds=10, drafted=0, verified=0, accepted=0)]
    assert (verified_length(traces), accepted_length(traces)) == (0.0, 1.0)


def test_a_server_that_tells_of_no_rounds_has_no_lengths() -> None:
    assert (verified_length([Trace()]), accepted_length([Trace()])) == (None, None)
