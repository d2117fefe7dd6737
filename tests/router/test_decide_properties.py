"""What holds of every decision, whatever is asked, configured and has happened."""

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from router.catalog import Target
from router.decision import Candidate, Decision
from router.eligibility import unwell
from router.fleet import Fleet
from router.outcome import Outcome
from router.policy import Policy, ShapePolicy
from router.query import Query
from router.waits import COLD_TPOT_S, COLD_TTFT_S
from tests.router.calls import catalog, query
from tests.router.situations import (
    NAMES,
    Event,
    Situation,
    begun,
    ended,
    happen,
    queries,
    shape_policies,
    shares,
    situations,
    told,
)

NEVER_EXPLORE = 0.999999
ROUNDING = 1e-9


def named(situation: Situation) -> list[str]:
    """All that a call may go to, by its model name and the policy."""
    call, rules = situation.query, situation.rules
    pinned = {**{name: [name] for name in NAMES}, "pair": ["a", "b"]}.get(call.model, [])
    if call.target:
        return [call.target]
    if pinned:
        return list(dict.fromkeys([*pinned, *situation.catalog.fallbacks.get(call.model, ())]))
    by_role = rules.roles.get(call.role or "", ())
    return list(dict.fromkeys([*(by_role or rules.candidates or NAMES), *rules.fallback]))


def can_serve(call: Query, target: Target, fleet: Fleet) -> bool:
    engine = fleet.health(target.name).engine
    window = target.context_tokens or (engine.max_context_tokens if engine else None)
    return (
        target.disabled_reason is None
        and call.endpoint in target.endpoints
        and (target.has_tools or not (call.has_tools or call.has_tool_messages))
        and (target.has_images or not call.has_images)
        and (target.has_json or not call.wants_json)
        and (window is None or call.input_tokens <= window)
    )


def rests(fleet: Fleet, name: str, now: float) -> bool:
    health = fleet.health(name)
    return health.breaker.state(now) == "shedding" or (health.engine is not None and health.engine.draining)


def order(decision: Decision) -> list[str]:
    return [candidate.target for candidate in decision.candidates]


def who_cannot_serve_is_not_chosen(situation: Situation, fleet: Fleet, decision: Decision) -> None:
    for name in order(decision):
        assert can_serve(situation.query, situation.catalog.targets[name], fleet)


def a_refusal_has_a_cause(situation: Situation, fleet: Fleet, decision: Decision) -> None:
    """Who can serve is refused only for how it does just now."""
    for rejection in decision.rejections:
        health = fleet.health(rejection.target)
        assert (
            not can_serve(situation.query, situation.catalog.targets[rejection.target], fleet)
            or rests(fleet, rejection.target, situation.now)
            or health.unreachable_since_s is not None
            or (health.breaker.state(situation.now) == "probing" and health.in_flight > 0)
        ), rejection


def each_named_target_is_a_candidate_or_refused(situation: Situation, _: Fleet, decision: Decision) -> None:
    refused = [rejection.target for rejection in decision.rejections]
    assert Counter([*order(decision), *refused]) == Counter(named(situation))
    assert all(rejection.reason for rejection in decision.rejections)
    assert decision.reason


def a_call_that_anyone_can_serve_has_a_candidate(
    situation: Situation, fleet: Fleet, decision: Decision
) -> None:
    targets = situation.catalog.targets
    able = [name for name in named(situation) if can_serve(situation.query, targets[name], fleet)]
    assert bool(decision.candidates) is bool(able)


def exploration_picks_none_that_rests(situation: Situation, fleet: Fleet, decision: Decision) -> None:
    event(f"explored: {decision.explored}")
    assert [one.role for one in decision.candidates].count("explore") == decision.explored
    if decision.explored:
        assert decision.candidates[0].role == "explore"
        assert not rests(fleet, decision.candidates[0].target, situation.now)


