"""Accepted length, survival and waste as DSpark's evaluation defines them, in all and band by band."""

from __future__ import annotations

import pytest

from engine.sequence import Round, Sampling, Sequence
from engine.speculation_stats import (
    DIMENSIONS,
    HALF_LIFE_ROUNDS,
    OTHER_SHAPE,
    UNKNOWN_SHAPE,
    Counts,
    SpeculationStats,
    bands_of,
)
from router import shapes
from tests.engine.toy import make_sequence


def sequence(shape: str = "", temperature: float = 0.0, num_prompt: int = 10) -> Sequence:
    made = make_sequence("a", [1] * num_prompt, sampling=Sampling(temperature=temperature))
    made.shape = shape
    return made


def test_the_shapes_counted_are_those_the_gateway_sends() -> None:
    """The engine imports nothing of the router, so its list is a copy."""
    assert (*shapes.SHAPES, OTHER_SHAPE, UNKNOWN_SHAPE) == DIMENSIONS["shape"]


def counted(*rounds: Round) -> Counts:
    stats = SpeculationStats()
    for done in rounds:
        stats.round_done(sequence(), done, 1)
    return stats.total.overall


def test_the_lengths_are_means_over_all_rounds() -> None:
    """Rounds without a draft count; so does one whose answer ended with an accepted token."""
    counts = counted(Round(7, 5, 3, 4), Round(7, 2, 2, 3), Round(0, 0, 0, 1), Round(7, 7, 2, 2))
    assert counts.accepted_length == 10 / 4
    assert counts.proposal_length == 21 / 4
    assert counts.verified_length == 14 / 4
    assert counts.waste == (14 - 7) / 14


def test_a_slot_survives_only_where_it_was_verified() -> None:
    counts = counted(
        Round(3, 3, 3, 4), Round(3, 3, 1, 2), Round(3, 1, 1, 2), Round(3, 2, 0, 1), Round(3, 0, 0, 1)
    )
    assert counts.verified_rounds == [4, 3, 2]
    assert counts.survived_rounds == [3, 1, 1]
    assert counts.survival == [3 / 4, 1 / 3, 1 / 2]


def test_a_slot_that_never_survived_is_told() -> None:
    assert counted(Round(2, 2, 0, 1)).survival == [0.0, 0.0]


def test_nothing_measured_is_none_and_not_zero() -> None:
    counts = Counts()
    assert (counts.accepted_length, counts.proposal_length, counts.verified_length) == (None, None, None)
    assert (counts.waste, counts.survival) == (None, [])
    plain = counted(Round(0, 0, 0, 1))
    assert (plain.accepted_length, plain.waste, plain.survival) == (1.0, None, [])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((sequence(), 1), ("unknown", "0", "1", "<=256")),
        ((sequence("support", 0.5, 256), 2), ("support", "<=0.5", "2-4", "<=256")),
        ((sequence("general", 0.01, 257), 4), ("general", "<=0.5", "2-4", "<=1024")),
        ((sequence("my own", 0.51, 1025), 5), ("other", "<=1", "5-8", "<=4096")),
        ((sequence("reasoning", 1.0, 4096), 9), ("reasoning", "<=1", "9-16", "<=4096")),
        ((sequence("other", 1.01, 4097), 17), ("other", ">1", "17+", ">4096")),
    ],
)
def test_every_round_has_one_band_of_each_dimension(
    given: tuple[Sequence, int], expected: tuple[str, ...]
) -> None:
    assert bands_of(*given) == expected
    assert all(band in bands for band, bands in zip(expected, DIMENSIONS.values(), strict=True))


def test_the_bands_of_a_dimension_add_up_to_all_rounds() -> None:
    stats = SpeculationStats()
    for number in range(60):
        asked = sequence(("support", "", "x")[number % 3], 0.3 * (number % 5), 100 * (1 + number % 4))
        stats.round_done(
            asked, Round(4, number % 5, number % 3 if number % 5 >= 2 else 0, 1), 1 + number % 20
        )
    for bands in stats.total.by.values():
        for figure in ("rounds", "drafted", "verified", "accepted", "committed"):
            parts = sum(getattr(counts, figure) for counts in bands.values())
            assert parts == getattr(stats.total.overall, figure) > 0


def test_recent_figures_halve_what_is_a_half_life_old_and_totals_do_not() -> None:
    stats = SpeculationStats()
    for committed in (5, 1):
        for _ in range(HALF_LIFE_ROUNDS):
            stats.round_done(
                sequence("support" if committed == 5 else ""), Round(4, 4, committed - 1, committed), 1
            )
    assert stats.total.overall.accepted_length == 3.0
    assert stats.recent.overall.accepted_length == pytest.approx((5 * 0.5 + 1) / 1.5)
    assert stats.recent.by["shape"]["support"].accepted_length == pytest.approx(5.0)


def test_figures_stay_right_over_any_number_of_rounds() -> None:
    """Weights grow with every round; they are brought back before they leave the range of a float."""
    stats = SpeculationStats()
    late = sequence("reasoning")
    stats.round_done(sequence("support"), Round(4, 4, 4, 5), 1)
    stats._weight = 2.0**299
    for _ in range(HALF_LIFE_ROUNDS * 2):
        stats.round_done(late, Round(4, 3, 1, 2), 1)
    assert stats._weight < 2.0**10
    assert stats.recent.overall.accepted_length == pytest.approx(2.0)
    assert stats.recent.overall.survival == pytest.approx([1.0, 0.0, 0.0])
    assert stats.recent.by["shape"]["reasoning"].waste == pytest.approx(2 / 3)
    assert stats.recent.by["shape"]["support"].accepted_length is None  # its round is forgotten
    assert stats.total.by["shape"]["support"].accepted_length == 5.0
    assert stats.total.overall.rounds == 2 * HALF_LIFE_ROUNDS + 1
