"""The scenarios of the routing simulator, as data: targets, calls and what befalls them.

In: nothing. Out: `SCENARIOS` by name. They are fixed before anything is tuned on them. Times are seconds of virtual
time since the start of a run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from router.policy import Timeouts

# What befalls a target: it takes so many times as long, lets this share of calls hang, fails this share, or is sent so
# many calls a second by others, of which no strategy is told.
Trouble = Literal["slow", "hang", "fail", "crowd"]
# Of a policy's objectives those that the oracle can serve.
Objective = Literal["completion_p95", "cost_per_completed_task"]

_DEADLINES = Timeouts(first_token_s=15.0, idle_s=15.0, total_s=90.0)


@dataclass(frozen=True, slots=True)
class Kind:
    """Calls of one shape: their share, and their lengths. Answers are log-normal around `output_tokens`."""

    shape: str
    share: float
    input_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Place:
    """A target as it truly is. `ttft_s` and `tpot_s` are medians while it serves nothing else.

    `slots` calls are served at a time, later ones wait their turn; with all slots taken a call takes
    `1 + crowding` times as long. `tail_share` of first tokens come from a Pareto tail. One with `retry_after_s` lets
    nobody wait: with all slots taken it answers 429 and that Retry-After. One with `accepted_length` is an engine,
    which may be asked for its state: `tpot_s` is a step's, which yields so many tokens, by shape.
    """

    name: str
    slots: int
    ttft_s: float
    tpot_s: float
    crowding: float = 0.8
    tail_share: float = 0.03
    input_usd_per_mtok: float = 1.0
    output_usd_per_mtok: float = 4.0
    joins_s: float = 0.0
    retry_after_s: float | None = None
    accepted_length: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Incident:
    """`amount`: times as long for `slow`, calls a second for `crowd`, else the share of calls."""

    target: str
    trouble: Trouble
    begins_s: float
    ends_s: float
    amount: float


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Open loop: Poisson, `rate_per_s` on average outside bursts. `swing`: of the rate over `day_s`, as a share.

    In bursts of about `burst_s`, one every `burst_every_s` or so, it is `burst_times` as much.
    """

    rate_per_s: float
    swing: float = 0.0
    burst_times: float = 1.0
    burst_s: float = 5.0
    burst_every_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One world. `drift`: how far the targets' speeds swing over `day_s`, each with a phase of its own."""

    name: str
    places: tuple[Place, ...]
    arrivals: Arrivals
    kinds: tuple[Kind, ...]
    incidents: tuple[Incident, ...] = ()
    objective: Objective = "completion_p95"
    timeouts: Timeouts = _DEADLINES
    duration_s: float = 300.0
    drift: float = 0.0
    day_s: float = 240.0

    @property
    def failed_s(self) -> float:
        """What a call that failed counts as among completions: it was worth waiting for until its last deadline."""
        return self.timeouts.total_s


_KINDS = (
    Kind("short_chat", 0.45, 120, 80),
    Kind("classification", 0.2, 400, 4),
    Kind("summarization", 0.2, 3000, 200),
    Kind("code_generation", 0.15, 800, 600),
)
_PLACES = (
    Place("swift", 24, 0.25, 0.012, input_usd_per_mtok=2.0, output_usd_per_mtok=8.0),
    Place("broad", 48, 0.40, 0.018, input_usd_per_mtok=1.0, output_usd_per_mtok=4.0),
    Place("prompt", 24, 0.18, 0.030, input_usd_per_mtok=0.6, output_usd_per_mtok=2.4),
    Place("cheap", 48, 0.80, 0.028, tail_share=0.06, input_usd_per_mtok=0.2, output_usd_per_mtok=0.8),
)
_CALM = Scenario("calm", _PLACES, Arrivals(8.0), _KINDS)
_SLOWDOWN = Incident("swift", "slow", 120.0, 180.0, 10.0)
_TIMEOUTS = Incident("swift", "hang", 120.0, 180.0, 0.05)
_FAILURES = Incident("swift", "fail", 120.0, 180.0, 0.3)
_OUTAGE = Incident("swift", "fail", 0.0, 120.0, 1.0)
_MIXED = (
    replace(_SLOWDOWN, begins_s=60.0, ends_s=120.0),
    replace(_TIMEOUTS, target="broad", begins_s=150.0, ends_s=210.0),
    replace(_FAILURES, begins_s=240.0, ends_s=300.0),
)
_NEW = replace(_PLACES[0], name="new", joins_s=120.0)
_ACCEPTED = (("short_chat", 1.8), ("classification", 1.2), ("summarization", 2.6), ("code_generation", 3.4))
_ENGINE = Place(
    "engine", 16, 0.15, 0.025, crowding=1.5, tail_share=0.01, input_usd_per_mtok=0.1, output_usd_per_mtok=0.4
)
_ENGINES = (
    replace(_ENGINE, accepted_length=_ACCEPTED),
    replace(_ENGINE, name="small", slots=8, tpot_s=0.04, accepted_length=_ACCEPTED),
    _PLACES[0],
    _PLACES[1],
)
_CROWD = Incident("engine", "crowd", 120.0, 180.0, 8.0)
_LIMITED = (
    replace(_PLACES[0], slots=10, retry_after_s=5.0),
    replace(_PLACES[1], slots=16, retry_after_s=2.0),
    *_PLACES[2:],
)

SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        _CALM,
        replace(_CALM, name="slowdown", incidents=(_SLOWDOWN,)),
        replace(_CALM, name="timeouts", incidents=(_TIMEOUTS,)),
        replace(_CALM, name="failures", incidents=(_FAILURES,)),
        replace(_CALM, name="recovery", incidents=(_OUTAGE,)),
        replace(_CALM, name="newcomer", places=(*_PLACES, _NEW)),
        replace(_CALM, name="prices", arrivals=Arrivals(3.5), objective="cost_per_completed_task"),
        replace(_CALM, name="bursts", arrivals=Arrivals(6.0, burst_times=3.0)),
        replace(_CALM, name="diurnal", arrivals=Arrivals(8.0, swing=0.4), drift=0.4),
        replace(
            _CALM,
            name="mixed",
            places=(*_PLACES, replace(_NEW, joins_s=220.0)),
            arrivals=Arrivals(7.0, swing=0.2, burst_times=2.0),
            incidents=_MIXED,
            drift=0.2,
            duration_s=360.0,
        ),
        replace(_CALM, name="engine", places=_ENGINES, incidents=(_CROWD,)),
        replace(_CALM, name="limits", places=_LIMITED, arrivals=Arrivals(6.0, burst_times=2.0)),
    )
}
