"""The pictures are well-formed, bars as tall and dots as high as their figures."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from gateway.bench.engine.chart import lengths, rates
from gateway.bench.engine.report import Figures

SVG = "{http://www.w3.org/2000/svg}"
ONE = Figures("plain", "code", 1, 3, 40.0, 40.0, 0.1, 0.0, 1.0, 0)


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
    found = bars(rates([ONE, replace(ONE, variant="llama.cpp <a>", decode_tokens_per_s=10.0)], "a & b"))
    assert found["plain: 40.0"] == pytest.approx(4 * found["llama.cpp <a>: 10.0"], rel=0.01)


def test_a_figure_that_is_missing_has_no_bar() -> None:
    assert bars(rates([ONE, replace(ONE, streams=4, decode_tokens_per_s=None)], "t")) == {
        "plain: 40.0": pytest.approx(172.0)
    }


@pytest.mark.parametrize("largest", [0.7, 3.0, 99.9, 100.0, 4321.0])
def test_no_bar_reaches_past_the_axis(largest: float) -> None:
    (height,) = bars(rates([replace(ONE, decode_tokens_per_s=largest)], "t")).values()
    assert 250 - 34 - 44 >= height > (250 - 34 - 44) / 2.6


def test_nothing_but_failures_is_still_a_picture() -> None:
    assert bars(rates([replace(ONE, decode_tokens_per_s=None)], "t")) == {}


def test_names_that_do_not_fit_beside_each_other_go_below() -> None:
    names = [f"a drafter with a long name {number}" for number in range(6)]
    texts = {
        str(it.text): (float(it.attrib["x"]), float(it.attrib["y"]))
        for it in ElementTree.fromstring(rates([replace(ONE, variant=name) for name in names], "t")).iter(
            f"{SVG}text"
        )
    }
    assert len({texts[name] for name in names}) == len(names)
    assert all(x + 6 * len(name) < 460 for name, (x, _) in texts.items() if name in names)


def dots(picture: str) -> dict[str, float]:
    """Height above the bottom of the picture's first panel, by title."""
    root = ElementTree.fromstring(picture)
    return {
        str(dot.findtext(f"{SVG}title")): 250 - 44 - float(dot.attrib["cy"])
        for dot in root.iter(f"{SVG}circle")
    }


def test_drafts_are_drawn_for_variants_that_have_some() -> None:
    auto = replace(ONE, variant="auto", verified_length=4.0, accepted_length=2.0)
    found = [
        ONE,
        auto,
        replace(ONE, streams=2),
        replace(auto, streams=2, verified_length=0.0, accepted_length=1.0),
    ]
    assert dots(lengths(found, "t")) == {
        "auto, verified: 4.00": pytest.approx(172.0),
        "auto, accepted: 1.00": pytest.approx(43.0),
        "auto, verified: 0.00": pytest.approx(0.0),
        "auto, accepted: 0.00": pytest.approx(0.0),
    }


def test_a_variant_has_one_colour_in_both_pictures() -> None:
    found = [ONE, replace(ONE, variant="auto", verified_length=4.0)]
    fill = ElementTree.fromstring(lengths(found, "t")).find(f".//{SVG}circle")
    assert fill is not None
    assert f'fill="{fill.attrib["fill"]}"><title>auto:' in rates(found, "t")
