"""`PolicyFile`: policy.yaml as checked values, and how it becomes the router's `Policy`.

In: a mapping, and as validation context the known target names (`{"targets": [...]}`; without it names go
unchecked). Out: `router.policy.Policy`. What a shape leaves out it takes from `defaults`, setting by setting;
`candidates: []` and `fallback: []` are settings too.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
)

from gateway.config.mistakes import KeyPath
from gateway.config.strict import (
    Positive,
    PositiveShare,
    Share,
    Strict,
    Tries,
    UpToAYear,
    did_you_mean,
    mistake,
)
from router.policy import (
    CompletedWhen,
    Hedge,
    Objective,
    Policy,
    Retries,
    Rule,
    Shadow,
    ShapePolicy,
    Slo,
    Timeouts,
)
from router.shapes import SHAPES

CONDITIONS = ("header.<name>", "metadata.<key>", "model", "caller", "endpoint", "workflow")


def _known_shape(name: str) -> str:
    if name not in SHAPES:
        raise mistake(f"there is no task shape '{name}'; {did_you_mean(name, SHAPES)}")
    return name


def _known_target(name: str, info: ValidationInfo) -> str:
    known = (info.context or {}).get("targets")
    if known is not None and name not in known:
        raise mistake(f"no target is called '{name}'; {did_you_mean(name, known)}")
    return name


def _known_condition(key: str) -> str:
    kind, dot, name = key.partition(".")
    fits = bool(name) if kind in ("header", "metadata") else not dot and kind in CONDITIONS
    if not fits:
        likely = [f"header.{name}", f"metadata.{name}"] if name else [*CONDITIONS[2:]]
        near = [f"header.{key}"] if key.lower().startswith("x-") else get_close_matches(key, likely, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise mistake(f"unknown condition; known: {', '.join(CONDITIONS)}{hint}")
    return key


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise mistake(f"'{twice[0]}' is listed twice")
    return names


ShapeName = Annotated[
    str, AfterValidator(_known_shape), WithJsonSchema({"type": "string", "enum": list(SHAPES)})
]
TargetName = Annotated[str, AfterValidator(_known_target)]
TargetNames = Annotated[tuple[TargetName, ...], AfterValidator(_each_once)]
Condition = Annotated[str, AfterValidator(_known_condition)]
Pattern = Annotated[str, Field(min_length=1, description="a shell pattern: * ? [abc]")]


class WeightedFile(Strict):
    """A candidate under experiment: it gets exactly this share of the calls, whatever its score."""

    target: TargetName
    weight: PositiveShare


def _candidate_form(given: Any) -> str:
    return "weighted" if isinstance(given, Mapping | WeightedFile) else "plain"


def _fitting(candidates: tuple[str | WeightedFile, ...]) -> tuple[str | WeightedFile, ...]:
    _each_once(tuple(map(_name, candidates)))
    weights = [candidate.weight for candidate in candidates if isinstance(candidate, WeightedFile)]
    total = round(sum(weights), 9)
    if total > 1:
        raise mistake(
            f"the weights add up to {total:g}; they are shares of the calls and may reach 1 together"
        )
    if weights and total < 1 and len(weights) == len(candidates):
        raise mistake(f"the weights add up to {total:g}, and there is no candidate without one for the rest")
    return candidates


def _name(candidate: str | WeightedFile) -> str:
    return candidate if isinstance(candidate, str) else candidate.target


CandidateFile = Annotated[
    Annotated[TargetName, Tag("plain")] | Annotated[WeightedFile, Tag("weighted")],
    Discriminator(_candidate_form),
]
Candidates = Annotated[tuple[CandidateFile, ...], AfterValidator(_fitting)]


class RolesFile(Strict):
    """Candidates of calls that name their role in their task: cheap steps on the way, and answers."""

    draft: TargetNames | None = None
    final: TargetNames | None = None


class ShadowFile(Strict):
    """A target that is also sent a share of the calls (0 = none), its answers unused; what it may cost a day."""

    target: TargetName
    share: Share
    usd_per_day: Positive | None = None

    def shadow(self) -> Shadow | None:
        return Shadow(self.target, self.share, self.usd_per_day) if self.share else None


class SloFile(Strict):
    """Limits that a target's prediction should meet; one that misses is used only when none meets all."""

    ttft_p95_s: Positive | None = None
    tpot_s: Positive | None = None
    completion_p95_s: Positive | None = None
    timeout_rate: Share | None = None
    truncation_rate: Share | None = None


