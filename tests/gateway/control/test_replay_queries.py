"""What a replay makes of a recorded call: its shape under other rules, its needs, and what the ledger does not tell."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from gateway.control.replay import Replay, needs_of, shape_of
from gateway.ledger.recorded import RecordedAttempt, RecordedCall
from router.catalog import Catalog, Target
from router.policy import Policy, Rule, ShapePolicy

CALL = RecordedCall(
    id=UUID(int=1),
    started_at=100.0,
    caller="app",
    endpoint="/v1/chat/completions",
    model_asked="auto",
    task_id=None,
    workflow="nightly",
    shape="support",
    shape_source="structural",
    policy_hash="abc",
    status=200,
    stream=True,
    ttft_s=0.2,
    total_s=1.0,
    input_tokens=50,
    cost_usd=0.001,
    error_code=None,
    timed_out=None,
    finish_reason="stop",
    cache=None,
    draw=0.9,
    expected_output_tokens=100,
    timeouts={"first_token_s": 30.0, "idle_s": 30.0, "total_s": 600.0},
    role=None,
    candidates=("a",),
    rejections=(),
    attempts=(RecordedAttempt(100.0, "a", "ok", 200, 0.2, 1.0, 20, 0.001, is_shadow=False),),
    task_status=None,
)
WORKFLOW = Rule((("workflow", "night*"),), "summarization")
HEADER = Rule((("header.x-app", "desk"),), "reasoning")
BOTH = Rule((("header.x-app", "desk"), ("workflow", "daily")), "reasoning")


@pytest.mark.parametrize(
    ("source", "rules", "shape", "is_sure"),
    [
        ("structural", (), "support", True),
        ("structural", (WORKFLOW,), "summarization", True),
        ("declared", (WORKFLOW,), "support", True),
        ("structural", (HEADER,), "support", False),
        ("structural", (BOTH,), "support", True),  # its workflow is another: the header does not matter
        ("structural", (HEADER, WORKFLOW), "support", False),
        ("rule", (), "support", False),
        ("rule", (replace(HEADER, shape="support"),), "support", True),
        ("rule", (WORKFLOW,), "summarization", True),
    ],
)
def test_the_shape_under_other_rules_and_whether_it_is_sure(
    source: str, rules: tuple[Rule, ...], shape: str, is_sure: bool
) -> None:
    assert shape_of(replace(CALL, shape_source=source), rules) == (shape, is_sure)


def test_needs_are_known_by_shape_and_by_who_was_refused() -> None:
    assert needs_of(CALL) == set()
    assert needs_of(replace(CALL, shape="agent_loop")) == {"tools"}
    assert needs_of(replace(CALL, shape="agent_loop", shape_source="declared")) == set()
    refused = replace(CALL, rejections=(("b", "cannot do tools or images"), ("c", "draining")))
    assert needs_of(refused) == {"tools", "images"}


def replay_of(*shapes: tuple[str, ShapePolicy], rules: tuple[Rule, ...] = (), **abilities: bool) -> Replay:
    catalog = Catalog({"a": Target("a", "openai", "m"), "b": Target("b", "openai", "m", **abilities)})  # type: ignore[arg-type]
    return Replay(catalog, Policy("new", dict(shapes), explore=0.0, rules=rules), lambda _: None)


def test_calls_without_a_decision_are_counted_and_left_out() -> None:
    replay = replay_of()
    replay.add(replace(CALL, shape=None, draw=None))
    replay.add(replace(CALL, cache="hit"))
    assert (replay.unsaid.undecided, replay.played) == (2, [])


def test_a_model_that_is_refused_today_is_counted_by_name() -> None:
    replay = Replay(Catalog({}, unknown_model="reject"), Policy("new", {}), lambda _: None)
    replay.add(replace(CALL, model_asked="gpt-9"))
    assert replay.unknown_models == {"gpt-9": 1}


def test_what_the_ledger_does_not_tell_is_counted() -> None:
    only_b = ShapePolicy(candidates=("b",), roles={"draft": ("a",)})
    replay = replay_of(("support", only_b), rules=(HEADER,), has_images=False)
    replay.add(CALL)
    assert (replay.unsaid.rule, replay.unsaid.role, replay.unsaid.abilities) == (1, 1, 1)
    replay.add(replace(CALL, rejections=(("b", "draining"),)))
    assert replay.unsaid.abilities == 1  # it was considered, and not refused for what it cannot do
    assert [each.target for each in replay.played] == ["b", "b"]


def test_targets_that_cannot_do_what_a_call_needs_are_not_chosen() -> None:
    only_b = ShapePolicy(candidates=("b",))
    replay = replay_of(("agent_loop", only_b), has_tools=False)
    replay.add(replace(CALL, shape="agent_loop"))
    assert [each.target for each in replay.played] == [None]


def test_a_call_is_decided_on_what_had_ended_by_then_and_nothing_later() -> None:
    both = ShapePolicy(objective="ttft", candidates=("a", "b"))
    replay = replay_of(("support", both))
    replay.warm(replace(CALL, attempts=(replace(CALL.attempts[0], ttft_s=20.0, total_s=25.0),)))
    health = replay._fleet.health("a")
    seen = []
    for at_s in (124.0, 126.0):
        replay.add(replace(CALL, started_at=at_s, attempts=()))
        seen.append((health.in_flight, health.of("support").num_samples))
    assert seen == [(1, 0), (0, 1)]
    assert replay.played[1].target == "b"


def test_a_call_that_failed_without_usage_is_as_long_as_the_last_of_its_kind() -> None:
    replay = replay_of()
    replay.add(CALL)
    replay.add(replace(CALL, input_tokens=None, status=500, error_code="http_error"))
    assert [each.own.input_tokens for each in replay.played] == [50, 50]
    assert [each.own.is_failure for each in replay.played] == [False, True]


def test_shadow_attempts_are_outcomes_of_their_own_target() -> None:
    shadow = RecordedAttempt(100.5, "b", "timeout_total", None, None, 30.0, None, 0.0, is_shadow=True)
    replay = replay_of()
    replay.add(replace(CALL, attempts=(*CALL.attempts, shadow)))
    (own,), (beside,) = [each.own for each in replay.played], replay.shadows
    assert (own.target, beside.target, beside.timed_out, beside.is_failure) == ("a", "b", "total", True)
    assert (beside.shape, beside.stream, beside.input_tokens) == (own.shape, own.stream, own.input_tokens)
