"""How likely drafts are to stand: the drafter's own word, corrected by what became of the drafts before.

In: a proposal's confidence, where the drafter gives one, and the outcomes of tests. Out: for each slot the
chance that its draft stands if those before it do. The correction is a sequence's own, so that a text that
is hard to foresee does not spoil the others; only a new one begins where those before it stood, if lower.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered

from engine.draft_lengths import log_odds, probability
from engine.sequence import Sequence

_STEP = 0.3  # log odds by which one complete surprise corrects a sequence's chances
_MOST = 4.0
_LEAST_FIRST = -2.0  # so that a drafter which did badly is tried again
_FIRST_WEIGHT = 0.05  # of the newest correction, in where a new sequence begins
_SLOT_WEIGHT = 0.02  # of the newest test, in a slot's share of drafts that stand
_FIRST_SHARE = 0.6


class DraftConfidence:
    """Learns from every tested draft of one drafter."""

    def __init__(self, num_slots: int) -> None:
        self._shares = [_FIRST_SHARE] * num_slots
        self._first_trust = 0.0

    def chances(self, sequence: Sequence, logits: Ordered[float] | None, count: int) -> list[float]:
        """Of the first `count` slots. `logits`: the drafter's confidences, None where it gives none."""
        trust = self._trust(sequence)
        own = logits if logits is not None else [log_odds(share) for share in self._shares]
        return [probability(own[slot] + trust) for slot in range(count)]

    def learn(self, sequence: Sequence, chances: Ordered[float], tested: int, stood: int) -> None:
        """Of `tested` drafts the first `stood` stand; those after the first that fell say nothing."""
        for slot in range(min(stood + 1, tested)):
            stands = float(slot < stood)
            moved = self._trust(sequence) + _STEP * (stands - chances[slot])
            sequence.draft_trust = max(-_MOST, min(_MOST, moved))
            self._first_trust += _FIRST_WEIGHT * (sequence.draft_trust - self._first_trust)
            self._shares[slot] += _SLOT_WEIGHT * (stands - self._shares[slot])

    def _trust(self, sequence: Sequence) -> float:
        if sequence.draft_trust is None:
            return max(_LEAST_FIRST, min(0.0, self._first_trust))
        return sequence.draft_trust
