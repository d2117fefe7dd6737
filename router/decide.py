"""`decide`: where a call goes, and why. The one entry point of the router; pure.

Steps: what the model name means → task shape → who may (hard limits) → what each is expected to do → order by
the policy's objective, those that would miss an SLO last → experiments, the task's last target, now and then one to
learn of → fallbacks, first where the load would break the SLO → explain.
In: query, catalog, policy, fleet, the time and a uniform draw in [0, 1). Out: a `Decision`.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.affinity import keep_on
from router.catalog import Catalog, Named, Target
from router.decision import Candidate, Decision, Rejection
from router.eligibility import absent, ejected, inability, unwell
from router.experiment import split
from router.explore import explore
from router.fleet import Fleet, Health
from router.outlook import RATE_EVIDENCE
from router.policy import Policy, Shadow, ShapePolicy
from router.predict import expected_output_tokens, ttft_p95_s
from router.query import Query
from router.reason import reason
from router.scoring import CUT_SHORT, scored
from router.shapes import find_shape
from router.shedding import relief
from router.thompson import sample


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
    by_role = rules.roles.get(query.role, ()) if query.role else ()
    names = (query.target,) if query.target else _names(named, by_role or rules.candidates, catalog)
    field = _muster(query, catalog, fleet, names, now)
    is_pinned = named.pinned or query.target
    behind = () if query.target else named.fallback if named.pinned else rules.fallback
    spare = tuple(name for name in behind if name not in names)
    reserve = _muster(query, catalog, fleet, spare, now) if spare else _NOBODY
    if policy.max_ejected < 1.0 and field.resting:
        field.call_back(policy.max_ejected, now)
    if not field.well and not reserve.well:
        (field if field.resting else reserve).call_up_soonest()
    shape = finding.shape
    outlooks = [health.outlook(shape, now) for _, health in field.well]
    workflow = query.workflow
    length = fleet.length(shape, workflow) if workflow or rules.objective in CUT_SHORT else None
    output_tokens = expected_output_tokens(query, shape, outlooks, length if workflow else None)
    ranked = scored(query, shape, rules, field.well, outlooks, output_tokens, length)
    weights = () if is_pinned else rules.weights
    if weights or query.last_target is not None:
        ordered, explored = _ordered(ranked, query, shape, catalog, policy, rules, weights, draw)
    else:
        ordered, explored = _explored(ranked, policy, rules, draw)
    fallbacks = [Candidate(target.name, "fallback", None, None) for target, _ in reserve.well]
    order = (*ordered, *fallbacks)
    is_free = not is_pinned and ordered and ordered[0].role in ("candidate", "sticky")
    if fallbacks and is_free and ordered[0].slo_misses:
        outlook = fleet.health(ordered[0].target).outlook(shape, now)
        ahead = relief(ordered[0], outlook, query, shape, rules, reserve.well, output_tokens, now)
        relieving = [it.target for it in ahead]
        order = (*ahead, *(it for it in order if it.target not in relieving))
    return Decision(
        shape=shape,
        shape_source=finding.source,
        shape_confidence=finding.confidence,
        objective=rules.objective,
        candidates=order,
        rejections=(*field.rejections(), *reserve.rejections()),
        reason=reason(named, rules.objective, order, bool(field.resting)),
        policy_hash=policy.hash,
        draw=draw,
        explored=explored,
        expected_output_tokens=output_tokens,
        timeouts=rules.timeouts if query.deadline_s is None else rules.timeouts.within(query.deadline_s),
        max_retries=policy.retries.max,
        hedge_after_s=_hedge_after_s(rules, query, shape, order, fleet, now),
        hedge_budget=rules.hedge.budget if rules.hedge else 0.0,
        keepalive_s=rules.keepalive_s,
        cache_ttl_s=rules.cache_ttl_s,
        role=query.role if by_role else None,
        shadow=None if rules.shadow is None or is_pinned else _shadow(rules.shadow, draw),
    )


def _shadow(shadow: Shadow, draw: float) -> str | None:
    """By the draw's last digits, which say nothing of what its first ones have decided."""
    return shadow.target if draw * 2**26 % 1.0 < shadow.share else None


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

    def call_back(self, max_ejected: float, now: float) -> None:
        """Those whose rest ends first, where failures took more of them away than may be; one at least may."""
        away = [
            entrant
            for entrant in self.resting
            if ejected(entrant[1], now) is not None and absent(entrant[1], now) is None
        ]
        may = max(1, int(max_ejected * (len(self.well) + len(self.resting)) + 1e-9))
        away.sort(key=lambda entrant: entrant[1].breaker.until_s)
        for entrant in away[: max(0, len(away) - may)]:
            self.resting.remove(entrant)
            self.well.append(entrant[:2])

    def rejections(self) -> list[Rejection]:
        if not self.resting:
            return self.unable
        return [*self.unable, *(Rejection(target.name, reason) for target, _, reason in self.resting)]


