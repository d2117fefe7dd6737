from __future__ import annotations

import random

import pytest

from engine.draft_confidence import DraftConfidence
from engine.draft_lengths import log_odds, probability
from tests.engine.toy import make_sequence


def test_a_drafters_own_word_is_taken_at_first() -> None:
    chances = DraftConfidence(3).chances(make_sequence("a", [1]), [log_odds(0.9), log_odds(0.2), 0.0], 2)
    assert chances == [pytest.approx(0.9), pytest.approx(0.2)]


def test_a_sequence_whose_drafts_fall_is_trusted_less_and_others_are_not() -> None:
    confidence = DraftConfidence(2)
    bad, good = make_sequence("a", [1]), make_sequence("b", [2])
    for _ in range(60):
        for sequence, stood in ((bad, 0), (good, 2)):
            chances = confidence.chances(sequence, [0.0, 0.0], 2)
            confidence.learn(sequence, chances, tested=2, stood=stood)
    assert confidence.chances(bad, [0.0, 0.0], 1)[0] < 0.1
    assert confidence.chances(good, [0.0, 0.0], 1)[0] > 0.9


def test_a_new_sequence_begins_where_those_before_it_stood_if_that_was_lower() -> None:
    bad, good = DraftConfidence(1), DraftConfidence(1)
    for number in range(100):
        for confidence, stood in ((bad, 0), (good, 1)):
            sequence = make_sequence(str(number), [1])
            for _ in range(5):
                confidence.learn(sequence, confidence.chances(sequence, [0.0], 1), tested=1, stood=stood)
    assert bad.chances(make_sequence("a", [1]), [0.0], 1) == [pytest.approx(probability(-2.0))]
    assert good.chances(make_sequence("a", [1]), [0.0], 1) == [pytest.approx(0.5)]


def test_without_a_word_the_slots_shares_are_learned() -> None:
    confidence, choose = DraftConfidence(3), random.Random(2)
    shares = [0.8, 0.5, 0.25]
    for _ in range(3000):
        sequence = make_sequence("a", [1])  # a new one each time: what is learned is not its own
        stood = next((slot for slot in range(3) if choose.random() > shares[slot]), 3)
        confidence.learn(sequence, confidence.chances(sequence, None, 3), tested=3, stood=stood)
    assert confidence.chances(make_sequence("b", [1]), None, 3) == pytest.approx(shares, abs=0.12)


def test_what_was_not_tested_teaches_nothing() -> None:
    confidence = DraftConfidence(3)
    sequence = make_sequence("a", [1])
    confidence.learn(sequence, [0.5, 0.5, 0.5], tested=0, stood=0)
    assert sequence.draft_trust is None
    sequence.draft_trust = 0.0
    before = confidence.chances(sequence, None, 3)
    confidence.learn(make_sequence("b", [1]), [0.5, 0.5, 0.5], tested=3, stood=0)
    after = confidence.chances(sequence, None, 3)
    assert after[0] < before[0]
    assert after[1:] == before[1:]
