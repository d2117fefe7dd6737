"""The figures of the top row and of the tables, computed from the frames of `queries`.

Pure: frames in, values out. A latency comes with the number of samples behind it, so that nobody has to trust
a percentile of three calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from dashboard.quantiles import FEW_SAMPLES, overall


@dataclass(frozen=True, slots=True)
class Latency:
    """Quantiles in the metric's unit (seconds), of `n` samples; None without any."""

    n: int
    p50: float | None
    p95: float | None
    p99: float | None

    @property
    def is_few(self) -> bool:
        return self.n < FEW_SAMPLES

    @classmethod
    def of(cls, buckets: pd.DataFrame, metric: str) -> Latency:
        return cls(*overall(buckets, metric))


@dataclass(frozen=True, slots=True)
class Summary:
    """One group of calls: all of a span, or those of one target or shape."""

    calls: int
    errors: int
    timeouts: int
    cost_usd: float | None  # of the calls whose cost is known; None when none is
    unpriced: int
    ttft: Latency
    tpot: Latency
    total: Latency

    @property
    def tokens_per_s(self) -> float | None:
        """Median output speed: the inverse of the median time per output token."""
        return 1 / self.tpot.p50 if self.tpot.p50 else None


def summarise(traffic: pd.DataFrame, buckets: pd.DataFrame) -> Summary:
    calls, unpriced = int(traffic["calls"].sum()), int(traffic["unpriced"].sum())
    return Summary(
        calls=calls,
        errors=int(traffic["errors"].sum()),
        timeouts=int(traffic["timeouts"].sum()),
        cost_usd=known_sum(traffic["cost_usd"]),
        unpriced=unpriced,
        ttft=Latency.of(buckets, "ttft_s"),
        tpot=Latency.of(buckets, "tpot_s"),
        total=Latency.of(buckets, "total_s"),
    )


def summarise_by(traffic: pd.DataFrame, buckets: pd.DataFrame, column: str) -> dict[str, Summary]:
    """Busiest first; `column` is target or shape."""
    order = traffic.groupby(column)["calls"].sum().sort_values(ascending=False)
    return {
        str(name): summarise(traffic[traffic[column] == name], buckets[buckets[column] == name])
        for name in order.index
    }


@dataclass(frozen=True, slots=True)
class Tries:
    """Upstream tries of one target, those that a fallback rescued included."""

    attempts: int
    failed: int
    timeouts: int
    cost_usd: float | None
    unpriced: int


def tries_by_target(attempts: pd.DataFrame) -> dict[str, Tries]:
    return {
        str(target): Tries(
            cost_usd=known_sum(rows["cost_usd"]),
            **{name: int(rows[name].sum()) for name in ("attempts", "failed", "timeouts", "unpriced")},
        )
        for target, rows in attempts.groupby("target")
    }


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """Tasks that began in a span. The cost is of all their attempts, whatever became of them."""

    tasks: int
    completed: int
    open: int
    cost_usd: float | None
    unpriced: int

    @property
    def cost_per_completed_usd(self) -> float | None:
        """None while nothing is completed or no cost is known."""
        return self.cost_usd / self.completed if self.completed and self.cost_usd is not None else None


def summarise_tasks(tasks: pd.DataFrame) -> TaskSummary:
    sums = {name: int(tasks[name].sum()) for name in ("tasks", "completed", "open", "unpriced")}
    return TaskSummary(cost_usd=known_sum(tasks["cost_usd"]), **sums)


def known_sum(costs: pd.Series) -> float | None:
    """The sum of what is known; None when nothing is."""
    known = costs.dropna()
    return float(known.astype(float).sum()) if len(known) else None