_NOBODY = _Field([], [], [])


def _muster(query: Query, catalog: Catalog, fleet: Fleet, names: tuple[str, ...], now: float) -> _Field:
    field, targets, healths = _Field([], [], []), catalog.targets, fleet.targets
    well = field.well
    for name in names:
        target = targets.get(name)
        if target is None:
            field.unable.append(Rejection(name, "no such target any more"))
            continue
        health = healths.get(name) or fleet.health(name)
        if inable := inability(query, target, health):
            field.unable.append(Rejection(name, inable))
        elif (
            health.breaker.until_s
            or health.engine is not None
            or health.unreachable_since_s is not None
            or health.in_flight >= health.room.limit
        ) and (reason := unwell(health, now)):
            field.resting.append((target, health, reason))
        else:
            well.append((target, health))
    return field


def _ordered(
    ranked: list[Candidate],
    query: Query,
    shape: str,
    catalog: Catalog,
    policy: Policy,
    rules: ShapePolicy,
    weights: tuple[tuple[str, float], ...],
    draw: float,
) -> tuple[list[Candidate], bool]:
    """As scored, but for experiments, for a task's last target, and now and then for one to be learnt of."""
    spare: list[Candidate] = []
    if weights:
        arms = split(ranked, weights, draw, query.task_id and f"{shape} {query.task_id}")
        if arms.drawn is not None:
            return [arms.drawn, *arms.rest, *arms.spare], False
        ranked, spare, draw = arms.rest, arms.spare, arms.draw
    if query.last_target is not None and rules.sticky:
        ranked = keep_on(ranked, query, rules.objective, catalog.targets.get(query.last_target))
        if ranked and ranked[0].role == "sticky":
            return ranked + spare, False
    ordered, explored = _explored(ranked, policy, rules, draw)
    return ordered + spare, explored


def _explored(
    ranked: list[Candidate], policy: Policy, rules: ShapePolicy, draw: float
) -> tuple[list[Candidate], bool]:
    """Costs are mostly known, and what a dear target is like is not worth its price: they have their own way."""
    if rules.objective == "cost_per_completed_task" and policy.explore > 0.0:
        return sample(ranked, draw)
    return explore(ranked, policy.explore, draw)


def _hedge_after_s(
    rules: ShapePolicy, query: Query, shape: str, order: tuple[Candidate, ...], fleet: Fleet, now: float
) -> float | None:
    """When to try a second target: as the policy says, else the first one's p95, once that is known."""
    if rules.hedge is None or not order:
        return None
    prediction = order[0].prediction
    if rules.hedge.after_s is not None or prediction is None:
        return rules.hedge.after_s
    outlook = fleet.health(order[0].target).outlook(shape, now)
    if (outlook.ttft_weight if query.stream else outlook.completion_weight) < RATE_EVIDENCE:
        return None  # a tail guessed from a few calls would hedge at random
    return ttft_p95_s(outlook, prediction) if query.stream else prediction.completion_p95_s
