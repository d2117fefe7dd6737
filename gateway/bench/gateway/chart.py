"""The benchmark as a picture: one panel a figure, one bar a contestant, on logarithmic axes.

In: `Figures`. Out: the text of an SVG file. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from gateway.bench.gateway.readings import OURS, STREAMS, STREAMS_PACED, WHOLE, WHOLE_PACED
from gateway.bench.gateway.report import Figures
from gateway.bench.svg import document, text

_PANELS = {
    "calls_per_s": f"whole answers per second, {WHOLE.concurrency} at a time",
    "streams_per_s": f"streams of {STREAMS.chunks} chunks per second, {STREAMS.concurrency} at a time",
    "cpu_us_per_call": "CPU µs per whole answer",
    "cpu_us_per_stream": "CPU µs per stream",
    "added_ms_p50": f"ms added at {WHOLE_PACED.rate} calls per second, median",
    "added_ttft_ms_p50": f"ms added to the first token at {STREAMS_PACED.rate} streams per second, median",
}
_OURS, _OTHERS = "#0072b2", "#9aa5b1"
_COLUMNS = 2
_WIDTH, _BAR, _GAP = 480, 16, 6
_LEFT, _RIGHT, _TOP, _BOTTOM = 150, 60, 34, 30  # from a panel's edges to its bars
_HEAD = 40


def svg(found: Sequence[Figures], title: str) -> str:
    """Longer is better where it is a rate, worse where a cost. Bars without a figure above 0 are left out."""
    height = _TOP + _BOTTOM + len(found) * (_BAR + _GAP)
    width, whole = _COLUMNS * _WIDTH, _HEAD + math.ceil(len(_PANELS) / _COLUMNS) * height
    parts = [text(12, 24, title, size=15, weight="bold")]
    for at, (figure, words) in enumerate(_PANELS.items()):
        row, column = divmod(at, _COLUMNS)
        values = {each.contestant: getattr(each, figure) for each in found}
        parts.append(f'<g transform="translate({column * _WIDTH} {_HEAD + row * height})">')
        parts += [text(12, 18, words, weight="bold"), *_bars(values), "</g>"]
    return document(width, whole, parts)


def _bars(values: dict[str, float | None]) -> list[str]:
    """From the power of ten below the smallest value to the largest value."""
    known = [value for value in values.values() if value is not None and value > 0]
    low = math.floor(math.log10(min(known))) - 0.2 if known else 0.0
    span = math.log10(max(known)) - low if known else 1.0
    room, bottom = _WIDTH - _LEFT - _RIGHT, _TOP + len(values) * (_BAR + _GAP)
    parts = []
    for power in range(math.ceil(low), math.floor(low + span) + 1):
        x = _LEFT + room * (power - low) / span
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{bottom}" stroke="#d8dee4"/>')
        parts.append(text(x, bottom + 12, f"{10.0**power:,g}", size=10, anchor="middle"))
    for at, (name, value) in enumerate(values.items()):
        y = _TOP + at * (_BAR + _GAP)
        parts.append(text(_LEFT - 6, y + 12, name, anchor="end"))
        if value is None or value <= 0:
            continue
        long = room * (math.log10(value) - low) / span
        colour = _OURS if name.startswith(OURS) else _OTHERS
        parts.append(
            f'<rect x="{_LEFT}" y="{y}" width="{long:.1f}" height="{_BAR}" fill="{colour}">'
            f"<title>{escape(name)}: {value:.4g}</title></rect>"
        )
        parts.append(text(_LEFT + long + 4, y + 12, f"{value:,.0f}" if value >= 100 else f"{value:.2g}"))
    return parts
