"""The picture is well-formed, with a bar for every figure that there is."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from gateway.bench.gateway.chart import svg
from gateway.bench.gateway.report import Figures

SVG = "{http://www.w3.org/2000/svg}"
ONE = Figures("sparkgate", 0.5, 90.0, 2000.0, 350.0, 0.9, 1.6, 1100.0, 900.0, 1.0, 2.0)
NOTHING = Figures("a <b> & c", *[None] * 10)


def bars(picture: str) -> list[tuple[str, float]]:
    """Titles and lengths."""
    root = ElementTree.fromstring(picture)
    titled = [(bar, bar.find(f"{SVG}title")) for bar in root.iter(f"{SVG}rect")]
    return [(str(title.text), float(bar.attrib["width"])) for bar, title in titled if title is not None]


def test_longer_is_more_by_equal_steps_for_equal_ratios() -> None:
    found = [replace(ONE, contestant=f"x{times}", calls_per_s=20.0 * times) for times in (1, 10, 100)]
    lengths = [length for title, length in bars(svg(found, "t"))[:3]]
    assert lengths[1] - lengths[0] == pytest.approx(lengths[2] - lengths[1], abs=0.2)
    assert lengths[0] < lengths[1]


def test_a_figure_that_is_missing_or_not_above_zero_has_no_bar() -> None:
    below = replace(ONE, contestant="nginx", added_ms_p50=-0.1)
    titles = [title for title, _ in bars(svg([NOTHING, below], "a & b"))]
    assert titles == ["nginx: 2000", "nginx: 1100", "nginx: 350", "nginx: 900", "nginx: 1"]


def test_nothing_measured_is_still_a_picture() -> None:
    assert bars(svg([NOTHING], "t")) == []
