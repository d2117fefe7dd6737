"""A run of `bench models` as a picture: a panel a figure, a bar a model. In: reports. Out: the text of an SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gateway.bench.samples import ModelReport, Percentiles
from gateway.bench.svg import document, text

_WIDTH, _BAR, _STEP = 760, 14, 26
_LEFT, _RIGHT, _TOP, _PANEL_HEAD = 170, 150, 40, 34
_P50, _P95 = "#0072b2", "#9ecae1"
_Bar = tuple[str, float, float | None, str]  # model, end of the dark bar, of the light one, words behind it


def svg(found: Sequence[ModelReport], title: str) -> str:
    """Times: the dark bar ends at p50, the light one at p95. Shares and costs: one bar."""
    parts = [text(12, 24, title, size=15, weight="bold")]
    y = float(_TOP)
    panels: list[tuple[str, list[_Bar]]] = [
        ("Time to first token, s: p50 and p95", _spans(found, "ttft_s")),
        ("Completion, s: p50 and p95", _spans(found, "total_s")),
        ("Completed tasks, %", _shares(found)),
        ("Cost of a completed task, USD per 1,000", _costs(found)),
    ]
    for words, bars in panels:
        if bars:
            parts += _panel(words, bars, y)
            y += _PANEL_HEAD + _STEP * len(bars)
    return document(_WIDTH, round(y) + 12, parts)


def _panel(words: str, bars: Sequence[_Bar], top: float) -> list[str]:
    longest = max(max(value, far or 0.0) for _, value, far, _ in bars) or 1.0
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    parts = [text(12, top + 20, words, weight="bold")]
    for at, (name, value, far, said) in enumerate(bars):
        y = top + _PANEL_HEAD + at * _STEP
        parts.append(text(_LEFT - 8, y + 11, _short(name), anchor="end"))
        if far is not None:
            parts.append(_rect(y, far * scale, _P95))
        parts.append(_rect(y, value * scale, _P50))
        parts.append(text(_LEFT + max(value, far or 0.0) * scale + 6, y + 11, said))
    return parts


def _rect(y: float, width: float, colour: str) -> str:
    return f'<rect x="{_LEFT}" y="{y:.1f}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>'


def _short(name: str) -> str:
    return name if len(name) <= 24 else name[:23] + "…"


def _spans(found: Sequence[ModelReport], figure: str) -> list[_Bar]:
    bars: list[_Bar] = []
    for report in found:
        of: Percentiles = getattr(report, figure)
        if of.p50 is not None and of.p95 is not None:
            star = "*" if "p95" in of.too_few_for else ""
            bars.append((report.model, of.p50, of.p95, f"{of.p50:.3g} – {of.p95:.3g}{star}"))
    return bars


def _shares(found: Sequence[ModelReport]) -> list[_Bar]:
    return [
        (it.model, 100 * rate, None, f"{it.completed} of {it.checked}")
        for it in found
        if (rate := it.completion_rate) is not None
    ]


def _costs(found: Sequence[ModelReport]) -> list[_Bar]:
    return [
        (it.model, 1e3 * usd, None, f"{1e3 * usd:.3g}")
        for it in found
        if (usd := it.cost_per_completed_usd) is not None
    ]
