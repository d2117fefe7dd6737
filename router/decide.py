"""`decide`: where a call goes, and why. The one entry point of the router; pure.

Steps: what the model name means → task shape → who may (hard limits) → what each is expected to do → order by
the policy's objective, those that would miss an SLO last → now and then explore → fallbacks → explain.
In: query, catalog, policy, fleet, the time and a uniform draw in [0, 1). Out: a `Decision`.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.catalog import Catalog, Named, Target
from router.decision import Candidate, Decision, Rejection
from router.eligibility import inability, unwell
from router.explore import explore
from router.fleet import Fleet, Health
from router.outlook import RATE_EVIDENCE
from router.policy import Objective, Policy, ShapePolicy
from router.predict import expected_output_tokens, ttft_p95_s
from router.query import Query
from router.scoring import scored
from router.shapes import find_shape


class UnknownModel(Exception):
    """The model name is no target, no `auto`, not in the map, and `unknown_model: reject` is set."""


def decide(query: Query, catalog: Catalog, policy: Policy, fleet: Fleet, now: float, draw: float) -> Decision:
    """The order in which targets are to be tried, with every figure and refusal behind it.

    No candidates at all is a value (`candidates` empty, every target in `rejections`), not an exception.
    Raises `UnknownModel`.
    """
    named = catalog.resolve(query.model)
    if named is None:
        raise UnknownModel(query.model)
    finding = find_shape(query, named.shape, policy.rules)
    rules = policy.for_shape(finding.shape)
    names = (query.target,) if query.target else _names(named, rules.candidates, catalog)
    field = _muster(query, catalog, fleet, names, now)
    is_pinned = named.pinned or query.target
    spare = () if is_pinned else tuple(name for name in rules.fallback if name not in names)
    reserve = _muster(query, catalog, fleet, spare, now)
    if not field.well and not reserve.well:
        field.call_up_soonest()
    shape = finding.shape
    outlooks = [health.outlook(shape, now) for _, health in field.well]
    output_tokens = expected_output_tokens(query, shape, outlooks)
    ranked = scored(query, shape, rules, field.well, outlooks, output_tokens)
    ordered, explored = explore(ranked, policy.explore, draw)
    fallbacks = [Candidate(target.name, "fallback", None, None) for target, _ in reserve.well]
    return Decision(
        shape=shape,
        shape_source=finding.source,
        objective=rules.objective,
        candidates=(*ordered, *fallbacks),
        rejections=(*field.rejections(), *reserve.rejections()),
        reason=_reason(named, rules.objective, ordered, fallbacks, explored, bool(field.resting)),
        policy_hash=policy.hash,
        draw=draw,
        explored=explored,
        expected_output_tokens=output_tokens,
        timeouts=rules.timeouts,
        max_retries=policy.retries.max,
        hedge_after_s=_hedge_after_s(rules, query, shape, ordered, fleet, now),
        hedge_budget=rules.hedge.budget if rules.hedge else 0.0,
        keepalive_s=rules.keepalive_s,
        cache_ttl_s=rules.cache_ttl_s,
    )


def _names(named: Named, candidates: tuple[str, ...], catalog: Catalog) -> tuple[str, ...]:
    """Pinned names beat the policy's candidates; a policy without candidates means every target."""
    return named.pinned or candidates or tuple(catalog.targets)


@dataclass(slots=True)
class _Field:
    """Who may serve the call, who may but rests (and why), and who may not."""

    well: list[tuple[Target, Health]]
    resting: list[tuple[Target, Health, str]]
    unable: list[Rejection]

    def call_up_soonest(self) -> None:
        """Nobody is well: the one whose rest ends first is tried all the same, since a sure refusal helps nobody."""
        if self.resting:
            soonest = min(self.resting, key=lambda entrant: entrant[1].breaker.until_s)
            self.resting.remove(soonest)
            self.well.append(soonest[:2])

    def rejections(self) -> list[Rejection]:
        return [*self.unable, *(Rejection(target.name, reason) for target, _, reason in self.resting)]


def _muster(query: Query, catalog: Catalog, fleet: Fleet, names: tuple[str, ...], now: float) -> _Field:
    field, targets, healths = _Field([], [], []), catalog.targets, fleet.targets
    for name in names:
        target = targets.get(name)
        if target is None:
            field.unable.append(Rejection(name, "no such target any more"))
            continue
        health = healths.get(name) or fleet.health(name)
        if inable := inability(query, target, health):
            field.unable.append(Rejection(name, inable))
        elif not health.is_untroubled and (reason := unwell(health, now)):
            field.resting.append((target, health, reason))
        else:
            field.well.append((target, health))
    return field


def _hedge_after_s(
    rules: ShapePolicy, query: Query, shape: str, ordered: list[Candidate], fleet: Fleet, now: float
) -> float | None:
    """When to try a second target: as the policy says, else the first one's p95, once that is known."""
    if rules.hedge is None or not ordered:
        return None
    prediction = ordered[0].prediction
    if rules.hedge.after_s is not None or prediction is None:
        return rules.hedge.after_s
    outlook = fleet.health(ordered[0].target).outlook(shape, now)
    if (outlook.ttft_weight if query.stream else outlook.completion_weight) < RATE_EVIDENCE:
        return None  # a tail guessed from a few calls would hedge at random
    return ttft_p95_s(outlook, prediction) if query.stream else prediction.completion_p95_s


def _reason(
    named: Named,
    objective: Objective,
    ordered: list[Candidate],
    fallbacks: list[Candidate],
    explored: bool,
    some_rest: bool,
) -> str:
    """One sentence for people."""
    if not ordered:
        return (
            f"no candidate can serve this call; falling back to {fallbacks[0].target}"
            if fallbacks
            else ("no target can serve this call")
        )
    first = ordered[0]
    if named.pinned == (first.target,):
        return f"the model name pins {first.target}"
    if explored:
        return f"{first.target} is tried to keep its estimate fresh; {ordered[1].target} scores best"
    if len(ordered) == 1:
        others = (
            "the others cannot serve or are resting" if some_rest else "it is the only one that can serve"
        )
        return f"{first.target}: {others}"
    second = ordered[1]
    if second.slo_misses and not first.slo_misses:
        return f"{first.target} meets the SLO, {second.target} would miss it ({second.slo_misses[0]})"
    figures = f"{_figure(first)} against {_figure(second)} of {second.target}"
    return f"{first.target} has the best {objective} score, {figures}"


def _figure(candidate: Candidate) -> str:
    return "none" if candidate.score is None else f"{candidate.score:.3g}"
