from __future__ import annotations

from gateway.surfaces.homes import ResponseHomes


def test_a_response_is_at_the_target_that_gave_it_last() -> None:
    homes = ResponseHomes(("a", "b"))
    homes.keep("r1", "a")
    homes.keep("r1", "b")
    assert (homes.of("r1"), homes.of("r2")) == ("b", None)


def test_the_oldest_are_forgotten() -> None:
    homes = ResponseHomes(("a", "b"), max_responses=2)
    for response_id in ("r1", "r2", "r1", "r3"):
        homes.keep(response_id, "a")
    assert [homes.of(each) for each in ("r1", "r2", "r3")] == ["a", None, "a"]


def test_a_lone_keeper_has_what_nobody_remembers() -> None:
    assert ResponseHomes(("a",)).of("r1") == "a"
    assert ResponseHomes(()).of("r1") is None
