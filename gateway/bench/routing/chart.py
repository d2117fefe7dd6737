"""The simulation as a picture: a panel a scenario, a bar a strategy: what the objective came to, with its spread.

In: `Row`s and the scenarios. Out: the text of an SVG file. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from gateway.bench.routing.report import Row, Spread
from gateway.bench.routing.scenarios import Scenario
from gateway.bench.routing.simulate import ORACLE, OURS
from gateway.bench.svg import document, text

_COLOURS = {OURS: "#0072b2", ORACLE: "#e69f00"}
_OTHERS = "#9aa5b1"
_COLUMNS = 2
_WIDTH, _BAR, _GAP = 480, 14, 5
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEAD = 120, 70, 32, 26, 40


def svg(found: Sequence[Row], scenarios: Sequence[Scenario], title: str) -> str:
    """Shorter is better. Axes are logarithmic, from a power of two below the smallest value."""
    panels = [(each, [row for row in found if row.scenario == each.name]) for each in scenarios]
    panels = [(scenario, rows) for scenario, rows in panels if rows]
    most = max((len(rows) for _, rows in panels), default=0)
    height = _TOP + _BOTTOM + most * (_BAR + _GAP)
    parts = [text(12, 24, title, size=15, weight="bold")]
    for at, (scenario, rows) in enumerate(panels):
        line, column = divmod(at, _COLUMNS)
        is_cost = scenario.objective == "cost_per_completed_task"
        words = "USD per 1,000 completed calls" if is_cost else "s, p95 completion"
        values = {row.strategy: _of(row, is_cost) for row in rows}
        parts.append(f'<g transform="translate({column * _WIDTH} {_HEAD + line * height})">')
        parts += [text(12, 18, f"{scenario.name}: {words}", weight="bold"), *_bars(values), "</g>"]
    whole = _HEAD + math.ceil(len(panels) / _COLUMNS) * height
    return document(_COLUMNS * _WIDTH, whole, parts)


def _of(row: Row, is_cost: bool) -> Spread | None:
    found = row.cost_per_completed_usd if is_cost else row.p95_s
    if found is None or not is_cost:
        return found
    return Spread(1000 * found.median, 1000 * found.low, 1000 * found.high)


def _bars(values: dict[str, Spread | None]) -> list[str]:
    known = [spread for spread in values.values() if spread is not None and spread.low > 0]
    low = math.floor(math.log2(min(spread.low for spread in known))) - 0.5 if known else 0.0
    high = math.log2(max(spread.high for spread in known)) if known else 1.0
    room, bottom = _WIDTH - _LEFT - _RIGHT, _TOP + len(values) * (_BAR + _GAP)

    def x_of(value: float) -> float:
        return _LEFT + room * (math.log2(value) - low) / max(high - low, 1e-9)

    parts = []
    for power in range(math.ceil(low), math.floor(high) + 1):
        x = x_of(2.0**power)
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#d8dee4"/>')
        parts.append(text(x, bottom + 12, f"{2.0**power:g}", size=10, anchor="middle"))
    for at, (name, spread) in enumerate(values.items()):
        y = _TOP + at * (_BAR + _GAP)
        parts.append(text(_LEFT - 6, y + 11, name, anchor="end"))
        if spread is None or spread.low <= 0:
            continue
        parts.append(
            f'<rect x="{_LEFT}" y="{y}" width="{x_of(spread.median) - _LEFT:.1f}" height="{_BAR}" '
            f'fill="{_COLOURS.get(name, _OTHERS)}"><title>{escape(name)}: {spread.median:.4g}</title></rect>'
        )
        middle = y + _BAR / 2
        parts.append(
            f'<line x1="{x_of(spread.low):.1f}" y1="{middle}" x2="{x_of(spread.high):.1f}" y2="{middle}" '
            'stroke="#24292f"/>'
        )
        parts.append(text(x_of(spread.high) + 4, y + 11, f"{spread.median:.3g}"))
    return parts
