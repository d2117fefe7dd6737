"""How likely drafts are to stand: the drafter's own word, corrected by what became of the drafts before.

In: a proposal's confidence, where the drafter gives one, and the outcomes of tests. Out: for each slot the
chance that its draft stands if those before it do. The correction is a sequence's own, so that a text that
is hard to foresee does not spoil the others; only a new one begins with what would have been right for those
of its kind before it, if that is lower. A kind is a task's shape, a temperature and a length of context.
"""

from __future__ import annotations

from collections.abc import Sequence as Ordered

from engine.draft_lengths import log_odds, probability
from engine.sequence import Sequence
from engine.speculation_stats import bands_of

Kind = tuple[str, str, str]  # bands of shape, temperature and context

_STEP = 0.3  # log odds by which one complete surprise corrects a sequence's chances
_MOST = 4.0
_LEAST_FIRST = -2.0  # so that a drafter which did badly is tried again
_FIRST_STEP = 0.05  # the same of where new sequences begin
_SLOT_WEIGHT = 0.02  # of the newest test, in a slot's share of drafts that stand
_FIRST_SHARE = 0.6


class DraftConfidence:
    """Learns from every tested draft of one drafter."""

    def __init__(self, num_slots: int) -> None:
        self._shares = [_FIRST_SHARE] * num_slots
        self._first_trust: dict[Kind, float] = {}
        self._any_first_trust = 0.0  # of kinds not seen before

    def chances(self, sequence: Sequence, logits: Ordered[float] | None, count: int) -> list[float]:
        """Of the first `count` slots. `logits`: the drafter's confidences, None where it gives none."""
        trust = self._trust(sequence)
        own = logits if logits is not None else [log_odds(share) for share in self._shares]
        return [probability(own[slot] + trust) for slot in range(count)]

    def learn(self, sequence: Sequence, chances: Ordered[float], tested: int, stood: int) -> None:
        """Of `tested` drafts the first `stood` stand; those after the first that fell say nothing."""
        kind = kind_of(sequence)
        for slot in range(min(stood + 1, tested)):
            stands = float(slot < stood)
            trust = self._trust(sequence)
            own = log_odds(chances[slot]) - trust
            sequence.draft_trust = _bounded(trust + _STEP * (stands - chances[slot]))
            self._any_first_trust = _corrected(self._any_first_trust, own, stands)
            first = self._first_trust.get(kind, self._any_first_trust)
            self._first_trust[kind] = _corrected(first, own, stands)
            self._shares[slot] += _SLOT_WEIGHT * (stands - self._shares[slot])

    def _trust(self, sequence: Sequence) -> float:
        if sequence.draft_trust is None:
            first = self._first_trust.get(kind_of(sequence), self._any_first_trust)
            return max(_LEAST_FIRST, min(0.0, first))
        return sequence.draft_trust


def kind_of(sequence: Sequence) -> Kind:
    """What it has in common with others whose drafts do as well."""
    shape, temperature, _, context = bands_of(sequence, 1)
    return shape, temperature, context


def _corrected(first: float, own: float, stands: float) -> float:
    return _bounded(first + _FIRST_STEP * (stands - probability(own + first)))


def _bounded(trust: float) -> float:
    return max(-_MOST, min(_MOST, trust))
