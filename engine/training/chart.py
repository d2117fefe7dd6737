"""Shares as lines in panels: the text of an SVG file, which needs no library and no font of its own. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from collections.abc import Sequence as Ordered
from dataclasses import dataclass
from html import escape

# After Okabe and Ito.
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#57606a")
_COLUMNS = 4
_SIZE, _LEFT, _TOP, _BOTTOM, _RIGHT = 240, 40, 30, 24, 10  # of a panel, and from its edges to its axes
_HEAD, _LEGEND_STEP = 60, 130  # title and legend; from one name to the next, where there is room
_TICKS = 5

Points = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Panel:
    """Lines by name. x runs from `least_x` to `most_x`, y from 0 to 1."""

    title: str
    lines: Mapping[str, Points]
    least_x: float
    most_x: float
    has_diagonal: bool = False


def svg(title: str, panels: Ordered[Panel]) -> str:
    """Lines of one name have one colour in all panels."""
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    colours = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(names)}
    columns = min(_COLUMNS, len(panels))
    width = max(2, columns) * _SIZE
    height = _HEAD + math.ceil(len(panels) / columns) * _SIZE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11" fill="#24292f">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(_LEFT, 20, title, 'font-size="14" font-weight="bold"'),
    ]
    step = min(_LEGEND_STEP, (width - _LEFT) / max(1, len(names)))
    for at, (name, colour) in enumerate(colours.items()):
        x = _LEFT + at * step
        parts.append(
            f'<rect x="{x:.1f}" y="32" width="10" height="10" fill="{colour}"/>' + _text(x + 15, 41, name)
        )
    for at, panel in enumerate(panels):
        row, column = divmod(at, columns)
        parts.append(f'<g transform="translate({column * _SIZE} {_HEAD + row * _SIZE})">')
        parts += [*_axes(panel), *_lines(panel, colours), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def _axes(panel: Panel) -> list[str]:
    parts = [_text(_LEFT, 18, panel.title, 'font-weight="bold"')]
    for tick in range(_TICKS + 1):
        share = tick / _TICKS
        _, y = _place(panel, panel.least_x, share)
        end = _SIZE - _RIGHT
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}" stroke="#d8dee4"/>')
        parts.append(_text(_LEFT - 5, y + 4, f"{share:g}", 'text-anchor="end"'))
    for value in (panel.least_x, panel.most_x):
        x, y = _place(panel, value, 0.0)
        parts.append(_text(x, y + 15, f"{value:g}", 'text-anchor="middle"'))
    if panel.has_diagonal:
        parts.append(_line([(panel.least_x, 0.0), (panel.most_x, 1.0)], panel, "#9aa5b1"))
    return parts


def _lines(panel: Panel, colours: Mapping[str, str]) -> list[str]:
    parts = []
    for name, points in panel.lines.items():
        parts.append(_line(points, panel, colours[name]))
        for x, y in (_place(panel, *point) for point in points):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colours[name]}"/>')
    return parts


def _line(points: Points, panel: Panel, colour: str) -> str:
    placed = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_place(panel, *point) for point in points))
    return f'<polyline points="{placed}" fill="none" stroke="{colour}" stroke-width="1.5"/>'


def _place(panel: Panel, x: float, y: float) -> tuple[float, float]:
    span = panel.most_x - panel.least_x or 1.0
    across = (x - panel.least_x) / span * (_SIZE - _LEFT - _RIGHT)
    return _LEFT + across, _SIZE - _BOTTOM - y * (_SIZE - _TOP - _BOTTOM)


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(text)}</text>'
