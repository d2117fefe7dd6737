"""The fast part of `make fuzz`: some of its inputs for every target; and that it finds what is planted."""

from __future__ import annotations

import time
from random import Random

import pytest

from tests.fuzz import mutate
from tests.fuzz.base import FuzzTarget, must
from tests.fuzz.hunt import hunt, sample
from tests.fuzz.targets import TARGETS

INPUTS = 4000
SEED = 20261122


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_no_input_does_anything_that_was_not_declared(target: FuzzTarget) -> None:
    found = hunt(target, SEED, range(int(INPUTS * target.share)))
    assert found.inputs > 0
    assert found.failures == {}


def test_the_shares_are_parts_of_one_whole() -> None:
    assert sum(target.share for target in TARGETS) == pytest.approx(1.0)


def _take_planted(number: int) -> None:
    must(number != 3, "three")
    while number == 5:
        time.process_time()


def test_faults_crashes_and_hangs_are_found_and_can_be_had_again() -> None:
    target = FuzzTarget("planted", 1.0, lambda chance: chance.randint(1, 5), _take_planted)
    found = hunt(target, SEED, range(12))
    assert found.inputs == 12
    kinds = {kind.split(" ")[0]: first for kind, (_, first) in found.failures.items()}
    assert {name: sample(target, SEED, first) for name, first in kinds.items()} == {"Fault": 3, "Hang": 5}


def test_spoiled_values_are_still_json() -> None:
    chance = Random(SEED)
    for _ in range(300):
        value = mutate.tree(chance, {"a": [1, {"b": "c"}], "d": {"e": [2, 3]}}, {"f": [{}]}, times=6)
        mutate.json_of(value)
        mutate.yaml_of(value)


def test_pieces_are_the_whole() -> None:
    chance = Random(SEED)
    for size in range(60):
        data = chance.randbytes(size)
        assert b"".join(mutate.cuts(chance, data)) == data