class TimeoutsFile(Strict):
    """Seconds to the first token, between two pieces of a stream, and for the whole call."""

    first_token_s: Positive | None = None
    idle_s: Positive | None = None
    total_s: Positive | None = None


class HedgeFile(Strict):
    """When a second target is tried beside the first, and for what share of the calls at most (0 = never)."""

    after: Literal["p95"] | Positive = "p95"
    budget: Share = Hedge().budget

    def hedge(self) -> Hedge | None:
        if self.budget == 0:
            return None
        return Hedge(None if self.after == "p95" else self.after, self.budget)


class CacheFile(Strict):
    """How long answers to deterministic calls (temperature 0, or a seed) are kept for their caller."""

    ttl_s: Positive


class ShapeFile(Strict):
    """Settings of one task shape; None = as in `defaults`."""

    objective: Objective | None = None
    candidates: Candidates | None = None
    roles: RolesFile = RolesFile()
    fallback: TargetNames | None = None
    sticky: bool | None = None
    shadow: ShadowFile | None = None
    slo: SloFile = SloFile()
    timeouts: TimeoutsFile = TimeoutsFile()
    hedge: HedgeFile | None = None
    completed_when: CompletedWhen | None = None
    abandoned_after_s: UpToAYear | None = None
    keepalive_s: Positive | None = None
    cache: CacheFile | None = None


class RetriesFile(Strict):
    """Further attempts of one call, and their share of all calls."""

    max: Tries = Retries().max
    budget: Share = Retries().budget


class DefaultsFile(ShapeFile):
    """What holds for every shape unless it says otherwise, and settings of the router as a whole."""

    retries: RetriesFile = RetriesFile()
    explore: Share = 0.02
    half_life_s: Positive = 60.0
    max_ejected: PositiveShare = 1.0


class RuleFile(Strict):
    """The first rule whose conditions all fit sets the shape, unless the caller declared one."""

    when: Annotated[dict[Condition, Pattern], Field(min_length=1)]
    shape: ShapeName


class PolicyFile(Strict):
    """policy.yaml: how to choose between targets, by task shape."""

    version: Literal[1] = 1
    shapes: dict[ShapeName, ShapeFile] = Field(default_factory=dict)
    defaults: DefaultsFile = DefaultsFile()
    rules: tuple[RuleFile, ...] = ()

    @classmethod
    def cross_mistakes(cls, data: Mapping[str, Any]) -> list[tuple[KeyPath, str]]:
        """Deadlines that contradict each other and shadows that show nothing, inherited ones included."""
        base = data.get("defaults")
        defaults, base = _timeouts(base), base if isinstance(base, Mapping) else {}
        shapes = data.get("shapes")
        found = _late_first_token(("defaults",), defaults, defaults) + _needless_shadow(
            ("defaults",), {}, base
        )
        for name, shape in shapes.items() if isinstance(shapes, Mapping) else ():
            found += _late_first_token(("shapes", name), _timeouts(shape), defaults)
            found += _needless_shadow(("shapes", name), base, shape) if isinstance(shape, Mapping) else []
        return found

    def policy(self, policy_hash: str) -> Policy:
        defaults = _shape_policy(self.defaults, ShapePolicy())
        return Policy(
            hash=policy_hash,
            shapes={name: _shape_policy(shape, defaults) for name, shape in self.shapes.items()},
            defaults=defaults,
            retries=Retries(**self.defaults.retries.model_dump()),
            explore=self.defaults.explore,
            half_life_s=self.defaults.half_life_s,
            max_ejected=self.defaults.max_ejected,
            rules=tuple(Rule(tuple(rule.when.items()), rule.shape) for rule in self.rules),
        )


