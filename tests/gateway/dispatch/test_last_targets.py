"""Which target answered a task's latest call is known for a while, to that task's caller alone."""

from __future__ import annotations

from collections.abc import Callable

from gateway.dispatch.last_targets import LastTargets
from gateway.ledger.records import Attempt, Usage
from tests.fakes import GOOD_STREAM, stream
from tests.gateway.conftest import HELLO, Gateway, Run

Prepare = Callable[..., Run]


def test_the_latest_is_known_until_it_is_forgotten() -> None:
    last = LastTargets(kept_s=600)
    last.note("app", "t1", "a", 0.0)
    last.note("app", "t1", "b", 100.0)
    assert last.find("app", "t1", 699.0) == "b"
    assert last.find("app", "t1", 700.0) is None
    assert last.find("other", "t1", 100.0) is None


def test_the_task_that_was_quiet_for_longest_goes_first() -> None:
    last = LastTargets(max_tasks=2)
    last.note("app", "t1", "a", 0.0)
    last.note("app", "t2", "a", 1.0)
    last.note("app", "t1", "a", 2.0)
    last.note("app", "t3", "a", 3.0)
    assert [last.find("app", task, 3.0) for task in ("t1", "t2", "t3")] == ["a", None, "a"]


def answered(target: str, output_tokens: int | None) -> Attempt:
    return Attempt(target, "m", 0.0, usage=None if output_tokens is None else Usage(10, output_tokens))


def test_targets_have_the_share_of_a_task_that_they_have_of_its_answers() -> None:
    last = LastTargets()
    last.note("app", "t1", "a", 0.0)
    last.add("app", "t1", "general", [answered("b", None), answered("a", 30)])
    last.note("app", "t1", "b", 1.0)
    last.add("app", "t1", "support", [answered("a", 10), answered("b", 60)])
    shares = {("a", "general"): 0.3, ("a", "support"): 0.1, ("b", "support"): 0.6}
    assert last.take_shares("app", "t1") == shares
    assert last.take_shares("app", "t1") == last.take_shares("other", "t1") == {}


def test_a_tasks_outcome_is_credited_to_its_targets(with_gateway: Prepare) -> None:
    """Of two that cost alike, the one whose tasks failed loses its calls."""

    async def test(gateway: Gateway) -> None:
        for number in range(8):
            name = "ab"[number % 2]
            await gateway.post({**HELLO, "model": name}, x_task_id=f"t{number}")
            outcome = {"status": "failed" if name == "a" else "completed"}
            status, _, _ = await gateway.post(outcome, f"/v1/tasks/t{number}/outcome")
            assert status == 200
        assert [(await gateway.post(HELLO))[1]["x-sparkgate-target"] for _ in range(5)] == ["b"] * 5

    rules = "defaults: {objective: cost_per_completed_task, candidates: [a, b], explore: 0}"
    priced = {"prices": {"input_usd_per_mtok": 1, "output_usd_per_mtok": 1}}
    with_gateway(f"version: 1\n{rules}\n", ("a", "b"), limits={"a": priced, "b": priced})(test)


def test_a_tasks_next_call_goes_where_the_last_one_went(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        turns = [{"role": role, "content": "word " * 4_000} for role in ("user", "assistant", "user")]
        asked = {"model": "auto", "stream": True, "messages": turns}
        gateway.fakes["a"].script = [stream(0.1, *GOOD_STREAM)] * 3
        gateway.fakes["b"].script = [stream(0.2, *GOOD_STREAM)] * 2
        for model in ("a", "b"):
            await gateway.post({**asked, "model": model}, x_task_id="t1")
        assert (await gateway.post(asked))[1]["x-sparkgate-target"] == "a"
        assert (await gateway.post(asked, x_task_id="t2"))[1]["x-sparkgate-target"] == "a"
        assert (await gateway.post(asked, x_task_id="t1"))[1]["x-sparkgate-target"] == "b"
        (first, _) = gateway.exchanges()[-1]["exchange"]["decision"]["candidates"]
        assert first["role"] == "sticky"

    with_gateway("version: 1\ndefaults: {candidates: [a, b], explore: 0}\n", ("a", "b"))(test)
