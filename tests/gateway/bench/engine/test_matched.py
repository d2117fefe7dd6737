"""The speed of single streams at one aggregate rate, on curves whose values are worked out by hand."""

from __future__ import annotations

import pytest

from gateway.bench.engine.matched import Match, matches
from gateway.bench.engine.report import Figures


def curve(variant: str, *points: tuple[int, float | None, float], kind: str = "math") -> list[Figures]:
    """`points`: streams, tokens/s of all, of one."""
    return [
        Figures(variant, kind, streams, 1, total, one, 0.1, None, None, 0) for streams, total, one in points
    ]


FAST = curve("auto", (1, 100, 100), (2, 180, 90), (4, 300, 75))
SLOW = curve("mtp fixed", (1, 60, 60), (2, 110, 55), (8, 240, 30))


def test_speeds_are_read_off_the_lines_between_points() -> None:
    """At 100: 100 and 60 - 5·40/50 = 56. At 145 (of 100, 110, 180, 240): 94.375 and 55 - 25·35/130.

    At 240: 90 - 15·60/120 = 82.5, and 30.
    """
    found = matches(FAST + SLOW, "auto")
    assert [(it.above, it.below, it.decode_tokens_per_s) for it in found] == [
        ("auto", "mtp fixed", rate) for rate in (100, 145, 240)
    ]
    assert [it.times for it in found] == pytest.approx([100 / 56, 94.375 / (55 - 25 * 35 / 130), 82.5 / 30])


def test_curves_without_a_common_rate_are_not_compared() -> None:
    assert matches(FAST + curve("plain", (1, 40, 40), (16, 99, 6)), "auto") == []
    assert matches(FAST + curve("plain", (1, None, 40)), "auto") == []


def test_kinds_are_compared_apart_and_order_of_streams_does_not_matter() -> None:
    of_chat = curve("auto", (1, 10, 10), kind="chat") + curve("plain", (1, 10, 5), kind="chat")
    found = matches([*reversed(SLOW), *of_chat, *reversed(FAST)], "auto")
    assert found[3:] == [Match("chat", "auto", "plain", 10, 2.0)] * 3
    assert found[:3] == matches(FAST + SLOW, "auto")


def test_where_two_loads_give_a_rate_the_kinder_counts() -> None:
    """Past its best load the total falls again: 150 is reached between 1 and 2 streams, and between 2 and 4."""
    bent = curve("auto", (1, 100, 100), (2, 200, 100), (4, 100, 25))
    flat = curve("plain", (1, 150, 50))
    assert [it.times for it in matches(bent + flat, "auto")] == pytest.approx([2.0] * 3)