def a_fallback_comes_first_only_to_keep_the_slo(situation: Situation, _: Fleet, decision: Decision) -> None:
    candidates = [index for index, one in enumerate(decision.candidates) if one.role != "fallback"]
    ahead = decision.candidates[: candidates[0]] if candidates else ()
    event(f"fallbacks ahead: {len(ahead)}")
    if ahead:
        assert decision.candidates[candidates[0]].slo_misses
        assert all(one.slo_misses == () for one in ahead)
    last = decision.candidates[len(ahead) + len(candidates) :]
    for fallbacks in (ahead, last):
        assert all(one.role == "fallback" for one in fallbacks)
        spare = [name for name in situation.rules.fallback if name in {one.target for one in fallbacks}]
        assert [one.target for one in fallbacks] == spare


def a_task_stays_only_where_no_more_limits_are_missed(
    situation: Situation, _: Fleet, decision: Decision
) -> None:
    sticky = [one for one in decision.candidates if one.role == "sticky"]
    event(f"sticky: {len(sticky)}")
    for one in sticky:
        assert one.target == situation.query.last_target
        assert situation.rules.sticky
        others = [other for other in decision.candidates if other.role == "candidate"]
        assert all(len(one.slo_misses) <= len(other.slo_misses) for other in others[:1])


def figures_are_finite_and_json_there_and_back(_: Situation, __: Fleet, decision: Decision) -> None:
    value = decision.as_json()
    assert json.loads(json.dumps(value, allow_nan=False)) == value


def the_same_inputs_give_the_same_decision(situation: Situation, fleet: Fleet, decision: Decision) -> None:
    assert situation.decide(fleet) == decision  # with what was kept of the first
    assert situation.decide() == decision  # with a fleet that went the same way


@given(situations)
@settings(max_examples=200)
def test_what_holds_of_every_decision(situation: Situation) -> None:
    fleet = situation.fleet()
    decision = situation.decide(fleet)
    event(f"{len(decision.candidates)} candidates")
    for holds in (
        who_cannot_serve_is_not_chosen,
        a_refusal_has_a_cause,
        each_named_target_is_a_candidate_or_refused,
        a_call_that_anyone_can_serve_has_a_candidate,
        exploration_picks_none_that_rests,
        a_fallback_comes_first_only_to_keep_the_slo,
        a_task_stays_only_where_no_more_limits_are_missed,
        figures_are_finite_and_json_there_and_back,
        the_same_inputs_give_the_same_decision,
    ):
        holds(situation, fleet, decision)


def ranking(decision: Decision) -> list[tuple[Any, set[str]]]:
    """Candidates from best to worst; those that score the same are a set."""

    def key(candidate: Candidate) -> tuple[int, float | None]:
        return len(candidate.slo_misses), candidate.score

    scored = [candidate for candidate in decision.candidates if candidate.role != "fallback"]
    return [(score, {one.target for one in same}) for score, same in groupby(scored, key)]


@given(situations, st.randoms(use_true_random=False))
def test_the_order_in_policy_and_configuration_does_not_matter(situation: Situation, chance: Random) -> None:
    situation = replace(situation, draw=NEVER_EXPLORE, policy=replace(situation.policy, explore=0.0))
    rules = situation.policy.defaults
    shuffled = replace(rules, candidates=tuple(chance.sample(rules.candidates, len(rules.candidates))))
    targets = list(situation.catalog.targets.items())
    chance.shuffle(targets)
    other = replace(
        situation,
        policy=replace(situation.policy, defaults=shuffled),
        catalog=replace(situation.catalog, targets=dict(targets)),
    )
    fleet, one, another = situation.fleet(), situation.decide(), other.decide()
    if one.candidates and unwell(fleet.health(one.candidates[0].target), situation.now):
        return  # nobody is well: of several whose rest ends at the same time the first is tried
    assert ranking(one) == ranking(another)
    assert {(each.target, each.reason) for each in one.rejections} == {
        (each.target, each.reason) for each in another.rejections
    }


