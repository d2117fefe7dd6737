"""Spreads over seeds, what should hold, and the picture."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from gateway.bench.routing.chart import svg
from gateway.bench.routing.compare import Measured
from gateway.bench.routing.measure import Figures
from gateway.bench.routing.report import Claim, Spread, claims, rows
from gateway.bench.routing.scenarios import SCENARIOS
from gateway.bench.routing.simulate import LITELLM, ORACLE, OURS
from gateway.bench.samples import Percentiles

FIGURES = Figures({"general": Percentiles.of([1.0] * 20)}, 1.0, 1.0, 0.0, 0.0, 0.0, 0.001, 0.0, {})
ONE = Measured("slowdown", OURS, 1, 1.0, FIGURES, 3.0, 30, False, 10.0, False, None, None)
SLOWDOWN = SCENARIOS["slowdown"]


def of(strategy: str, seed: int, score: float, window_p95_s: float = 1.0, timeouts: float = 0.0) -> Measured:
    figures = replace(FIGURES, p95_s=score, window_p95_s=window_p95_s, window_timeout_rate=timeouts)
    return replace(ONE, strategy=strategy, seed=seed, score=score, figures=figures)


def claim(found: list[Measured], what: str) -> Claim:
    return next(each for each in claims(found, [SLOWDOWN]) if each.what.startswith(what))


def test_rows_tell_medians_and_spreads() -> None:
    row = rows([of(OURS, seed, score) for seed, score in ((1, 5.0), (2, 1.0), (3, 2.0))])[0]
    assert (row.seeds, row.p95_s) == (3, Spread(2.0, 1.0, 5.0))
    assert row.completion_s["general"]["p95"] == Spread(1.0, 1.0, 1.0)
    assert row.warm_share is None


def test_ratios_are_taken_within_seeds() -> None:
    found = [of(OURS, 1, 11.0), of(OURS, 2, 120.0), of(ORACLE, 1, 10.0), of(ORACLE, 2, 100.0)]
    held = claim(found, "p95 completion / oracle's")
    assert held.found is not None
    assert [held.found.low, held.found.high] == pytest.approx([1.1, 1.2])
    assert held.limit == 1.15
    worse = claim([replace(each, score=1.2 * each.score) for each in found[:2]] + found[2:], "p95 completion")
    assert worse.holds is False


def test_one_seed_on_which_the_oracle_loses_is_told() -> None:
    found = [of(OURS, 1, 11.0), of(OURS, 2, 9.0), of(ORACLE, 1, 10.0), of(ORACLE, 2, 10.0)]
    held = claim(found, "least score")
    assert (held.holds, held.notes) == (False, (f"{OURS}, seed 2: 0.900",))
    assert claim([found[0], found[2]], "least score").holds is True


def test_incidents_are_compared_with_litellm() -> None:
    found = [of(OURS, 1, 1.0, 5.0, 0.02), of(LITELLM, 1, 2.0, 10.0, 0.05)]
    assert claim(found, "p95 in incidents").holds is True
    assert claim(found, "timeouts in incidents").holds is False
    none = claim([found[0], of(LITELLM, 1, 2.0, 10.0, 0.0)], "timeouts in incidents")
    assert (none.holds, none.notes) == (False, ("theirs was 0 where ours was not in 1 runs",))
    few = [of(OURS, seed, 1.0, 5.0, 0.01) for seed in (1, 2, 3)]
    theirs = [of(LITELLM, seed, 2.0, 10.0, rate) for seed, rate in ((1, 0.1), (2, 0.0), (3, 0.2))]
    most = claim([*few, *theirs], "timeouts in incidents")
    assert (most.holds, most.notes) == (True, none.notes)
    oracles = [of(ORACLE, seed, 1.0, 5.0, 0.03) for seed in (1, 3)]
    hard = claim([few[0], few[2], theirs[0], theirs[2], *oracles], "timeouts in incidents")
    assert hard.notes == ()
    harder = claim([few[0], of(LITELLM, 1, 2.0, 10.0, 0.02), oracles[0]], "timeouts in incidents")
    assert (harder.holds, harder.notes) == (False, ("the oracle's are 1.50",))


def test_a_target_is_left_in_time_by_calls_or_by_seconds() -> None:
    assert claim([ONE], "swift: calls").holds is True  # 30 calls, but within 3 s
    assert claim([replace(ONE, left_s=9.0)], "swift: calls").holds is False
    assert claim([replace(ONE, left_s=9.0, left_calls=20)], "swift: calls").holds is True
    never = claim([replace(ONE, left_s=None, left_calls=None, never_left=True)], "swift: calls")
    assert (never.holds, never.notes) == (False, ("not left in 1 of 1 runs",))


def test_a_newcomer_gets_neither_everything_nor_nothing() -> None:
    world = SCENARIOS["newcomer"]
    for share, holds in ((0.005, False), (0.02, True), (0.3, True), (0.4, False)):
        one = replace(ONE, scenario="newcomer", warm_share=share, fair_warm_share=0.3)
        held = next(each for each in claims([one], [world]) if each.what.startswith("newcomer"))
        assert (held.limit, held.holds) == (0.3, holds)


def test_the_picture_has_a_bar_for_each_strategy() -> None:
    found = rows([of(OURS, 1, 4.0), of(ORACLE, 1, 2.0), of("<random>", 1, 8.0)])
    root = ElementTree.fromstring(svg(found, [SLOWDOWN, SCENARIOS["calm"]], "a & b"))
    name = "{http://www.w3.org/2000/svg}"
    bars = [(str(bar[0].text), float(bar.attrib["width"])) for bar in root.iter(f"{name}rect") if len(bar)]
    assert [title for title, _ in bars] == [f"{OURS}: 4", f"{ORACLE}: 2", "<random>: 8"]
    lengths = [length for _, length in bars]
    assert lengths[2] - lengths[0] == pytest.approx(lengths[0] - lengths[1], abs=0.2)


def test_nothing_measured_is_still_a_picture() -> None:
    assert ElementTree.fromstring(svg([], [SLOWDOWN], "t")) is not None
