from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest

from dashboard import figures, markup


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"),
        (math.nan, "–"),
        (0.0042, "4.2 ms"),
        (0.042, "42 ms"),
        (0.42, "0.42 s"),
        (1.504, "1.50 s"),
        (61.26, "61.3 s"),
    ],
)
def test_durations_carry_their_unit(value: float | None, words: str) -> None:
    assert figures.seconds(value) == words


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "unknown"),
        (0.0, "$0"),
        (1234.5, "$1,234.50"),
        (0.55, "$0.550"),
        (0.00078, "$0.000780"),
        (0.000000001, "$0.000000001"),
    ],
)
def test_an_unknown_cost_is_a_word_and_never_zero(value: float | None, words: str) -> None:
    assert figures.usd(value) == words


def test_a_sum_with_unknown_parts_is_a_lower_bound() -> None:
    assert figures.total_usd(0.55, 3) == "≥ $0.550"
    assert figures.total_usd(None, 3) == "unknown"
    assert figures.total_usd(None, 0) == "$0"


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [(0, 10, "0 %"), (1, 1000, "0.10 %"), (15, 1000, "1.5 %"), (7, 7, "100 %"), (0, 0, "–")],
)
def test_small_shares_are_told_from_zero(part: int, whole: int, words: str) -> None:
    assert figures.share(part, whole) == words


def test_ages_use_the_largest_unit_that_fits() -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    ages = [figures.age(now - timedelta(seconds=s), now) for s in (5, 300, 7200, 200_000)]
    assert ages == ["5 s ago", "5 min ago", "2 h ago", "2 d ago"]


def test_text_from_the_ledger_cannot_become_markup() -> None:
    evil = '<img src=x onerror="alert(1)">'
    pieces = [
        markup.chip(evil, "#000"),
        markup.pill(evil),
        markup.pre(evil),
        markup.box("bad", evil, evil),
        markup.facts([(evil, evil)]),
        markup.table([markup.Column(evil, hint=evil)], [[evil]], evil),
        markup.card(evil, evil, evil, evil),
        markup.heading(evil, evil),
        markup.hinted(evil, evil),
    ]
    assert not [piece for piece in pieces if "<img" in piece.text]
