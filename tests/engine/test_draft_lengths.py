from __future__ import annotations

import random
from itertools import product

import pytest

from engine.draft_lengths import LEAST_GAIN, best_lengths, likeliest, log_odds, probability, survivals


def test_the_papers_example_verifies_nothing() -> None:
    """Appendix A: steps a second of 1, 0.5, 0.45 at 1, 2, 3 rows; 0.8 more tokens do not pay half the speed."""
    seconds = [1.0, 2.0, 1 / 0.45]
    for later in (0.0, 0.5, 0.8):
        assert best_lengths([[0.8, later]], seconds).lengths == [0]


def test_looking_ahead_finds_the_gain_beyond_a_step_in_the_costs() -> None:
    seconds = [1.0, 2.0, 2.0, 2.0, 2.0]
    chances = [[0.9, 0.85, 0.8, 0.75]]
    assert best_lengths(chances, seconds).lengths == [0]
    assert best_lengths(chances, seconds, looks_ahead=True).lengths == [4]


def test_free_rows_are_used_whole_and_dear_ones_go_to_the_likeliest() -> None:
    chances = [[0.9, 0.8], [0.3, 0.1], [0.6, 0.5]]
    assert best_lengths(chances, [1.0] * 9).lengths == [2, 2, 2]
    assert best_lengths(chances, [1.0 + 0.17 * extra for extra in range(9)]).lengths == [2, 0, 1]
    assert best_lengths(chances, [1.0 + extra for extra in range(9)]).lengths == [0, 0, 0]


def test_a_gain_too_small_to_be_sure_of_is_left_alone() -> None:
    slow = 1.0 + (LEAST_GAIN - 1.0)
    assert best_lengths([[0.03]], [1.0, slow], looks_ahead=True).lengths == [0]


def test_sequences_without_a_say_count_as_they_are() -> None:
    """Beside fifteen others one draft adds a sixteenth to the tokens, so it may not cost more than that."""
    assert best_lengths([[1.0]], [1.0 + 0.05 * extra for extra in range(9)], num_certain=15).lengths == [1]
    assert best_lengths([[1.0]], [1.0 + 0.07 * extra for extra in range(9)], num_certain=15).lengths == [0]


def test_nobody_to_draft_for() -> None:
    assert best_lengths([], [1.0] * 9, num_certain=3).lengths == []
    assert best_lengths([[]], [1.0] * 9).lengths == [0]


@pytest.mark.parametrize("seed", range(40))
def test_no_other_lengths_would_give_more(seed: int) -> None:
    choose = random.Random(seed)
    chances = [survivals(choose.random() for _ in range(3)) for _ in range(3)]
    seconds = [1.0]
    for _ in range(9):
        seconds.append(seconds[-1] + choose.choice([0.0, 0.0, 0.1, 0.4]))

    def rate(lengths: tuple[int, ...]) -> float:
        expected = 3.0 + sum(sum(one[:length]) for one, length in zip(chances, lengths, strict=True))
        return expected / seconds[sum(lengths)]

    best = max(rate(lengths) for lengths in product(range(4), repeat=3))
    got = rate(tuple(best_lengths(chances, seconds, looks_ahead=True).lengths))
    assert got == pytest.approx(best) or best < LEAST_GAIN * rate((0, 0, 0))


@pytest.mark.parametrize("seed", range(40))
def test_without_looking_ahead_later_drafts_decide_nothing(seed: int) -> None:
    """Whether a slot is verified is the same whatever the slots after it say."""
    choose = random.Random(seed)
    own = [choose.random() for _ in range(4)]
    other = survivals(choose.random() for _ in range(4))
    seconds = [1.0 + 0.12 * extra for extra in range(9)]
    for slot in range(4):
        verified = set()
        for _ in range(30):
            changed = own[: slot + 1] + [choose.random() for _ in range(3 - slot)]
            lengths = best_lengths([survivals(changed), other], seconds).lengths
            verified.add(lengths[0] > slot)
        assert len(verified) == 1


@pytest.mark.parametrize("seed", range(40))
def test_a_budget_goes_to_the_likeliest_and_later_drafts_decide_nothing(seed: int) -> None:
    choose = random.Random(seed)
    own = [choose.choice([choose.random(), 1.0]) for _ in range(4)]
    other = survivals(choose.random() for _ in range(4))
    budget = choose.randrange(9)
    for slot in range(4):
        verified = set()
        for _ in range(30):
            changed = survivals(own[: slot + 1] + [choose.random() for _ in range(3 - slot)])
            lengths = likeliest([changed, other], budget)
            assert sum(lengths) == budget
            left_out = changed[lengths[0] :] + other[lengths[1] :]
            taken = changed[: lengths[0]] + other[: lengths[1]]
            assert min(taken, default=1.0) >= max(left_out, default=0.0)
            verified.add(lengths[0] > slot)
        assert len(verified) == 1


def test_a_budget_beyond_all_drafts_takes_them_all() -> None:
    assert likeliest([[0.9, 0.1], [], [0.4]], 9) == [2, 0, 1]


def test_log_odds_and_back() -> None:
    for chance in (1e-5, 0.2, 0.5, 0.97):
        assert probability(log_odds(chance)) == pytest.approx(chance)
    assert 0.0 < probability(-1e6) < probability(1e6) < 1.0 + 1e-12
    assert survivals([0.5, 0.5, 0.0]) == [0.5, 0.25, 0.0]
