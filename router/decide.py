"""`decide`: where a call goes, and why. The one entry point of the router; pure.

Steps: what the model name means → task shape → who may (hard limits) → what each is expected to do → order by
the policy's objective, those that would miss an SLO last → now and then explore → fallbacks → explain.
In: query, catalog, policy, fleet, the time and a uniform draw in [0, 1). Out: a `Decision`.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from router.catalog import Catalog, Named
from router.decision import Candidate, Decision, Prediction, Rejection
from router.eligibility import inability, unwell
from router.fleet import Fleet
from router.policy import Objective, Policy, ShapePolicy, Slo
from router.predict import ENOUGH_SAMPLES, expected_output_tokens, predict, ttft_p95_s
from router.query import Query
from router.shapes import find_shape

COLD_SHARE = 0.1  # of calls try a target of which less than ENOUGH_SAMPLES is known: soon warm, never flooded
RATE_EVIDENCE = 20.0  # a rate of timeouts or truncations over fewer calls than this is chance


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
    able, unable = _split(query, catalog, fleet, _names(named, rules.candidates, catalog))
    well, resting = _admitted(able, fleet, now)
    spare = () if named.pinned else tuple(name for name in rules.fallback if name not in able)
    able_spare, unable_spare = _split(query, catalog, fleet, spare)
    well_spare, resting_spare = _admitted(able_spare, fleet, now)
    if not well and not well_spare:
        well, resting = _last_resort(able, resting, fleet)
    output_tokens = expected_output_tokens(query, finding.shape, [fleet.health(name) for name in able], now)
    scored = _scored(query, finding.shape, rules, catalog, fleet, well, output_tokens, now)
    ordered, explored = _explore(scored, policy.explore, draw)
    fallbacks = [Candidate(name, "fallback", None, None) for name in well_spare]
    return Decision(
        shape=finding.shape,
        shape_source=finding.source,
        objective=rules.objective,
        candidates=(*ordered, *fallbacks),
        rejections=(*unable, *resting, *unable_spare, *resting_spare),
        reason=_reason(named, rules.objective, ordered, fallbacks, explored, resting),
        policy_hash=policy.hash,
        draw=draw,
        explored=explored,
        expected_output_tokens=output_tokens,
        timeouts=rules.timeouts,
        max_retries=policy.retries.max,
    )


def _names(named: Named, candidates: tuple[str, ...], catalog: Catalog) -> tuple[str, ...]:
    """Pinned names beat the policy's candidates; a policy without candidates means every target."""
    return named.pinned or candidates or tuple(catalog.targets)


def _split(
    query: Query, catalog: Catalog, fleet: Fleet, names: tuple[str, ...]
) -> tuple[list[str], list[Rejection]]:
    able: list[str] = []
    rejections: list[Rejection] = []
    for name in names:
        target = catalog.targets.get(name)
        reason = inability(query, target, fleet.health(name)) if target else "no such target any more"
        if reason:
            rejections.append(Rejection(name, reason))
        else:
            able.append(name)
    return able, rejections


def _admitted(able: list[str], fleet: Fleet, now: float) -> tuple[list[str], list[Rejection]]:
    """Those that are well, and why the others rest."""
    reasons = {name: unwell(fleet.health(name), now) for name in able}
    well = [name for name, reason in reasons.items() if reason is None]
    return well, [Rejection(name, reason) for name, reason in reasons.items() if reason]


def _last_resort(
    able: list[str], resting: list[Rejection], fleet: Fleet
) -> tuple[list[str], list[Rejection]]:
    """Nobody is well: the one whose rest ends first is tried all the same, since a sure refusal helps nobody."""
    if not able:
        return [], resting
    soonest = min(able, key=lambda name: fleet.health(name).breaker.until_s)
    return [soonest], [rejection for rejection in resting if rejection.target != soonest]


def _scored(
    query: Query,
    shape: str,
    rules: ShapePolicy,
    catalog: Catalog,
    fleet: Fleet,
    names: list[str],
    output_tokens: int,
    now: float,
) -> list[Candidate]:
    """Candidates, best first: those within the SLO before the others, then by score."""
    predictions = {
        name: predict(query, shape, catalog.targets[name], fleet.health(name), output_tokens, now)
        for name in names
    }
    typical_cost_usd = _typical_cost_usd(list(predictions.values()))
    slo = _tightened(rules.slo, query)
    scored = [
        Candidate(
            target=name,
            role="candidate",
            score=_score(rules.objective, prediction, query.stream, typical_cost_usd),
            prediction=prediction,
            slo_misses=_slo_misses(slo, fleet, name, shape, prediction, query, now),
        )
        for name, prediction in predictions.items()
    ]
    return sorted(scored, key=lambda candidate: (len(candidate.slo_misses), candidate.score))


