from __future__ import annotations

import asyncio

from gateway.surfaces.homes import ResponseHomes


def test_a_response_is_at_the_target_that_gave_it_last() -> None:
    homes = ResponseHomes(("a", "b"))
    homes.keep("r1", "a", "app")
    homes.keep("r1", "b", "app")
    assert (homes.of("r1", "app"), homes.of("r2", "app")) == ("b", None)


def test_it_is_there_for_its_caller_alone() -> None:
    homes = ResponseHomes(("a", "b"))
    homes.keep("r1", "a", "app")
    assert homes.of("r1", "other") is None
    assert asyncio.run(homes.find("r1", "other")) is None
    assert asyncio.run(homes.find("r1", "app")) == "a"


def test_the_oldest_are_forgotten() -> None:
    homes = ResponseHomes(("a", "b"), max_responses=2)
    for response_id in ("r1", "r2", "r1", "r3"):
        homes.keep(response_id, "a", "app")
    assert [homes.of(each, "app") for each in ("r1", "r2", "r3")] == [None, "a", "a"]


def test_ids_that_fit_no_path_or_index_are_not_kept() -> None:
    homes = ResponseHomes(("a",))
    for response_id in ("", "..", "a/b", "a\0", "a?b", "a b", "é", "x" * 513):
        homes.keep(response_id, "a", "app")
        assert homes.of(response_id, "app") is None
