"""`Digest`: what the outcomes of a short while teach about one target for one task shape, as news for other workers.

Plain counts and sums, so that digests may be absorbed in any order and weight; waits also as counts by bucket
(`router.histogram`), those that ended apart from those given up after that long. In: outcomes. Out: a row of plain
JSON values, and a digest from one. Knows neither when nor where the outcomes were: whoever passes it on does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from router.histogram import bucket
from router.learnt import Sums
from router.outcome import NO_FIRST_TOKEN, TIMEOUTS, Outcome

Buckets = dict[int, float]  # bucket of router.histogram → waits
COLLECTED_S = 1.0  # so long before its time the oldest of its outcomes may be
_HISTOGRAMS = ("ttft", "ttft_at_least", "completion", "completion_at_least")


@dataclass(slots=True)
class Digest:
    """`…_at_least` are waits that were given up; `failures_in_a_row` are those since the last success.

    Counts are whole ones, unless `scaled`.
    """

    num_samples: float = 0.0
    sums: Sums = field(default_factory=Sums)
    ttft: Buckets = field(default_factory=dict)
    ttft_at_least: Buckets = field(default_factory=dict)
    completion: Buckets = field(default_factory=dict)
    completion_at_least: Buckets = field(default_factory=dict)
    failures_in_a_row: int = 0

    @property
    def is_empty(self) -> bool:
        return self.num_samples == 0.0

    def add(self, outcome: Outcome) -> None:
        self.num_samples += 1.0
        self.sums.add(outcome)
        if not outcome.is_shadow:  # as the breaker counts
            self._count_failures(outcome)
        if outcome.result == "ok":
            _count(self.completion, outcome.total_s)
            if outcome.ttft_s is not None:
                _count(self.ttft, outcome.ttft_s)
            return
        if outcome.result in NO_FIRST_TOKEN:
            _count(self.ttft_at_least, outcome.total_s)
        if outcome.result in TIMEOUTS:
            _count(self.completion_at_least, outcome.total_s)

    def _count_failures(self, outcome: Outcome) -> None:
        if outcome.result == "ok":
            self.failures_in_a_row = 0
        elif outcome.is_failure:
            self.failures_in_a_row += 1

    def scaled(self, factor: float) -> Digest:
        """The same evidence, worth `factor` times as much; of failures in a row it tells nothing."""
        sums = Sums(*(getattr(self.sums, name) * factor for name in Sums.__slots__))
        scaled = Digest(self.num_samples * factor, sums)
        for name in _HISTOGRAMS:
            setattr(scaled, name, {k: n * factor for k, n in getattr(self, name).items()})
        return scaled

    def as_row(self) -> dict[str, Any]:
        """JSON values; what is zero, empty or None is left out."""
        sums = {name: value for name in Sums.__slots__ if (value := getattr(self.sums, name))}
        histograms = {name: [[k, n] for k, n in getattr(self, name).items()] for name in _HISTOGRAMS}
        counts = {"num_samples": self.num_samples, "failures_in_a_row": self.failures_in_a_row}
        return {name: value for name, value in (counts | {"sums": sums} | histograms).items() if value}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Digest:
        """What this version knows of a row. Raises AttributeError, TypeError, ValueError for what is none."""
        sums = {name: float(value) for name, value in row.get("sums", {}).items() if name in Sums.__slots__}
        digest = cls(float(row.get("num_samples", 0.0)), Sums(**sums))
        for name in _HISTOGRAMS:
            setattr(digest, name, {int(k): float(n) for k, n in row.get(name, ())})
        digest.failures_in_a_row = int(row.get("failures_in_a_row", 0))
        return digest


def _count(buckets: Buckets, seconds: float) -> None:
    k = bucket(seconds)
    buckets[k] = buckets.get(k, 0.0) + 1.0
