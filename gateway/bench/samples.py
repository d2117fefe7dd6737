"""Samples of a benchmark, and what may honestly be said of them.

In: `Sample`s, one a call. Out: `ModelReport`s with nearest-rank percentiles, each marked when too few samples carry
it. Pure: no clock, no I/O. Failed calls count in the error rate and in no percentile.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from gateway.bench.prompts import Check, Prompt

# Below these, the percentile is the largest sample or close to it: one outlier decides.
NEEDED = {"p50": 1, "p95": 20, "p99": 100}
_SHARES = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True, slots=True)
class Sample:
    """One call as its client saw it. Times from sending the request; `error_code` None means it ended well.

    A call whose prompt has a check is a task of its own: completed, or not.
    """

    model: str
    run: int
    total_s: float
    ttft_s: float | None = None
    output_tokens: int | None = None
    error_code: str | None = None
    status: int | None = None
    target: str | None = None
    request_id: str | None = None
    cost_usd: float | None = None
    prompt: str | None = None  # its name
    completed: bool | None = None  # whether its prompt's check passed; None: it has none, or it was not run

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens after the first ÷ time after the first; None for fewer than two."""
        if self.error_code or not self.output_tokens or self.output_tokens < 2 or self.ttft_s is None:
            return None
        after_s = self.total_s - self.ttft_s
        return (self.output_tokens - 1) / after_s if after_s > 0 else None


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Nearest-rank percentiles of `n` samples; None without any. `too_few_for` names those not to be relied on."""

    n: int
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    too_few_for: tuple[str, ...] = ()

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Percentiles:
        ordered = sorted(value for value in values if value is not None)
        found = {name: nearest_rank(ordered, share) for name, share in _SHARES.items()}
        few = tuple(name for name, needed in NEEDED.items() if len(ordered) < needed)
        return cls(len(ordered), too_few_for=few, **found)


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What was measured of one model name. `cost_usd` is of the calls whose cost is known, None when none is.

    `cost_per_completed_usd` is the cost of all calls that were checked ÷ those that passed; None where any is unknown.
    """

    model: str
    calls: int
    errors: dict[str, int]
    ttft_s: Percentiles
    total_s: Percentiles
    tokens_per_s: Percentiles
    targets: dict[str, int] = field(default_factory=dict)
    cost_usd: float | None = None
    unpriced: int = 0
    checked: int = 0
    completed: int = 0
    cost_per_completed_usd: float | None = None

    @property
    def error_rate(self) -> float:
        return sum(self.errors.values()) / self.calls

    @property
    def completion_rate(self) -> float | None:
        return self.completed / self.checked if self.checked else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"error_rate": self.error_rate, "completion_rate": self.completion_rate}


def nearest_rank(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least `share` of all values do not exceed; None of nothing."""
    if not ordered:
        return None
    rank = math.ceil(share * len(ordered) - 1e-9)  # 0.95 × 20 is 19, whatever binary fractions say
    return ordered[max(rank, 1) - 1]


def reports(samples: Sequence[Sample], models: Iterable[str]) -> list[ModelReport]:
    """One report a model that was called at all, in the order of `models`."""
    groups = {model: [sample for sample in samples if sample.model == model] for model in models}
    return [_report(model, group) for model, group in groups.items() if group]


def with_costs(samples: Iterable[Sample], costs_usd: dict[str, float]) -> list[Sample]:
    """Costs by request id, as far as they are known."""
    return [replace(sample, cost_usd=costs_usd.get(sample.request_id or "")) for sample in samples]


def judged(
    samples: Iterable[Sample],
    answers: Iterable[str],
    prompts: Sequence[Prompt],
    passes: Callable[[Check, str], bool | None],
) -> list[Sample]:
    """With what their checks say of the answers. A call that failed has not completed its task."""
    checks = {prompt.name: prompt.check for prompt in prompts}
    found = []
    for sample, answer in zip(samples, answers, strict=True):
        check = checks.get(sample.prompt or "")
        completed = None if check is None else passes(check, answer)
        found.append(replace(sample, completed=completed and sample.error_code is None))
    return found


def _report(model: str, samples: Sequence[Sample]) -> ModelReport:
    good = [sample for sample in samples if sample.error_code is None]
    costs = [sample.cost_usd for sample in samples if sample.cost_usd is not None]
    checked = [sample for sample in samples if sample.completed is not None]
    completed = sum(sample.completed is True for sample in checked)
    return ModelReport(
        model=model,
        calls=len(samples),
        errors=dict(Counter(sample.error_code for sample in samples if sample.error_code)),
        ttft_s=Percentiles.of(sample.ttft_s for sample in good),
        total_s=Percentiles.of(sample.total_s for sample in good),
        tokens_per_s=Percentiles.of(sample.tokens_per_s for sample in good),
        targets=dict(Counter(sample.target for sample in samples if sample.target)),
        cost_usd=sum(costs) if costs else None,
        unpriced=len(samples) - len(costs),
        checked=len(checked),
        completed=completed,
        cost_per_completed_usd=_cost_per_completed(checked, completed),
    )


def _cost_per_completed(checked: Sequence[Sample], completed: int) -> float | None:
    costs = [sample.cost_usd for sample in checked]
    known = [cost for cost in costs if cost is not None]
    return sum(known) / completed if completed and len(known) == len(costs) else None
