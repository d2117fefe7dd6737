"""Virtual time: queues, deadlines, retries and hedges of calls whose course can be reckoned by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.bench.routing.scenarios import Incident
from gateway.bench.routing.service import (
    REFUSED_AFTER_S,
    Conditions,
    first_token_work_s,
    luck_of,
    token_work_s,
)
from tests.gateway.bench.routing.worlds import ONE, WELL, Always, calls, run, scenario


def work_s(number: int, place: str = "a", repeat: int = 0, seed: int = 1) -> float:
    at = replace(WELL, name=place)
    return first_token_work_s(at, ONE, luck_of(seed, number, at, repeat))


def test_one_slot_serves_one_after_the_other() -> None:
    found = run(scenario(WELL), calls(0.0, 0.0, 0.0), Always("a"))
    works = [work_s(number) for number in range(3)]
    assert [record.ended_s for record in found.records] == pytest.approx(
        [sum(works[: n + 1]) for n in range(3)]
    )
    assert all(record.is_ok and record.num_tries == 1 for record in found.records)


def test_an_idle_slot_serves_at_once() -> None:
    found = run(scenario(replace(WELL, slots=2)), calls(0.0, 0.0), Always("a"))
    assert [record.completion_s for record in found.records] == pytest.approx([work_s(0), work_s(1)])


def test_who_begins_beside_others_takes_longer() -> None:
    place = replace(WELL, slots=2, crowding=1.0)
    found = run(scenario(place), calls(0.0, 0.0), Always("a"))
    assert [record.completion_s for record in found.records] == pytest.approx([work_s(0), 1.5 * work_s(1)])


def test_tokens_after_the_first_take_the_targets_pace() -> None:
    place = replace(WELL, tpot_s=0.1)
    strategy = Always("a")
    found = run(scenario(place), calls(0.0, tokens=11), strategy)
    drawn = luck_of(1, 0, place, 0)
    pace_s = token_work_s(place, ONE, drawn)
    assert found.records[0].completion_s == pytest.approx(first_token_work_s(place, ONE, drawn) + 10 * pace_s)
    outcome = strategy.heard[0][1]
    assert (outcome.result, outcome.output_tokens) == ("ok", 11)
    assert outcome.tpot_s == pytest.approx(pace_s)
    assert outcome.cost_usd == pytest.approx(11 * 4.0 / 1e6)


def test_a_hung_try_ends_at_its_deadline_and_the_next_target_answers() -> None:
    hangs = Incident("a", "hang", 0.0, 1000.0, 1.0)
    found = run(scenario(WELL, replace(WELL, name="b"), incidents=(hangs,)), calls(0.0), Always("a", "b"))
    record = found.records[0]
    assert (record.is_ok, record.has_timed_out, record.target, record.num_tries) == (True, True, "b", 2)
    assert record.completion_s == pytest.approx(100.0 + work_s(0, "b"))
    assert [(sent.target, sent.ordinal) for sent in found.sent] == [("a", 0), ("b", 1)]


def test_a_try_given_up_while_it_waits_frees_its_place_in_the_queue() -> None:
    """The first call hangs in the only slot for 100 s; the second waits in vain, the third comes when it is free."""
    hangs = Incident("a", "hang", 0.0, 0.5, 1.0)
    found = run(scenario(WELL, incidents=(hangs,)), calls(0.0, 0.0, 50.0), Always("a"))
    assert [record.is_ok for record in found.records] == [False, False, True]
    assert found.records[1].ended_s == 100.0
    assert found.records[2].ended_s == pytest.approx(100.0 + work_s(2))


def test_no_token_may_follow_a_failure_after_the_first() -> None:
    place = replace(WELL, tpot_s=200.0)
    strategy = Always("a", "b")
    found = run(scenario(place, replace(WELL, name="b")), calls(0.0, tokens=11), strategy)
    assert (found.records[0].is_ok, found.records[0].num_tries, found.records[0].ended_s) == (
        False,
        1,
        1000.0,
    )
    outcome = strategy.heard[0][1]
    assert outcome.result == "timeout_total"
    assert 1 < (outcome.output_tokens or 0) < 11


def test_a_repeat_at_the_same_target_has_luck_of_its_own() -> None:
    fails = Incident("a", "fail", 0.0, 0.5, 1.0)
    found = run(scenario(WELL, incidents=(fails,)), calls(0.0), Always("a", "a"))
    assert found.records[0].ended_s == pytest.approx(1.0 + work_s(0, repeat=1))
    assert work_s(0, repeat=1) != work_s(0)


def test_the_first_token_ends_the_slower_of_two_hedged_tries() -> None:
    hangs = Incident("a", "hang", 0.0, 1000.0, 1.0)
    strategy = Always("a", "b", hedge_after_s=2.0)
    found = run(scenario(WELL, replace(WELL, name="b"), incidents=(hangs,)), calls(0.0), strategy)
    assert found.records[0].ended_s == pytest.approx(2.0 + work_s(0, "b"))
    assert [outcome.result for _, outcome in strategy.heard] == ["hedge_lost", "ok"]
    assert strategy.in_flight == {"a": 0, "b": 0}


def test_work_in_progress_is_slowed_while_an_incident_lasts() -> None:
    slow = Incident("a", "slow", 10.0, 20.0, 10.0)
    truth = Conditions(scenario(WELL, incidents=(slow,)))
    assert truth.elapsed_s("a", 0.0, 5.0) == pytest.approx(5.0)
    assert truth.elapsed_s("a", 8.0, 2.5) == pytest.approx(2.0 + 5.0)
    assert truth.elapsed_s("a", 8.0, 4.0) == pytest.approx(2.0 + 10.0 + 1.0)
    assert (truth.slowness("a", 9.9), truth.slowness("a", 10.0), truth.slowness("a", 20.0)) == (1, 10, 1)


def test_a_target_that_lets_nobody_wait_refuses_and_says_for_how_long() -> None:
    strategy = Always("a", "b")
    places = replace(WELL, retry_after_s=5.0), replace(WELL, name="b")
    found = run(scenario(*places), calls(0.0, 0.0), strategy)
    assert [record.target for record in found.records] == ["a", "b"]
    assert found.records[1].ended_s == pytest.approx(REFUSED_AFTER_S + work_s(1, "b"))
    refusal = strategy.heard[0][1]
    assert (refusal.http_status, refusal.retry_after_s, refusal.cost_usd) == (429, 5.0, 0.0)


def test_an_engine_yields_as_many_tokens_a_step_as_it_accepts() -> None:
    place = replace(WELL, tpot_s=0.1, accepted_length=((ONE.shape, 4.0),))
    drawn = luck_of(1, 0, place, 0)
    assert token_work_s(place, ONE, drawn) == pytest.approx(0.1 * drawn.tpot / 4.0)


def test_an_engine_is_asked_once_a_second_and_tells_of_calls_that_others_sent() -> None:
    place = replace(WELL, tpot_s=0.1, slots=2, accepted_length=((ONE.shape, 4.0),))
    strategy, crowd = Always("a"), Incident("a", "crowd", 2.0, 4.0, 20.0)
    found = run(replace(scenario(place, incidents=(crowd,)), duration_s=10.0), calls(0.5), strategy)
    assert [at for at, _ in strategy.seen] == pytest.approx(range(11))
    states = [state for _, state in strategy.seen]
    assert (states[0].running, states[0].waiting, states[0].max_batch) == (0, 0, 2)
    assert states[0].tpot_s(ONE.shape) == pytest.approx(0.1 / 4.0)
    assert (states[3].running, states[3].waiting > 0) == (2, True)
    assert len(found.records) == len(found.sent) == len(strategy.heard) == 1
