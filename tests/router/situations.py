"""`Situation`: everything a decision is made from, as Hypothesis draws it; fleets are grown from what has happened.

`python -m tests.router.situations` reads pickled situations and writes what is decided, in a process of its own.
"""

from __future__ import annotations

import json
import pickle
import sys
from dataclasses import dataclass
from itertools import chain
from typing import Any, get_args

from hypothesis import strategies as st

from router.catalog import Catalog, Target
from router.decide import decide
from router.decision import Decision
from router.fleet import EngineState, Fleet
from router.outcome import Outcome, Result
from router.policy import ROLES, Hedge, Objective, Policy, Shadow, ShapePolicy, Slo
from router.query import Query
from router.shapes import SHAPES
from tests.router.calls import CHAT

BEGUN = 1_000.0
NAMES = "abcd"
SEEN_SHAPES = ("short_chat", "general")  # of what has happened; a call may be of any
ENDPOINTS = (CHAT, "/v1/embeddings", "/v1/responses")

seconds = st.floats(1e-4, 1e4)
dollars = st.floats(0.0, 10.0)
shares = st.floats(0.0, 1.0)
draws = st.floats(0.0, 1.0, exclude_max=True)
mostly = st.sampled_from([True] * 7 + [False])
seldom = mostly.map(lambda drawn: not drawn)
names = st.sampled_from(NAMES)
lists_of_names = st.lists(names, unique=True).map(tuple)


@dataclass(frozen=True)
class Event:
    """After `wait_s` an attempt ends, with this outcome, or one begins and goes on; else an engine's state is read.

    `is_followed`: the fleet is told when the attempt began. `engine` None: it did not answer.
    """

    wait_s: float
    target: str
    outcome: Outcome | None = None
    is_start: bool = False
    is_followed: bool = False
    engine: EngineState | None = None


@dataclass(frozen=True)
class Situation:
    """What `decide` is given, `idle_s` after the last of the events."""

    query: Query
    catalog: Catalog
    policy: Policy
    events: tuple[Event, ...]
    half_life_s: float
    idle_s: float
    draw: float

    @property
    def now(self) -> float:
        return BEGUN + sum(event.wait_s for event in self.events) + self.idle_s

    @property
    def rules(self) -> ShapePolicy:
        """A declared shape's; all situations declare one."""
        return self.policy.for_shape(self.query.declared_shape or "general")

    def fleet(self) -> Fleet:
        fleet, now = Fleet(self.half_life_s), BEGUN
        for event in self.events:
            now += event.wait_s
            happen(fleet, event, now)
        return fleet

    def decide(self, fleet: Fleet | None = None) -> Decision:
        return decide(self.query, self.catalog, self.policy, fleet or self.fleet(), self.now, self.draw)


def happen(fleet: Fleet, event: Event, now: float) -> None:
    if event.outcome is not None:
        shape = event.outcome.shape if event.is_followed else None
        call = fleet.start(event.target, shape, now - event.outcome.total_s)
        fleet.observe(event.outcome, now, call)
    elif event.is_start:
        fleet.start(event.target, SEEN_SHAPES[0] if event.is_followed else None, now)
    else:
        fleet.set_engine(event.target, event.engine, now)


queries = st.builds(
    Query,
    endpoint=st.sampled_from([CHAT] * 6 + [*ENDPOINTS]),
    model=st.sampled_from(["auto"] * 12 + ["a", "b", "gpt-4o", "pair"]),
    stream=st.booleans(),
    target=st.sampled_from([None] * 12 + [*NAMES]),
    task_id=st.sampled_from([None, "t1", "t2"]),
    role=st.sampled_from([None, *ROLES]),
    last_target=st.none() | names,
    message_count=st.integers(1, 4),
    declared_shape=st.sampled_from(SEEN_SHAPES * 4 + SHAPES),
    input_tokens=st.sampled_from([0, 50, 900, 3_000, 20_000]),
    max_output_tokens=st.none() | st.integers(1, 10_000),
    has_tools=seldom,
    has_images=seldom,
    wants_json=seldom,
    slo_ttft_s=st.none() | seconds,
    slo_tpot_s=st.none() | seconds,
    deadline_s=st.none() | seconds,
)


def targets(name: str) -> st.SearchStrategy[Target]:
    """Mostly able ones, else few calls would have a choice."""
    return st.builds(
        Target,
        name=st.just(name),
        kind=st.just("openai"),
        model=st.just("m"),
        endpoints=st.sets(st.sampled_from(ENDPOINTS), min_size=1).map(lambda some: frozenset({CHAT, *some})),
        context_tokens=st.none() | st.sampled_from([1_000, 8_000, 40_000]),
        has_tools=mostly,
        has_images=mostly,
        has_json=mostly,
        input_usd_per_mtok=st.none() | dollars,
        output_usd_per_mtok=st.none() | dollars,
        disabled_reason=mostly.map(lambda is_able: None if is_able else "no key"),
    )


