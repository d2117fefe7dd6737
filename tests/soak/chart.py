"""A soak run as a picture: memory, descriptors, latencies and calls over time, restarts as lines. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil

from gateway.bench.svg import document, text
from tests.soak.verdict import Run

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 190, 60, 150, 30, 26
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6e7781")
Points = Sequence[tuple[float, float]]


def svg(run: Run) -> str:
    def of_slices(attribute: str, scale: float) -> Points:
        values = [(one.at_s, getattr(one, attribute)) for one in run.slices]
        return [(at_s, value * scale) for at_s, value in values if value is not None]

    panels: list[tuple[str, Mapping[str, Points]]] = [
        (
            "resident memory, MB",
            {name: [(one.at_s, one.rss_mb) for one in each] for name, each in run.processes.items()},
        ),
        (
            "open descriptors",
            {
                name: [(one.at_s, float(one.descriptors)) for one in each]
                for name, each in run.processes.items()
            },
        ),
        (
            "p99 of ten seconds, ms",
            {"overhead": of_slices("overhead_p99_s", 1e3), "first token": of_slices("ttft_p99_s", 1e3)},
        ),
        ("calls a second, as the ledger has them", {"calls": of_slices("calls", 0.1)}),
    ]
    title = (
        f"Soak: {run.seconds / 60:.0f} minutes at {run.rate:,.0f} calls a second, {run.answered:,} answered"
    )
    parts = [text(12, 24, title, size=15, weight="bold")]
    for at, (words, lines) in enumerate(panels):
        parts.append(f'<g transform="translate(0 {40 + at * _HEIGHT})">')
        parts += [text(12, 18, words, weight="bold"), *_panel(run, lines), "</g>"]
    return document(_WIDTH, 40 + len(panels) * _HEIGHT, parts)


def _panel(run: Run, lines: Mapping[str, Points]) -> list[str]:
    room_x, room_y = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    values = sorted(value for points in lines.values() for _, value in points)
    top = values[min(len(values) - 1, int(len(values) * 0.995))] * 1.15 if values else 1.0
    top = ceil(top / 10.0) * 10.0 or 10.0

    def place(at_s: float, value: float) -> tuple[float, float]:
        return _LEFT + room_x * at_s / run.seconds, _TOP + room_y * (1 - min(value, top) / top)

    parts = []
    for share in (0.0, 0.5, 1.0):
        y = place(0.0, top * share)[1]
        end = _WIDTH - _RIGHT
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{end}" y2="{y:.1f}" stroke="#d8dee4"/>')
        parts.append(text(_LEFT - 6, y + 4, f"{top * share:,.0f}", size=10, anchor="end"))
        minutes = f"{run.seconds * share / 60:.3g} min"
        parts.append(text(_LEFT + room_x * share, _HEIGHT - _BOTTOM + 14, minutes, size=10, anchor="middle"))
    for moment_s, what in run.restarts:
        x = place(moment_s, 0.0)[0]
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{_TOP + room_y}" stroke="#6e7781" '
            'stroke-dasharray="3 3"/>'
        )
        parts.append(text(x + 3, _TOP + 9, what, size=9))
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.3"/>')
        y = _TOP + 10 + number * 15
        parts.append(f'<rect x="{_WIDTH - _RIGHT + 10}" y="{y - 8}" width="10" height="10" fill="{colour}"/>')
        parts.append(text(_WIDTH - _RIGHT + 25, y, name, size=11))
    return parts
