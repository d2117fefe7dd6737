"""`decide`: where a call goes, and why. The one entry point of the router; pure.

Steps: what the model name means → task shape → who may (hard limits) → what each is expected to do → order by
the policy's objective, those that would miss an SLO last → now and then explore → fallbacks → explain.
In: query, catalog, policy, fleet, the time and a uniform draw in [0, 1). Out: a `Decision`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

from router.catalog import Catalog, Named, Target
from router.decision import Candidate, Decision, Prediction, Rejection
from router.eligibility import inability, unwell
from router.fleet import Fleet, Health, Weighed
from router.outlook import ENOUGH_SAMPLES, RATE_EVIDENCE, Outlook
from router.policy import Objective, Policy, ShapePolicy, Slo
from router.predict import expected_output_tokens, predict, ttft_p95_s
from router.query import Query
from router.shapes import find_shape

NO_SLO = Slo()
COLD_SHARE = 0.1  # of calls try a target of which less than ENOUGH_SAMPLES is known: soon warm, never flooded


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
    scored = _scored(query, shape, rules, field.well, outlooks, output_tokens)
    ordered, explored = _explore(scored, policy.explore, draw)
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


def _scored(
    query: Query,
    shape: str,
    rules: ShapePolicy,
    well: list[tuple[Target, Health]],
    outlooks: list[Outlook],
    output_tokens: int,
) -> list[Candidate]:
    """Candidates, best first: those within the SLO before the others, then by score."""
    is_hinted = not (query.slo_ttft_s is query.slo_tpot_s is query.deadline_s is None)
    scored = []
    for (target, health), outlook in zip(well, outlooks, strict=True):
        kept = health.weighed.get(shape)
        if (
            kept is None
            or kept.outlook is not outlook
            or kept.in_flight != health.in_flight
            or kept.usual_in_flight != health.usual_in_flight
            or kept.output_tokens != output_tokens
            or (kept.input_tokens is not None and kept.input_tokens != query.input_tokens)
            or kept.rules is not rules
            or kept.target is not target
            or kept.engine is not health.engine
            or kept.stream is not query.stream
            or is_hinted
        ):
            scored.append(
                _weigh(query, shape, rules, target, health, outlook, output_tokens, keep=not is_hinted)
            )
        else:
            scored.append(kept.candidate)
    if rules.objective == "cost_per_completed_task":
        scored = _with_typical_cost(scored)
    scored.sort(key=_rank)
    return scored


def _weigh(
    query: Query,
    shape: str,
    rules: ShapePolicy,
    target: Target,
    health: Health,
    outlook: Outlook,
    output_tokens: int,
    *,
    keep: bool,
) -> Candidate:
    """One target's prediction and score, kept for the next call where nothing of the caller's own went into it."""
    prediction = predict(query, shape, target, health, outlook, output_tokens)
    misses = _slo_misses(_tightened(rules.slo, query), outlook, prediction, query)
    score = _score(rules.objective, prediction, query.stream)
    candidate = Candidate(target.name, "candidate", score, prediction, misses)
    if keep:
        health.weighed[shape] = Weighed(
            candidate,
            target,
            outlook,
            rules,
            health.engine,
            health.in_flight,
            health.usual_in_flight,
            output_tokens,
            query.input_tokens if outlook.cost_usd is None else None,
            query.stream,
        )
    return candidate


def _rank(candidate: Candidate) -> tuple[int, float]:
    return len(candidate.slo_misses), candidate.score or 0.0


def _score(objective: Objective, prediction: Prediction, stream: bool) -> float | None:
    """Lower is better; None while a cost is unknown. A call that does not stream has no first token to wait for: its
    end counts."""
    if objective == "ttft":
        base: float | None = prediction.ttft_s if stream else prediction.completion_s
    elif objective == "speed":
        base = prediction.tpot_s if stream else prediction.completion_s
    elif objective == "completion_p95":
        base = prediction.completion_p95_s
    else:
        base = prediction.cost_usd
    return None if base is None else base / prediction.success_share


def _with_typical_cost(scored: list[Candidate]) -> list[Candidate]:
    """The median stands in for an unknown cost, so that it neither wins nor loses by being unknown."""
    known = [
        candidate.prediction.cost_usd
        for candidate in scored
        if candidate.prediction is not None and candidate.prediction.cost_usd is not None
    ]
    typical_usd = median(known) if known else 0.0
    return [
        replace(candidate, score=typical_usd / candidate.prediction.success_share)
        if candidate.score is None and candidate.prediction is not None
        else candidate
        for candidate in scored
    ]


def _tightened(slo: Slo, query: Query) -> Slo:
    """The caller's hints may lower a limit, never raise it."""
    if query.slo_ttft_s is None and query.deadline_s is None:
        return NO_SLO if slo == NO_SLO else slo
    return replace(
        slo,
        ttft_p95_s=_lower(slo.ttft_p95_s, query.slo_ttft_s),
        completion_p95_s=_lower(slo.completion_p95_s, query.deadline_s),
    )


def _lower(limit: float | None, hint: float | None) -> float | None:
    given = [value for value in (limit, hint) if value is not None]
    return min(given) if given else None


def _slo_misses(slo: Slo, outlook: Outlook, prediction: Prediction, query: Query) -> tuple[str, ...]:
    """The limits that the target would miss, in words; what too few samples speak for is not held against it."""
    if slo is NO_SLO and query.slo_tpot_s is None:
        return ()
    figures: list[tuple[str, float, float | None]] = []
    if outlook.completion_weight >= ENOUGH_SAMPLES:
        figures.append(("completion_p95_s", prediction.completion_p95_s, slo.completion_p95_s))
        figures.append(("tpot_s", prediction.tpot_s, query.slo_tpot_s))
    if query.stream and outlook.ttft_weight >= ENOUGH_SAMPLES:
        figures.append(("ttft_p95_s", ttft_p95_s(outlook, prediction), slo.ttft_p95_s))
    if outlook.timeout_rate is not None and outlook.truncation_rate is not None:
        figures.append(("timeout_rate", outlook.timeout_rate, slo.timeout_rate))
        figures.append(("truncation_rate", outlook.truncation_rate, slo.truncation_rate))
    return tuple(
        [
            f"{what} {value:.3g} > {limit:g}"
            for what, value, limit in figures
            if limit is not None and value > limit
        ]
    )


def _explore(scored: list[Candidate], share: float, draw: float) -> tuple[list[Candidate], bool]:
    """With a small probability the least known of the others goes first, so that estimates stay fresh."""
    if len(scored) < 2 or share <= 0.0 or draw >= max(share, COLD_SHARE):
        return scored, False
    least_known = min(scored[1:], key=_weight)
    is_cold = _weight(least_known) < ENOUGH_SAMPLES
    if draw >= (max(share, COLD_SHARE) if is_cold else share):
        return scored, False
    rest = [candidate for candidate in scored if candidate is not least_known]
    return [replace(least_known, role="explore"), *rest], True


def _weight(candidate: Candidate) -> float:
    return 0.0 if candidate.prediction is None else candidate.prediction.weight


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
