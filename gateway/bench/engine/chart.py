"""The benchmark as a picture: bars of decode tokens/s, one panel a kind of prompt, groups by streams.

In: `Figures`. Out: the text of an SVG file. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from gateway.bench.engine.report import Figures
from gateway.bench.svg import document, text

# After Okabe and Ito: apart in lightness as well as in hue.
_COLOURS = ("#9aa5b1", "#0072b2", "#e69f00", "#cc79a7", "#56b4e9")
_COLUMNS = 2
_WIDTH, _HEIGHT = 460, 250  # a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 34, 44  # from a panel's edges to its bars
_HEAD = 64  # title and legend
_TICKS = 4


def svg(found: Sequence[Figures], title: str) -> str:
    """Bars without a figure are left out; each has its value above it, as far as bars are wide enough."""
    kinds = list(dict.fromkeys(each.kind for each in found))
    variants = list(dict.fromkeys(each.variant for each in found))
    colours = {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(variants)}
    columns = min(_COLUMNS, max(1, len(kinds)))
    width, height = columns * _WIDTH, _HEAD + math.ceil(len(kinds) / columns) * _HEIGHT
    parts = [text(_LEFT, 22, title, size=15, weight="bold"), *_legend(colours)]
    for at, kind in enumerate(kinds):
        row, column = divmod(at, columns)
        panel = [each for each in found if each.kind == kind]
        parts.append(f'<g transform="translate({column * _WIDTH} {_HEAD + row * _HEIGHT})">')
        parts += _panel(kind, panel, colours)
        parts.append("</g>")
    return document(width, height, parts)


def _legend(colours: dict[str, str]) -> list[str]:
    parts, x = [], _LEFT
    for name, colour in colours.items():
        parts.append(f'<rect x="{x}" y="36" width="12" height="12" fill="{colour}"/>')
        parts.append(text(x + 17, 46, name))
        x += 40 + 7 * len(name)
    return parts


def _panel(kind: str, panel: Sequence[Figures], colours: dict[str, str]) -> list[str]:
    inner_width, inner_height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    tick = _tick(max((each.decode_tokens_per_s or 0.0 for each in panel), default=0.0))
    base = _TOP + inner_height
    parts = [text(_LEFT, 18, f"{kind}: tokens per second, all streams", weight="bold")]
    for number in range(_TICKS + 1):
        y = base - inner_height * number / _TICKS
        parts.append(
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#d8dee4"/>'
        )
        parts.append(text(_LEFT - 6, y + 4, f"{tick * number:g}", anchor="end"))
    groups = list(dict.fromkeys(each.streams for each in panel))
    group_width = inner_width / max(1, len(groups))
    bar_width = min(40.0, 0.84 * group_width / len(colours))
    for at, streams in enumerate(groups):
        middle = _LEFT + group_width * (at + 0.5)
        parts.append(text(middle, base + 18, f"{streams} stream{'s' * (streams > 1)}", anchor="middle"))
        for place, (variant, colour) in enumerate(colours.items()):
            rate = next(
                (
                    each.decode_tokens_per_s
                    for each in panel
                    if (each.streams, each.variant) == (streams, variant)
                ),
                None,
            )
            if rate is None:
                continue
            x = middle + (place - len(colours) / 2) * bar_width
            tall = inner_height * rate / (tick * _TICKS)
            parts.append(
                f'<rect x="{x:.1f}" y="{base - tall:.1f}" width="{bar_width * 0.92:.1f}" height="{tall:.1f}" '
                f'fill="{colour}"><title>{escape(variant)}: {rate:.1f}</title></rect>'
            )
            size = min(10.0, bar_width / 2)
            parts.append(
                text(x + bar_width * 0.46, base - tall - 3, f"{rate:.0f}", size=size, anchor="middle")
            )
    return parts


def _tick(largest: float) -> float:
    """A round step of which _TICKS reach past `largest`: 1, 2, 2.5 or 5 times a power of ten."""
    if largest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest / _TICKS))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * _TICKS >= largest)
