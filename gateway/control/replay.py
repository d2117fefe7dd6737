"""`Replay`: recorded calls decided anew, in their order, under another policy. Pure; figures are `replay_figures`'.

In: the catalog, a policy, recorded calls oldest first. The fleet is fed with the recorded attempts as they began and
ended, so that each call is decided on what was known at its moment. Out: `Played` calls, and counts of what the ledger
does not tell of a call. No call is made, and no load is simulated: targets answer as they did under the recorded load.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from itertools import count

from gateway.control.replay_figures import NOBODY, Played, Sample
from gateway.dispatch.last_targets import LastTargets
from gateway.ledger.recorded import RecordedAttempt, RecordedCall
from router.catalog import Catalog
from router.decide import UnknownModel, decide
from router.fleet import Fleet
from router.outcome import TIMEOUTS, Outcome
from router.policy import Policy, Rule, Timeouts
from router.query import Query

WARM_UP_S = 3600.0  # of calls before the span, which teach the fleet and are not decided
_TIMEOUTS = {field.name for field in fields(Timeouts)}
_BEGIN, _END = 0, 1


@dataclass(slots=True)
class Unsaid:
    """Calls of which the ledger does not tell something that the policy asks."""

    undecided: int = 0  # refused before a decision, or answered from the cache: left out
    rule: int = 0  # a rule wants headers or metadata, or the one that set the shape is gone: shape kept
    role: int = 0  # the policy has candidates by role, and the call's counted for nothing then
    abilities: int = 0  # the new target cannot do everything, and it was no candidate then


@dataclass(slots=True)
class Replay:
    """`warm` with what came before the span, then `add` every call of it."""

    catalog: Catalog
    policy: Policy
    recorded: Callable[[str], Policy | None]  # the policies that the calls had, by hash
    agreed: int = 0  # calls that their own policy sends, in this replay too, where they went
    compared: int = 0
    played: list[Played] = field(default_factory=list)
    shadows: list[Sample] = field(default_factory=list)
    unsaid: Unsaid = field(default_factory=Unsaid)
    unknown_models: dict[str, int] = field(default_factory=dict)  # that the gateway of today refuses
    _fleet: Fleet = field(init=False)
    _coming: list[tuple[float, int, int, RecordedAttempt, str, bool]] = field(default_factory=list)
    _numbers: count[int] = field(default_factory=count)
    _last_targets: LastTargets = field(default_factory=LastTargets)
    _input_tokens: dict[tuple[str, bool], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._fleet = Fleet(self.policy.half_life_s)

    def warm(self, call: RecordedCall) -> None:
        self._catch_up(call.started_at)
        self._expect(call, shape_of(call, self.policy.rules)[0])

    def add(self, call: RecordedCall) -> None:
        if call.shape is None or call.draw is None or call.cache is not None:
            self.unsaid.undecided += 1
            return
        self._catch_up(call.started_at)
        shape, is_sure = shape_of(call, self.policy.rules)
        input_tokens = self._input_tokens_of(call, shape)
        query = self._query(call, shape, input_tokens)
        self._expect(call, shape)
        try:
            decision = decide(query, self.catalog, self.policy, self._fleet, call.started_at, call.draw)
        except UnknownModel:
            self.unknown_models[query.model] = self.unknown_models.get(query.model, 0) + 1
            return
        self._compare(call, query)
        target = decision.candidates[0].target if decision.candidates else None
        if target is not None and call.task_id is not None:
            stays = call.candidates[:1] == (target,)
            last = (stays and _answered_by(call)) or target
            self._last_targets.note(call.caller, call.task_id, last, call.started_at)
        self.unsaid.rule += not is_sure
        self.unsaid.role += call.role is None and bool(self.policy.for_shape(shape).roles)
        self.unsaid.abilities += target is not None and self._may_be_unable(call, target)
        own = sample_of(call, shape, input_tokens)
        task = None if call.task_id is None else (call.caller, call.task_id)
        self.played.append(Played(own, target, decision.timeouts, task))
        self.shadows += [_shadow_sample(own, attempt) for attempt in call.attempts if attempt.is_shadow]

    def _compare(self, call: RecordedCall, query: Query) -> None:
        """Would the policy it had send it where it went? If not, the replay does not know all that counted then."""
        policy = self.recorded(call.policy_hash or "")
        if policy is None or call.draw is None:
            return
        same = replace(query, declared_shape=call.shape)
        decision = decide(same, self.catalog, policy, self._fleet, call.started_at, call.draw)
        self.compared += 1
        self.agreed += [it.target for it in decision.candidates[:1]] == list(call.candidates[:1])

    def _query(self, call: RecordedCall, shape: str, input_tokens: int) -> Query:
        """What the ledger tells of a call. Its expected length then was within its limit, which is not kept."""
        needs, task_id = needs_of(call), call.task_id
        last = None if task_id is None else self._last_targets.find(call.caller, task_id, call.started_at)
        return Query(
            endpoint=call.endpoint,
            model=call.model_asked or "auto",
            caller=call.caller,
            stream=call.stream,
            workflow=call.workflow,
            task_id=task_id,
            role=call.role,
            last_target=last,
            declared_shape=shape,
            input_tokens=input_tokens,
            max_output_tokens=call.expected_output_tokens,
            has_tools="tools" in needs,
            has_images="images" in needs,
            wants_json="JSON output" in needs,
        )

    def _input_tokens_of(self, call: RecordedCall, shape: str) -> int:
        """Of a call that failed without usage: as many as the last such call had."""
        kind = shape, call.stream
        if call.input_tokens is not None:
            self._input_tokens[kind] = call.input_tokens
        return self._input_tokens.get(kind, 0)

    def _may_be_unable(self, call: RecordedCall, target: str) -> bool:
        known = self.catalog.targets[target]
        if known.has_tools and known.has_images and known.has_json:
            return False
        return target not in call.candidates and target not in dict(call.rejections)

    def _expect(self, call: RecordedCall, shape: str) -> None:
        """The call's attempts, to be told to the fleet when their time has come."""
        for attempt in call.attempts:
            for kind, at_s in ((_BEGIN, 0.0), (_END, attempt.total_s)):
                entry = attempt.started_at + at_s, next(self._numbers), kind, attempt, shape, call.stream
                heapq.heappush(self._coming, entry)

    def _catch_up(self, now: float) -> None:
        while self._coming and self._coming[0][0] <= now:
            at, _, kind, attempt, shape, stream = heapq.heappop(self._coming)
            if kind == _BEGIN:
                self._fleet.start(attempt.target)
            else:
                self._fleet.observe(_outcome(attempt, shape, stream), at)


