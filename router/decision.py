"""`Decision`: what was chosen and why, complete enough to explain a call months later.

Out of `decide`, into dispatch (the order to try) and the ledger (`as_json`). Seconds, dollars and shares as floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from router.policy import Objective, Timeouts


@dataclass(slots=True)
class Prediction:
    """What a target is expected to do with this call; `weight` is the decayed number of samples behind it."""

    ttft_s: float
    tpot_s: float
    completion_s: float
    completion_p95_s: float
    cost_usd: float | None
    success_share: float
    in_flight: int
    crowding: float
    weight: float
    hope: float = 1.0  # share of its waits that would be left were it as well as it may be; 0 = not known
    burden: float = 1.0  # times as much as its own wait is what it costs it and those who come after
    p95_trust: float = 1.0  # targets are compared by it times `completion_p95_s`, of few calls mostly chance


@dataclass(slots=True)
class Belief:
    """What one try costs, and how sure its success is: the log odds of failure are normal with this mean and deviation.

    `salt` makes a draw of the target's own out of the call's.
    """

    cost: float
    mean: float
    deviation: float
    salt: int


@dataclass(slots=True)
class Candidate:
    """A target in the order of trying. `score` is in the objective's unit, lower is better; None for fallbacks.

    Decisions share candidates: they are not to be changed.
    """

    target: str
    role: str  # candidate | fallback | explore | sticky | weighted
    score: float | None
    prediction: Prediction | None
    slo_misses: tuple[str, ...] = ()
    _written: Any = field(default=None, init=False, repr=False, compare=False)
    _belief: Belief | None = field(default=None, init=False, repr=False, compare=False)

    def written(self, write: Callable[[Candidate], Any]) -> Any:
        """What `write` makes of it, made once."""
        if self._written is None:
            self._written = write(self)
        return self._written

    def belief(self, read: Callable[[Candidate], Belief]) -> Belief:
        """What `read` makes of it, made once."""
        if self._belief is None:
            self._belief = read(self)
        return self._belief


@dataclass(slots=True)
class Rejection:
    """A target that may not serve this call, and why."""

    target: str
    reason: str


@dataclass(slots=True)
class Decision:
    """The whole answer to "where does this call go, and why". `role` is the call's in its task, where it counted."""

    shape: str
    shape_source: str
    objective: Objective
    candidates: tuple[Candidate, ...]
    rejections: tuple[Rejection, ...]
    reason: str
    policy_hash: str
    draw: float
    explored: bool
    expected_output_tokens: int
    timeouts: Timeouts
    max_retries: int
    hedge_after_s: float | None = None  # when a second target is tried beside the first; None = never
    hedge_budget: float = 0.0
    keepalive_s: float | None = None
    cache_ttl_s: float | None = None
    role: str | None = None
    shape_confidence: float | None = None  # of an inferred shape: the probability that it is right
    shadow: str | None = None  # the target that is to get the call too, on trial

    def as_json(self) -> dict[str, Any]:
        """JSON-ready; floats to five significant digits, for people and for Postgres."""
        rounded: dict[str, Any] = _rounded(asdict(self, dict_factory=_public))
        return rounded


def _public(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in items if not name.startswith("_")}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
