"""`Policy`: how to choose, as values. Parsed and checked elsewhere (gateway.config); this file knows no YAML.

In: nothing. Out: the frozen dataclasses that `decide` reads. Seconds in `_s`, shares in 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from router.query import Query

Objective = Literal["ttft", "speed", "completion_p95", "cost_per_completed_task"]
CompletedWhen = Literal["finish_stop", "explicit", "json_valid", "tool_loop_ends"]
ROLES = ("draft", "final")  # of a call in its task: a cheap step on the way, or the answer


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits a candidate's prediction must meet to be preferred; None = no limit."""

    ttft_p95_s: float | None = None
    completion_p95_s: float | None = None
    timeout_rate: float | None = None
    truncation_rate: float | None = None
    tpot_s: float | None = None

    @property
    def is_none(self) -> bool:
        return (
            self.ttft_p95_s
            is self.completion_p95_s
            is self.timeout_rate
            is self.truncation_rate
            is self.tpot_s
            is None
        )


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Three separate deadlines of a call: to the first token, between two pieces, and overall."""

    first_token_s: float = 30.0
    idle_s: float = 30.0
    total_s: float = 600.0

    def within(self, deadline_s: float) -> Timeouts:
        """The same, cut to a caller's deadline."""
        return Timeouts(
            min(self.first_token_s, deadline_s), min(self.idle_s, deadline_s), min(self.total_s, deadline_s)
        )


@dataclass(frozen=True, slots=True)
class Retries:
    """`max` further attempts a call, at most `budget` × calls (+10 in 10 s) over all calls."""

    max: int = 2
    budget: float = 0.2


@dataclass(frozen=True, slots=True)
class Hedge:
    """A second target is tried beside the first when that has not answered after `after_s`; the quicker one wins.

    `after_s` None = the first one's own p95. At most `budget` × calls are hedged.
    """

    after_s: float | None = None
    budget: float = 0.05


@dataclass(frozen=True, slots=True)
class Shadow:
    """A target that is also sent `share` of the calls, to learn of it: its answers are thrown away.

    At most `usd_per_day` is spent on it (None = without a limit).
    """

    target: str
    share: float
    usd_per_day: float | None = None


@dataclass(frozen=True, slots=True)
class ShapePolicy:
    """What the policy says of one task shape. Empty `candidates` means every enabled target.

    `weights`: candidates under experiment, each with the share of the calls that it gets whatever its score; the
    others share the rest by score. `roles`: the candidates of calls that say they are a `draft` or `final` step.
    `sticky`: what the target of a task's last call has cached counts in its favour. `shadow`: see there.
    `completed_when`: how it shows from a call that its task is completed, where nobody says so; `abandoned_after_s`: a
    task that is neither completed nor failed is given up after so long a silence.
    `keepalive_s`: a stream's head and comments are sent this often before its first token (None = nothing is sent
    before it). `cache_ttl_s`: answers to deterministic calls are kept this long (None = not at all).
    """

    objective: Objective = "ttft"
    candidates: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    slo: Slo = field(default_factory=Slo)
    timeouts: Timeouts = field(default_factory=Timeouts)
    hedge: Hedge | None = None
    keepalive_s: float | None = None
    cache_ttl_s: float | None = None
    weights: tuple[tuple[str, float], ...] = ()
    roles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sticky: bool = True
    shadow: Shadow | None = None
    completed_when: CompletedWhen = "finish_stop"
    abandoned_after_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """Sets `shape` when every condition fits. Keys: `header.<name>`, `metadata.<key>`, `model`, `caller`,
    `endpoint`, `workflow`; values are shell patterns, compared case-sensitively (header names are not)."""

    when: tuple[tuple[str, str], ...]
    shape: str

    def matches(self, query: Query) -> bool:
        return all(_fits(query, key, pattern) for key, pattern in self.when)


@dataclass(frozen=True, slots=True)
class Policy:
    """One loaded version of policy.yaml.

    `max_ejected`: of a call's candidates, the share that may rest for failures at a time.
    """

    hash: str
    shapes: dict[str, ShapePolicy]
    defaults: ShapePolicy = field(default_factory=ShapePolicy)
    retries: Retries = field(default_factory=Retries)
    explore: float = 0.02
    half_life_s: float = 60.0
    max_ejected: float = 1.0
    rules: tuple[Rule, ...] = ()

    def for_shape(self, shape: str) -> ShapePolicy:
        return self.shapes.get(shape, self.defaults)


def _fits(query: Query, key: str, pattern: str) -> bool:
    value = _field(query, key)
    return value is not None and fnmatchcase(value, pattern)


def _field(query: Query, key: str) -> str | None:
    kind, _, name = key.partition(".")
    if kind == "header":
        return query.headers.get(name.lower())
    if kind == "metadata":
        return query.metadata.get(name)
    plain = {
        "model": query.model,
        "caller": query.caller,
        "endpoint": query.endpoint,
        "workflow": query.workflow,
    }
    return plain.get(key)