catalogs = st.builds(
    Catalog,
    targets=st.tuples(*map(targets, NAMES)).map(lambda all_: {target.name: target for target in all_}),
    models=st.just({"gpt-4o": ("auto",), "pair": ("a", "b")}),
    fallbacks=st.sampled_from([{}, {"pair": ("c", "b")}]),
)
slos = st.builds(
    Slo,
    ttft_p95_s=st.none() | seconds,
    completion_p95_s=st.none() | seconds,
    timeout_rate=st.none() | shares,
    truncation_rate=st.none() | shares,
    tpot_s=st.none() | st.floats(1e-5, 10.0),
)


@st.composite
def weights(draw: st.DrawFn) -> tuple[tuple[str, float], ...]:
    """Some targets with tenths, together at most ten of them."""
    left, drawn = 10, []
    for name in draw(lists_of_names):
        tenths = draw(st.integers(0, left))
        left -= tenths
        drawn.append((name, tenths / 10))
    return tuple(drawn)


shape_policies = st.builds(
    ShapePolicy,
    objective=st.sampled_from(get_args(Objective)),
    candidates=lists_of_names,
    fallback=lists_of_names,
    slo=st.just(Slo()) | slos,
    hedge=st.none() | st.builds(Hedge, after_s=st.none() | seconds, budget=shares),
    weights=st.just(()) | weights(),
    roles=st.just({}) | st.dictionaries(st.sampled_from(ROLES), lists_of_names),
    sticky=st.booleans(),
    shadow=st.none() | st.builds(Shadow, target=names, share=shares),
)
policies = st.builds(
    Policy,
    hash=st.just("p1"),
    shapes=st.just({}),
    defaults=shape_policies,
    explore=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)


@st.composite
def outcomes(draw: st.DrawFn, results: tuple[Result, ...] = get_args(Result)) -> Outcome:
    """A stream's has its parts, and they add up to no more than the whole."""
    result, streamed = draw(st.sampled_from(results)), draw(st.booleans())
    ttft_s, tpot_s, tokens = draw(seconds), draw(st.floats(1e-5, 10.0)), draw(st.integers(0, 5_000))
    is_whole_stream = result == "ok" and streamed
    return Outcome(
        target=draw(names),
        shape=draw(st.sampled_from(SEEN_SHAPES)),
        result=result,
        total_s=ttft_s + tokens * tpot_s,
        ttft_s=ttft_s if is_whole_stream else None,
        tpot_s=tpot_s if is_whole_stream and tokens > 1 else None,
        output_tokens=tokens if result == "ok" else None,
        is_truncated=result == "ok" and draw(st.booleans()),
        cost_usd=draw(st.none() | dollars),
        http_status=draw(st.sampled_from([400, 429, 500])) if result == "http_error" else None,
        retry_after_s=draw(st.none() | st.floats(0.0, 1e4)) if result == "http_error" else None,
    )


engine_states = st.builds(
    EngineState,
    running=st.integers(0, 64),
    waiting=st.integers(0, 200),
    max_batch=st.integers(1, 64),
    max_context_tokens=st.none() | st.sampled_from([1_000, 8_000, 40_000]),
    draining=seldom,
    steps_per_s=st.dictionaries(st.sampled_from([1, 4, 16, 64]), st.floats(0.1, 1e4)),
    accepted_length=st.floats(1.0, 8.0),
    accepted_length_by_shape=st.dictionaries(st.sampled_from(SHAPES), st.floats(1.0, 8.0)),
)
waits = st.sampled_from([0.0, 0.01, 0.3, 2.0, 70.0, 10_000.0])


def ended(**given: Any) -> st.SearchStrategy[list[Event]]:
    def events(wait_s: float, outcome: Outcome, is_followed: bool, times: int) -> list[Event]:
        return [Event(wait_s, outcome.target, outcome, is_followed=is_followed)] * times

    return st.builds(events, waits, outcomes(**given), st.booleans(), st.sampled_from([1, 1, 2, 4, 30]))


def begun() -> st.SearchStrategy[list[Event]]:
    def events(target: str, is_followed: bool, times: int) -> list[Event]:
        return [Event(0.0, target, is_start=True, is_followed=is_followed)] * times

    return st.builds(events, names, st.booleans(), st.integers(1, 9))


def told() -> st.SearchStrategy[list[Event]]:
    return st.builds(
        lambda wait_s, target, state: [Event(wait_s, target, engine=state)],
        waits,
        names,
        st.none() | engine_states,
    )


histories = st.lists(ended() | ended() | begun() | told(), max_size=12).map(
    lambda runs: tuple(chain.from_iterable(runs))
)
situations = st.builds(
    Situation,
    query=queries,
    catalog=catalogs,
    policy=policies,
    events=histories,
    half_life_s=st.sampled_from([1.0, 60.0, 3600.0]),
    idle_s=waits,
    draw=draws,
)

if __name__ == "__main__":
    for situation in pickle.load(sys.stdin.buffer):
        print(json.dumps(situation.decide().as_json(), sort_keys=True))
