"""What speculation yields: rounds and their tokens, in all and by kind of request.

In: every round of every sequence. Out: `Counts` since the start, and the same with old rounds fading. Knows no
clock and no drafter; a round of plain decoding counts as one that drafted nothing.

The words are those of DSpark's evaluation. *Accepted length*: committed tokens a round, the target's own
included. *Survival* of slot k: share of rounds in which drafts 1..k were all accepted, among those that verified
slot k. DeepSpec's `accept_rate@k` divides by the rounds that drafted slot k: the same where all drafts are
verified; where a scheduler cuts the doubtful ones, survival speaks only of those it kept.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from itertools import accumulate

from engine.sequence import Round, Sequence

HALF_LIFE_ROUNDS = 1000  # recent figures are about the last 1,400 rounds of the engine
_GROWTH = 2.0 ** (1.0 / HALF_LIFE_ROUNDS)
_HEAVIEST = 2.0**300
_FORGOTTEN = 1e-9  # of a round, thirty half-lives after it

UNKNOWN_SHAPE, OTHER_SHAPE = "unknown", "other"
SHAPES = (  # the gateway's task shapes
    "embedding",
    "agent_loop",
    "extraction",
    "classification",
    "summarization",
    "document_qa",
    "code_generation",
    "support",
    "reasoning",
    "short_chat",
    "general",
    OTHER_SHAPE,
    UNKNOWN_SHAPE,
)
_TEMPERATURE_LIMITS, _TEMPERATURES = (0.0, 0.5, 1.0), ("0", "<=0.5", "<=1", ">1")
_CONCURRENCY_LIMITS, _CONCURRENCIES = (1, 4, 8, 16), ("1", "2-4", "5-8", "9-16", "17+")
_CONTEXT_LIMITS, _CONTEXTS = (256, 1024, 4096), ("<=256", "<=1024", "<=4096", ">4096")
DIMENSIONS = {
    "shape": SHAPES,
    "temperature": _TEMPERATURES,
    "concurrency": _CONCURRENCIES,  # sequences decoding in the same step
    "context": _CONTEXTS,  # tokens, prompt and answer together
}
_KNOWN_SHAPES = {"": UNKNOWN_SHAPE} | {shape: shape for shape in SHAPES}


def bands_of(sequence: Sequence, num_decoding: int) -> tuple[str, str, str, str]:
    """The band of each of `DIMENSIONS` that a round of this sequence belongs to."""
    temperature = 0.0 if sequence.sampling.is_greedy else sequence.sampling.temperature
    return (
        _KNOWN_SHAPES.get(sequence.shape, OTHER_SHAPE),
        _TEMPERATURES[bisect_left(_TEMPERATURE_LIMITS, temperature)],
        _CONCURRENCIES[bisect_left(_CONCURRENCY_LIMITS, num_decoding)],
        _CONTEXTS[bisect_left(_CONTEXT_LIMITS, sequence.num_tokens)],
    )


class Counts:
    """Sums over rounds, each with its weight. A ratio is None where its divisor is 0."""

    __slots__ = ("_rounds_by_accepted", "_rounds_by_verified", "committed", "drafted", "rounds")

    def __init__(self) -> None:
        self.rounds = self.drafted = self.committed = 0.0
        self._rounds_by_verified: dict[int, float] = defaultdict(float)
        self._rounds_by_accepted: dict[int, float] = defaultdict(float)

    def add(self, done: Round, weight: float) -> None:
        self.rounds += weight
        self.drafted += done.drafted * weight
        self.committed += done.committed * weight
        self._rounds_by_verified[done.verified] += weight
        self._rounds_by_accepted[done.accepted] += weight

    def scaled(self, factor: float) -> Counts:
        """What is left of it; nothing, where that is less than `_FORGOTTEN`."""
        made = Counts()
        if self.rounds * factor > _FORGOTTEN:
            made.rounds, made.drafted = self.rounds * factor, self.drafted * factor
            made.committed = self.committed * factor
            made._rounds_by_verified |= _scaled(self._rounds_by_verified, factor)
            made._rounds_by_accepted |= _scaled(self._rounds_by_accepted, factor)
        return made

    @property
    def verified(self) -> float:
        return sum(length * rounds for length, rounds in self._rounds_by_verified.copy().items())

    @property
    def accepted(self) -> float:
        return sum(length * rounds for length, rounds in self._rounds_by_accepted.copy().items())

    @property
    def accepted_length(self) -> float | None:
        """Tokens committed a round."""
        return _ratio(self.committed, self.rounds)

    @property
    def proposal_length(self) -> float | None:
        """Tokens drafted a round."""
        return _ratio(self.drafted, self.rounds)

    @property
    def verified_length(self) -> float | None:
        """Drafted tokens a round that went through the target."""
        return _ratio(self.verified, self.rounds)

    @property
    def waste(self) -> float | None:
        """Share of the verified tokens that were not accepted."""
        verified = self.verified
        return _ratio(verified - self.accepted, verified)

    @property
    def verified_rounds(self) -> list[float]:
        """Rounds that verified slot k, at index k − 1."""
        return _at_least(self._rounds_by_verified)

    @property
    def survived_rounds(self) -> list[float]:
        """Rounds that accepted all drafts up to slot k, at index k − 1; as long as `verified_rounds`."""
        survived = _at_least(self._rounds_by_accepted)
        return survived + [0.0] * (len(self.verified_rounds) - len(survived))

    @property
    def survival(self) -> list[float]:
        """Survival of slot k at index k − 1; empty where nothing was verified."""
        verified = self.verified_rounds
        return [kept / tested for kept, tested in zip(self.survived_rounds, verified, strict=False)]


class Margins:
    """Counts over all rounds, and of each band of each dimension."""

    def __init__(self) -> None:
        self.overall = Counts()
        self.by = {name: {band: Counts() for band in bands} for name, bands in DIMENSIONS.items()}

    def add(self, bands: tuple[str, ...], done: Round, weight: float) -> None:
        self.overall.add(done, weight)
        for counts, band in zip(self.by.values(), bands, strict=True):
            counts[band].add(done, weight)

    def scaled(self, factor: float) -> Margins:
        made = Margins()
        made.overall = self.overall.scaled(factor)
        made.by = {
            name: {band: counts.scaled(factor) for band, counts in bands.items()}
            for name, bands in self.by.items()
        }
        return made


class SpeculationStats:
    """Fed in the loop's thread, read in any."""

    def __init__(self) -> None:
        self.total, self.recent = Margins(), Margins()
        self._weight = 1.0  # of the newest round; older ones stay as they are and so count ever less

    def round_done(self, sequence: Sequence, done: Round, num_decoding: int) -> None:
        bands = bands_of(sequence, num_decoding)
        self.total.add(bands, done, 1.0)
        self._weight *= _GROWTH
        self.recent.add(bands, done, self._weight)
        if self._weight > _HEAVIEST:
            self.recent = self.recent.scaled(1.0 / self._weight)
            self._weight = 1.0


def _at_least(rounds_by_length: dict[int, float]) -> list[float]:
    """Rounds of length 1 or more, 2 or more, … up to the longest."""
    known = rounds_by_length.copy()
    longest = max(known, default=0)
    return list(accumulate(known.get(length, 0.0) for length in range(longest, 0, -1)))[::-1]


def _scaled(rounds_by_length: dict[int, float], factor: float) -> dict[int, float]:
    return {
        length: rounds * factor for length, rounds in rounds_by_length.items() if rounds * factor > _FORGOTTEN
    }


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
