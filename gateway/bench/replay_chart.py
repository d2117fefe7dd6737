"""A replay as a picture: p95 completion by shape, as recorded and under the other policy, with 95 % intervals.

In: a replay's JSON. Out: the text of an SVG file. Pure.
"""

from __future__ import annotations

from typing import Any

from gateway.bench.svg import document, text

_SIDES = {"old": ("recorded", "#9aa5b1"), "new": ("under this policy", "#0072b2")}
_WIDTH, _BAR, _GAP = 640, 14, 10
_LEFT, _RIGHT, _TOP, _BOTTOM = 130, 80, 64, 12


def svg(found: dict[str, Any]) -> str:
    """Shorter is better. A shape of which nothing can be told is left out."""
    rows = [row for row in found["shapes"] if row["old"]["completion_p95_s"] is not None]
    bars = [row[side]["completion_p95_s"] for row in rows for side in _SIDES]
    longest_s = max((bar["high"] or bar["value"] for bar in bars if bar), default=0.0) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / longest_s
    step = 2 * _BAR + _GAP
    parts = [text(12, 22, f"Policy {found['policy']}: p95 completion, s", size=15, weight="bold")]
    for at, (name, colour) in enumerate(_SIDES.values()):
        x = _LEFT + 160 * at
        parts.append(f'<rect x="{x}" y="36" width="12" height="12" fill="{colour}"/>')
        parts.append(text(x + 18, 46, name))
    for at, row in enumerate(rows):
        y = _TOP + at * step
        parts.append(text(_LEFT - 8, y + _BAR + 4, row["shape"], anchor="end"))
        for side, (_, colour) in enumerate(_SIDES.values()):
            parts += _bar(bars[2 * at + side], y + side * _BAR, scale, colour)
    return document(_WIDTH, _TOP + len(rows) * step + _BOTTOM, parts)


def _bar(estimate: dict[str, Any] | None, y: float, scale: float, colour: str) -> list[str]:
    if estimate is None:
        return []
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    end = _LEFT + scale * (value if high is None else high)
    parts = [
        f'<rect x="{_LEFT}" y="{y}" width="{scale * value:.1f}" height="{_BAR}" fill="{colour}"/>',
        text(end + 4, y + 11, f"{value:.3g}"),
    ]
    if low is not None and high is not None:
        middle = y + _BAR / 2
        parts.append(
            f'<line x1="{_LEFT + scale * low:.1f}" y1="{middle}" x2="{end:.1f}" y2="{middle}" '
            'stroke="#24292f"/>'
        )
    return parts
