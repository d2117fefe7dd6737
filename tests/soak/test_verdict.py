"""The soak's verdict on made-up runs: a sound one passes, and every kind of leak or loss fails by its own criterion."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from tests.soak.chart import svg
from tests.soak.verdict import Run, Sample, Slice, checks, slope_per_s


def sound_run() -> Run:
    """A quarter of an hour: memory that jumps at first and then wavers, calls that are as slow at the end."""
    chance = Random(1)
    samples = [
        Sample(at, 100 + min(at, 60) / 3 + chance.gauss(0, 1.5), 60 + chance.randrange(20))
        for at in range(0, 900, 2)
    ]
    slices = [
        Slice(at, 10_000, chance.gauss(0.002, 0.0002), chance.gauss(0.02, 0.001)) for at in range(0, 900, 10)
    ]
    slices[45] = Slice(450.0, 10_000, 5.0, 5.0)  # Postgres and a worker go down
    return Run(
        seconds=900.0,
        rate=1000.0,
        processes={"worker 0": samples, "drain": copy.deepcopy(samples)},
        at_rest={"worker 0": (16, 21), "drain": (8, 7)},
        slices=slices,
        restarts=[(450.0, "Postgres")],
        answered=900_000,
        rows=900_000,
        outcomes=500,
        outcome_rows=500,
        reloads=45,
        policies=45,
        broken=3,
        may_break=50,
    )


def failed(run: Run) -> list[str]:
    return [check.name for check in checks(run) if not check.is_well]


def test_a_sound_run_is_well_and_can_be_drawn() -> None:
    assert failed(sound_run()) == []
    assert svg(sound_run()).startswith("<svg")


def _leak_memory(run: Run) -> None:
    """Six percent over the run, under the noise of any two samples."""
    run.processes["drain"] = [
        replace(one, rss_mb=one.rss_mb + 0.01 * one.at_s) for one in run.processes["drain"]
    ]


def _leak_descriptors(run: Run) -> None:
    run.at_rest["worker 0"] = (16, 22)


def _slow_down(run: Run) -> None:
    run.slices = [replace(one, overhead_p99_s=0.002 + one.at_s * 2e-6) for one in run.slices]


def _slow_down_streams(run: Run) -> None:
    run.slices = [replace(one, ttft_p99_s=0.02 + one.at_s * 2e-5) for one in run.slices]


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (_leak_memory, "memory of drain"),
        (_leak_descriptors, "descriptors of worker 0"),
        (_slow_down, "overhead p99"),
        (_slow_down_streams, "first token p99"),
        (lambda run: setattr(run, "rows", 899_999), "answered calls in the ledger"),
        (lambda run: setattr(run, "doubled", 1), "rows that are there twice"),
        (lambda run: setattr(run, "outcome_rows", 499), "outcomes in the ledger"),
        (lambda run: setattr(run, "policies", 44), "policy versions"),
        (lambda run: setattr(run, "quarantined", 1), "lines in quarantine"),
        (lambda run: setattr(run, "broken", 51), "calls cut off by restarts"),
        (lambda run: setattr(run, "unexpected", {"500": 1}), "unexpected answers"),
        (lambda run: run.processes.update({"worker 2": []}), "memory of worker 2"),
    ],
)
def test_every_leak_and_loss_is_found(spoil: Callable[[Run], None], name: str) -> None:
    run = sound_run()
    spoil(run)
    assert name in failed(run)
    assert {name.split(" of ")[-1] for name in failed(run)} == {name.split(" of ")[-1]}


def test_wild_points_do_not_move_the_slope() -> None:
    points = [(float(at), 2.0 * at + (1e6 if at % 5 == 0 else 0.0)) for at in range(100)]
    assert slope_per_s(points) == pytest.approx(2.0, rel=0.1)