def _shape_policy(shape: ShapeFile, base: ShapePolicy) -> ShapePolicy:
    named = shape.candidates
    return ShapePolicy(
        objective=shape.objective or base.objective,
        candidates=base.candidates if named is None else tuple(map(_name, named)),
        weights=base.weights if named is None else _weights(named),
        roles={**base.roles, **shape.roles.model_dump(exclude_none=True)},
        sticky=base.sticky if shape.sticky is None else shape.sticky,
        shadow=base.shadow if shape.shadow is None else shape.shadow.shadow(),
        fallback=base.fallback if shape.fallback is None else shape.fallback,
        slo=Slo(**_merged(shape.slo, base.slo)),
        timeouts=_capped(Timeouts(**_merged(shape.timeouts, base.timeouts))),
        hedge=base.hedge if shape.hedge is None else shape.hedge.hedge(),
        completed_when=shape.completed_when or base.completed_when,
        abandoned_after_s=shape.abandoned_after_s or base.abandoned_after_s,
        keepalive_s=shape.keepalive_s or base.keepalive_s,
        cache_ttl_s=base.cache_ttl_s if shape.cache is None else shape.cache.ttl_s,
    )


def _weights(candidates: tuple[str | WeightedFile, ...]) -> tuple[tuple[str, float], ...]:
    return tuple((it.target, it.weight) for it in candidates if isinstance(it, WeightedFile))


def _merged(given: BaseModel, base: Slo | Timeouts) -> dict[str, Any]:
    written = given.model_dump(exclude_none=True)
    return {name: written.get(name, getattr(base, name)) for name in type(given).model_fields}


def _capped(timeouts: Timeouts) -> Timeouts:
    """An inherited wait longer than the whole call is cut to it: `total_s: 20` alone is sensible to write."""
    total_s = timeouts.total_s
    return Timeouts(min(timeouts.first_token_s, total_s), min(timeouts.idle_s, total_s), total_s)


def _timeouts(shape: Any) -> dict[str, float]:
    """The numbers under `timeouts` of a raw mapping, without what is absent or no number."""
    timeouts = shape.get("timeouts") if isinstance(shape, Mapping) else None
    if not isinstance(timeouts, Mapping):
        return {}
    return {key: value for key, value in timeouts.items() if isinstance(value, int | float)}


def _late_first_token(
    at: KeyPath, own: Mapping[str, float], defaults: Mapping[str, float]
) -> list[tuple[KeyPath, str]]:
    first_s = own.get("first_token_s")
    total_s = own.get("total_s", defaults.get("total_s", Timeouts().total_s))
    if first_s is None or first_s <= total_s:
        return []
    origin = "" if "total_s" in own else ", which holds here by default"
    return [((*at, "timeouts", "first_token_s"), f"{first_s} is more than total_s, {total_s}{origin}")]


def _needless_shadow(
    at: KeyPath, base: Mapping[str, Any], own: Mapping[str, Any]
) -> list[tuple[KeyPath, str]]:
    """A shadow of the one target that answers these calls anyway."""
    if "candidates" not in own and "shadow" not in own:
        return []
    candidates, shadow = ({**base, **own}.get(key) for key in ("candidates", "shadow"))
    if not isinstance(candidates, list) or len(candidates) != 1 or not isinstance(shadow, Mapping):
        return []
    only = candidates[0].get("target") if isinstance(candidates[0], Mapping) else candidates[0]
    if only is None or shadow.get("target") != only or shadow.get("share") == 0:
        return []
    key = ("shadow", "target") if "shadow" in own else ("candidates",)
    return [
        (
            (*at, *key),
            f"'{only}' is the only candidate and gets these calls anyway; it cannot be its own shadow",
        )
    ]
