"""The picture is well-formed and its bars are as tall as their figures."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from gateway.bench.engine.chart import svg
from gateway.bench.engine.report import Figures

SVG = "{http://www.w3.org/2000/svg}"
ONE = Figures("plain", "code", 1, 3, 40.0, 40.0, 0.1, None, 0)


def bars(picture: str) -> dict[str, float]:
    """Height by title."""
    root = ElementTree.fromstring(picture)
    found = {}
    for bar in root.iter(f"{SVG}rect"):
        title = bar.find(f"{SVG}title")
        if title is not None:
            found[str(title.text)] = float(bar.attrib["height"])
    return found


def test_bars_are_in_proportion() -> None:
    found = bars(svg([ONE, replace(ONE, variant="llama.cpp <a>", decode_tokens_per_s=10.0)], "a & b"))
    assert found["plain: 40.0"] == pytest.approx(4 * found["llama.cpp <a>: 10.0"], rel=0.01)


def test_a_figure_that_is_missing_has_no_bar() -> None:
    assert bars(svg([ONE, replace(ONE, streams=4, decode_tokens_per_s=None)], "t")) == {
        "plain: 40.0": pytest.approx(172.0)
    }


@pytest.mark.parametrize("largest", [0.7, 3.0, 99.9, 100.0, 4321.0])
def test_no_bar_reaches_past_the_axis(largest: float) -> None:
    (height,) = bars(svg([replace(ONE, decode_tokens_per_s=largest)], "t")).values()
    assert 250 - 34 - 44 >= height > (250 - 34 - 44) / 2.6


def test_nothing_but_failures_is_still_a_picture() -> None:
    assert bars(svg([replace(ONE, decode_tokens_per_s=None)], "t")) == {}