@given(situations)
def test_the_best_score_comes_first_among_those_that_miss_as_few_limits(situation: Situation) -> None:
    decision = replace(situation, draw=NEVER_EXPLORE).decide()
    arms = dict(situation.rules.weights)  # under experiment: their score does not count
    ranked = [one for one in decision.candidates if one.role == "candidate" and one.target not in arms]
    for better, worse in pairwise(ranked):
        assert better.score is not None
        assert worse.score is not None
        assert (len(better.slo_misses), better.score) <= (len(worse.slo_misses), worse.score)


def slowed(outcome: Outcome, times: float) -> Outcome:
    return replace(
        outcome,
        total_s=outcome.total_s * times,
        ttft_s=None if outcome.ttft_s is None else outcome.ttft_s * times,
        tpot_s=None if outcome.tpot_s is None else outcome.tpot_s * times,
    )


def by_score(situation: Situation) -> Situation:
    """Nothing but limits and scores orders the candidates; hints and fallbacks stay."""
    rules = replace(situation.policy.defaults, weights=(), sticky=False)
    return replace(situation, policy=replace(situation.policy, defaults=rules, explore=0.0))


def rank_of(target: str, situation: Situation) -> float:
    """How many candidates are better; infinite while it is none."""
    ranks = {
        one.target: (len(one.slo_misses), one.score or 0.0)
        for one in situation.decide().candidates
        if one.role == "candidate"
    }
    if target not in ranks:
        return math.inf
    return sum(rank < ranks[target] for rank in ranks.values())


@given(situations.map(by_score), st.floats(1.0, 100.0), shares)
def test_a_target_that_was_slower_does_not_rank_higher(
    situation: Situation, times: float, since: float
) -> None:
    """All of its calls from some moment on took longer; everything else went the same way."""
    first = int(since * len(situation.events))
    slower = [
        replace(event, outcome=slowed(event.outcome, times))
        if index >= first and event.target == "a" and event.outcome and event.outcome.result == "ok"
        else event
        for index, event in enumerate(situation.events)
    ]
    assert rank_of("a", situation) <= rank_of("a", replace(situation, events=tuple(slower)))


@given(situations.map(by_score), st.integers(1, 30))
def test_a_target_with_more_calls_under_way_does_not_rank_higher(situation: Situation, calls: int) -> None:
    more = (*situation.events, *[Event(0.0, "a", is_start=True)] * calls)
    assert rank_of("a", situation) <= rank_of("a", replace(situation, events=more))


@given(st.lists(ended(results=("ok",)), max_size=10), st.booleans(), st.booleans())
def test_an_estimate_stays_within_what_was_seen_and_assumed(
    runs: list[list[Event]], stream: bool, is_first_steady: bool
) -> None:
    """Of one shape: a target that became slow for one is taken to be slow for all. Where first tokens became slow, the
    pace is taken to be so too until it is seen: so where they did not, it is held to what was seen."""
    events = [
        replace(
            event,
            outcome=replace(
                event.outcome,
                shape="general",
                ttft_s=COLD_TTFT_S if is_first_steady and event.outcome.ttft_s else event.outcome.ttft_s,
            ),
        )
        for run in runs
        for event in run
        if event.outcome is not None
    ]
    decision = Situation(
        query(stream=stream, declared_shape="general"),
        catalog(*NAMES),
        Policy("p1", {}),
        tuple(events),
        half_life_s=60.0,
        idle_s=0.0,
        draw=NEVER_EXPLORE,
    ).decide()
    for candidate in decision.candidates:
        prediction = candidate.prediction
        assert prediction is not None
        seen = [event.outcome for event in events if event.target == candidate.target]
        known = [(prediction.ttft_s, [COLD_TTFT_S, *(o.ttft_s for o in seen if o and o.ttft_s is not None)])]
        if is_first_steady:
            paces = [COLD_TPOT_S, *(o.tpot_s for o in seen if o and o.tpot_s is not None)]
            known.append((prediction.tpot_s, paces))
        for figure, values in known:
            low, high = min(values), max(values)
            assert low * (1 - ROUNDING) <= figure / prediction.crowding <= high * (1 + ROUNDING)
        costs = [o.cost_usd for o in seen if o and o.cost_usd is not None]
        if prediction.cost_usd is not None:
            assert min(costs) * (1 - ROUNDING) <= prediction.cost_usd <= max(costs) * (1 + ROUNDING)
        assert 0.0 < prediction.success_share < 1.0
        assert prediction.crowding >= 1.0
        assert 0.0 <= prediction.weight <= len(seen) * (1 + ROUNDING)