def shape_of(call: RecordedCall, rules: Iterable[Rule]) -> tuple[str, bool]:
    """The shape the call has under these rules, and whether that is sure: else it is the recorded one."""
    recorded = call.shape or "general"
    if call.shape_source == "declared":
        return recorded, True
    asked = Query(call.endpoint, call.model_asked or "auto", call.caller, workflow=call.workflow)
    for rule in rules:
        told = tuple(part for part in rule.when if not part[0].startswith(("header.", "metadata.")))
        if not Rule(told, rule.shape).matches(asked):
            continue
        if len(told) == len(rule.when):
            return rule.shape, True
        is_the_same = call.shape_source == "rule" and recorded == rule.shape
        return recorded, is_the_same
    return recorded, call.shape_source != "rule"


def needs_of(call: RecordedCall) -> set[str]:
    """Abilities that the call is known to have asked for: by its shape, and by who was refused for lack of them."""
    needs = set()
    if call.shape_source == "structural":
        needs |= {"agent_loop": {"tools"}, "extraction": {"JSON output"}}.get(call.shape or "", set())
    for _, reason in call.rejections:
        if reason.startswith("cannot do "):
            needs |= set(reason.removeprefix("cannot do ").split(" or "))
    return needs


def sample_of(call: RecordedCall, shape: str, input_tokens: int) -> Sample:
    """How the call ended, under the target it was sent to first."""
    is_left = call.error_code == "client_gone"
    is_failure = not is_left and (call.status != 200 or call.error_code is not None)
    return Sample(
        target=call.candidates[0] if call.candidates else NOBODY,
        shape=shape,
        stream=call.stream,
        at_s=call.started_at,
        input_tokens=input_tokens,
        ttft_s=call.ttft_s if call.stream else None,
        total_s=call.total_s,
        is_over=not is_left and (not is_failure or call.timed_out is not None),
        is_failure=is_failure,
        timed_out=call.timed_out,
        cost_usd=call.cost_usd,
        is_completed=None if call.task_id is None else call.task_status == "completed",
        timeouts=_timeouts(call.timeouts),
    )


def _shadow_sample(own: Sample, attempt: RecordedAttempt) -> Sample:
    """The same call at another target, on trial: no task of its own."""
    deadline = attempt.result.removeprefix("timeout_") if attempt.result in TIMEOUTS else None
    return Sample(
        target=attempt.target,
        shape=own.shape,
        stream=own.stream,
        at_s=own.at_s,
        input_tokens=own.input_tokens,
        ttft_s=attempt.ttft_s if own.stream else None,
        total_s=attempt.total_s,
        is_over=attempt.result == "ok" or deadline is not None,
        is_failure=attempt.result not in ("ok", "client_gone", "busy"),
        timed_out=deadline,
        cost_usd=attempt.cost_usd,
        timeouts=own.timeouts,
    )


def _answered_by(call: RecordedCall) -> str | None:
    return next((it.target for it in call.attempts if it.result == "ok" and not it.is_shadow), None)


def _timeouts(recorded: dict[str, float] | None) -> Timeouts | None:
    return Timeouts(**{name: recorded[name] for name in _TIMEOUTS & recorded.keys()}) if recorded else None


def _outcome(attempt: RecordedAttempt, shape: str, stream: bool) -> Outcome:
    output, tpot_s = attempt.output_tokens, None
    if stream and attempt.ttft_s is not None and output is not None and output > 1:
        tpot_s = (attempt.total_s - attempt.ttft_s) / (output - 1)
    return Outcome(
        target=attempt.target,
        shape=shape,
        result=attempt.result,
        total_s=attempt.total_s,
        ttft_s=attempt.ttft_s if stream else None,
        tpot_s=tpot_s,
        output_tokens=output,
        cost_usd=attempt.cost_usd,
        http_status=attempt.http_status,
        is_shadow=attempt.is_shadow,
    )