def _score(objective: Objective, prediction: Prediction, stream: bool, typical_cost_usd: float) -> float:
    """Lower is better. A call that does not stream has no first token to wait for: its end counts."""
    if objective == "ttft":
        base = prediction.ttft_s if stream else prediction.completion_s
    elif objective == "speed":
        base = prediction.tpot_s if stream else prediction.completion_s
    elif objective == "completion_p95":
        base = prediction.completion_p95_s
    else:
        base = prediction.cost_usd if prediction.cost_usd is not None else typical_cost_usd
    return base / prediction.success_share


def _typical_cost_usd(predictions: list[Prediction]) -> float:
    """Stands in for an unknown cost, so that it neither wins nor loses by being unknown."""
    known = [prediction.cost_usd for prediction in predictions if prediction.cost_usd is not None]
    return median(known) if known else 0.0


def _tightened(slo: Slo, query: Query) -> Slo:
    """The caller's hints may lower a limit, never raise it."""
    return replace(
        slo,
        ttft_p95_s=_lower(slo.ttft_p95_s, query.slo_ttft_s),
        completion_p95_s=_lower(slo.completion_p95_s, query.deadline_s),
    )


def _lower(limit: float | None, hint: float | None) -> float | None:
    given = [value for value in (limit, hint) if value is not None]
    return min(given) if given else None


def _slo_misses(
    slo: Slo, fleet: Fleet, name: str, shape: str, prediction: Prediction, query: Query, now: float
) -> tuple[str, ...]:
    """The limits that the target would miss, in words; what too few samples speak for is not held against it."""
    health = fleet.health(name)
    learnt = health.of(shape)
    calls = learnt.succeeded.at(now) + learnt.failed.at(now)
    is_known = learnt.completion.weight(now) >= ENOUGH_SAMPLES
    has_ttft = query.stream and learnt.ttft.weight(now) >= ENOUGH_SAMPLES
    is_rated = calls >= RATE_EVIDENCE
    checks = (
        ("ttft_p95_s", ttft_p95_s(health, shape, prediction, now) if has_ttft else None, slo.ttft_p95_s),
        ("completion_p95_s", prediction.completion_p95_s if is_known else None, slo.completion_p95_s),
        ("timeout_rate", learnt.timed_out.at(now) / calls if is_rated else None, slo.timeout_rate),
        ("truncation_rate", learnt.truncated.at(now) / calls if is_rated else None, slo.truncation_rate),
        ("tpot_s", prediction.tpot_s if is_known else None, query.slo_tpot_s),
    )
    return tuple(
        f"{what} {value:.3g} > {limit:g}"
        for what, value, limit in checks
        if value is not None and limit is not None and value > limit
    )


def _explore(scored: list[Candidate], share: float, draw: float) -> tuple[list[Candidate], bool]:
    """With a small probability the least known of the others goes first, so that estimates stay fresh."""
    if len(scored) < 2:
        return scored, False
    others = scored[1:]
    least_known = min(
        others, key=lambda candidate: candidate.prediction.weight if candidate.prediction else 0.0
    )
    cold = least_known.prediction is None or least_known.prediction.weight < ENOUGH_SAMPLES
    if draw >= (max(share, COLD_SHARE) if cold and share > 0 else share):
        return scored, False
    rest = [candidate for candidate in scored if candidate is not least_known]
    return [replace(least_known, role="explore"), *rest], True


def _reason(
    named: Named,
    objective: Objective,
    ordered: list[Candidate],
    fallbacks: list[Candidate],
    explored: bool,
    resting: list[Rejection],
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
        others = "the others cannot serve or are resting" if resting else "it is the only one that can serve"
        return f"{first.target}: {others}"
    second = ordered[1]
    if second.slo_misses and not first.slo_misses:
        return f"{first.target} meets the SLO, {second.target} would miss it ({second.slo_misses[0]})"
    figures = f"{_figure(first)} against {_figure(second)} of {second.target}"
    return f"{first.target} has the best {objective} score, {figures}"


def _figure(candidate: Candidate) -> str:
    return "none" if candidate.score is None else f"{candidate.score:.3g}"