def test_the_same_inputs_give_the_same_decision_in_any_process() -> None:
    drawn: list[Situation] = []

    @given(situations)
    @settings(max_examples=60)
    def collect(situation: Situation) -> None:
        drawn.append(situation)

    collect()
    said = {
        subprocess.run(
            [sys.executable, "-m", "tests.router.situations"],
            input=pickle.dumps(drawn),
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    (decisions,) = said
    assert decisions.count(b"\n") == len(drawn)


@given(situations, queries)
def test_hints_only_tighten(situation: Situation, hints: Query) -> None:
    """With them a target misses what it missed without them, and perhaps more."""
    free = replace(situation.query, slo_ttft_s=None, slo_tpot_s=None, deadline_s=None)
    hinted = replace(
        free, slo_ttft_s=hints.slo_ttft_s, slo_tpot_s=hints.slo_tpot_s, deadline_s=hints.deadline_s
    )
    without = {one.target: one for one in replace(situation, query=free).decide().candidates}
    tight = replace(situation, query=hinted).decide()
    with_ = {one.target: one for one in tight.candidates}
    assert with_.keys() == without.keys()
    for name, candidate in with_.items():
        assert missed(without[name]) <= missed(candidate)
    allowed, given = situation.rules.timeouts, tight.timeouts
    assert given.first_token_s <= allowed.first_token_s
    assert given.idle_s <= allowed.idle_s
    assert given.total_s <= allowed.total_s


def missed(candidate: Candidate) -> set[str]:
    return {miss.split()[0] for miss in candidate.slo_misses}


@given(situations, st.floats(1.0, 100.0))
def test_hints_looser_than_the_policy_do_not_change_the_order(situation: Situation, times: float) -> None:
    slo = situation.rules.slo
    free = replace(situation.query, slo_ttft_s=None, slo_tpot_s=None, deadline_s=None)
    loose = replace(
        free,
        slo_ttft_s=None if slo.ttft_p95_s is None else slo.ttft_p95_s * times,
        slo_tpot_s=None if slo.tpot_s is None else slo.tpot_s * times,
        deadline_s=None if slo.completion_p95_s is None else slo.completion_p95_s * times,
    )
    hinted = replace(situation, query=loose).decide()
    assert hinted.candidates == replace(situation, query=free).decide().candidates


@given(
    situations,
    st.lists(st.tuples(queries, shape_policies | st.none(), begun() | told()), min_size=1, max_size=4),
)
def test_what_is_kept_of_earlier_calls_changes_nothing(
    situation: Situation, calls: list[tuple[Query, ShapePolicy | None, list[Event]]]
) -> None:
    """A fleet that has served other calls of the shape, under other policies, decides as one that has served none."""
    situation = replace(situation, idle_s=0.0, query=replace(situation.query, model="auto", target=None))
    fleet = situation.fleet()
    for other, rules, events in calls:
        alike = replace(other, declared_shape=situation.query.declared_shape, model="auto", target=None)
        policy = replace(situation.policy, defaults=rules or situation.policy.defaults)
        replace(situation, query=alike, policy=policy).decide(fleet)
        at_once = [replace(event, wait_s=0.0) for event in events]
        for one in at_once:
            happen(fleet, one, situation.now)
        situation = replace(situation, events=(*situation.events, *at_once))
        assert situation.decide(fleet) == situation.decide()


@given(situations)
def test_one_targets_outcomes_say_nothing_of_another(situation: Situation) -> None:
    """What became of the calls to others has no bearing on what is known of one."""
    others_unheard = [
        event if event.target == "a" else Event(event.wait_s, event.target) for event in situation.events
    ]
    alone = replace(situation, events=tuple(others_unheard))
    assert situation.fleet().health("a") == alone.fleet().health("a")
