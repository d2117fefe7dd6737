"""`Length`: how many tokens answers have, learnt as they end; one a task shape, and one a shape and workflow.

Answers of the last hundreds of calls count, whoever gave them and however long ago. In: lengths in tokens. Out: the
mean, quantiles (right to 1 %, as `router.histogram`), and the share of answers that are longer than there is room for.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from router.histogram import bucket, quantile, upper

LASTING = 200.0  # answers
MAX_WORKFLOWS = 1_000  # the first ones go first
_GROWTH = 1.0 + 1.0 / LASTING  # a newer answer weighs so many times as much as the one before it
_RESCALE_AT = 1e12
_SHORT = 4_096
_BUCKETS = [0, *(bucket(tokens) for tokens in range(1, _SHORT + 1))]


@dataclass(slots=True)
class Length:
    """`weight`: how many answers are behind it. `longest`: no answer it remembers was longer."""

    mean: float = 0.0
    weight: float = 0.0
    longest: float = 0.0
    _counts: dict[int, float] = field(default_factory=dict)
    _one: float = 1.0  # weight of the next answer in `_counts`

    def add(self, tokens: int) -> None:
        total = self.weight + 1.0
        self.mean += (tokens - self.mean) / total
        self.weight = total if total < LASTING else LASTING
        counts, k = self._counts, _BUCKETS[tokens] if 0 < tokens <= _SHORT else bucket(tokens)
        counts[k] = counts.get(k, 0.0) + self._one
        if tokens > self.longest:
            self.longest = tokens
        self._one *= _GROWTH
        if self._one > _RESCALE_AT:
            self._rescale()

    def quantile(self, q: float) -> float | None:
        """Tokens; None before the first answer."""
        return quantile(self._counts, q)

    def share_over(self, tokens: float) -> float:
        """Of answers, those longer than that."""
        if tokens >= self.longest:
            return 0.0
        over = sum(count for k, count in self._counts.items() if upper(k) > tokens)
        return over / sum(self._counts.values())

    def _rescale(self) -> None:
        """What weighs less than a millionth of an answer is forgotten."""
        self._counts = {k: n / self._one for k, n in self._counts.items() if n > self._one * 1e-6}
        self._one, self.longest = 1.0, upper(max(self._counts))
