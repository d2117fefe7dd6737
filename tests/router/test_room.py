"""How many calls at a time a target takes, from what it refuses."""

from __future__ import annotations

import math

from router.decide import decide
from router.fleet import Fleet
from router.outcome import Outcome
from router.room import FIRST_TRUST_S, LONGEST_TRUST_S, Room
from tests.router.calls import catalog, policy, query, seen

NOW = 1_000.0


def refused(room: Room, load: int, now: float) -> Room:
    room.refuse(load, now, now)
    return room


def test_a_refusal_beside_as_many_as_ever_shows_the_limit() -> None:
    room = refused(Room(taken=10), 10, NOW)
    assert (room.is_full(9, NOW), room.is_full(10, NOW)) == (False, True)


def test_a_refusal_beside_fewer_or_beside_none_shows_none() -> None:
    assert refused(Room(taken=10), 3, NOW).limit == math.inf
    assert refused(Room(), 0, NOW).limit == math.inf
    assert refused(refused(Room(taken=10), 10, NOW), 4, NOW + 1.0).limit == math.inf


def test_calls_that_were_on_their_way_when_one_was_refused_tell_no_more() -> None:
    room = refused(Room(taken=10), 10, NOW)
    room.refuse(12, NOW - 0.1, NOW + 0.1)
    assert room.limit == 10


def test_more_are_let_in_by_and_by() -> None:
    room = refused(Room(taken=10), 10, NOW)
    let_in = [
        next(n for n in range(200) if room.is_full(n, NOW + step * FIRST_TRUST_S + 0.001))
        for step in range(5)
    ]
    assert let_in == [10, 11, 13, 17, 25]
    assert not room.is_full(10**6, NOW + 1e9)


def test_a_limit_that_shows_again_is_trusted_for_longer_and_another_anew() -> None:
    room, now = refused(Room(taken=10), 10, NOW), NOW
    for _ in range(6):
        now += 1_000.0
        refused(room, 10, now)
    assert room.is_full(10, now + LONGEST_TRUST_S - 1.0)
    assert not room.is_full(10, now + LONGEST_TRUST_S)
    refused(room, 40, now + 1_000.0)
    assert (room.limit, room.trust_s) == (40, FIRST_TRUST_S)


def test_a_full_target_is_passed_over_until_a_call_of_it_ends() -> None:
    fleet = Fleet()
    seen(fleet, "a", NOW, ttft_s=0.1)
    seen(fleet, "b", NOW, ttft_s=5.0)
    held = [fleet.start("a", "general", NOW) for _ in range(3)]
    fleet.observe(Outcome("a", "general", "ok", 1.0, ttft_s=0.1), NOW, held.pop())
    held.append(fleet.start("a", "general", NOW))
    beyond = fleet.start("a", "general", NOW)
    fleet.observe(Outcome("a", "general", "http_error", 0.1, http_status=429), NOW, beyond)

    decision = decide(query(), catalog("a", "b"), policy(), fleet, NOW, 0.5)
    assert [candidate.target for candidate in decision.candidates] == ["b"]
    assert "refused more than 3 calls at a time" in decision.rejections[0].reason
    alone = decide(query(), catalog("a"), policy(), fleet, NOW, 0.5)
    assert [candidate.target for candidate in alone.candidates] == ["a"]

    fleet.observe(Outcome("a", "general", "ok", 1.0, ttft_s=0.1), NOW, held.pop())
    assert decide(query(), catalog("a", "b"), policy(), fleet, NOW, 0.5).candidates[0].target == "a"
