"""The benchmark as pictures, one panel a kind of prompt: bars of tokens/s, and how many drafts are tested by load.

In: `Figures`. Out: the text of an SVG file. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

from gateway.bench.engine.report import Figures
from gateway.bench.svg import document, text

# After Okabe and Ito: apart in lightness as well as in hue.
_COLOURS = ("#9aa5b1", "#0072b2", "#e69f00", "#cc79a7", "#56b4e9", "#009e73", "#d55e00", "#24292f")
_COLUMNS = 2
_WIDTH, _HEIGHT = 460, 250  # a panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 34, 44  # from a panel's edges to its axes
_HEAD, _LEGEND_ROW = 48, 18  # title; a line of the legend
_TICKS = 4
_LEAST_SIZE = 5.0  # of letters that can be read


@dataclass(frozen=True, slots=True)
class _Axes:
    """Streams from left to right, a group each; from 0 up to `_TICKS` times `tick`."""

    groups: tuple[int, ...]
    tick: float

    @property
    def group_width(self) -> float:
        return (_WIDTH - _LEFT - _RIGHT) / max(1, len(self.groups))

    def x(self, streams: int) -> float:
        return _LEFT + self.group_width * (self.groups.index(streams) + 0.5)

    def tall(self, value: float) -> float:
        return (_HEIGHT - _TOP - _BOTTOM) * value / (self.tick * _TICKS)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - self.tall(value)


_Colours = dict[str, str]  # by variant
_Marks = Callable[[_Axes, Sequence[Figures], _Colours], list[str]]


def rates(found: Sequence[Figures], title: str) -> str:
    """Bars without a figure are left out; each has its value above it, where bars are wide enough."""
    return _picture(
        found,
        title,
        _colours(found),
        "tokens per second, all streams",
        _bars,
        lambda it: it.decode_tokens_per_s,
    )


def lengths(found: Sequence[Figures], title: str) -> str:
    """Drafted tokens a round over streams, as in DSpark's figure 8: those verified, and of these those accepted.

    Variants that verified none anywhere have no line.
    """
    drafting = {each.variant for each in found if each.verified_length}
    colours = {name: colour for name, colour in _colours(found).items() if name in drafting}
    words = "drafts a round, verified (line) and accepted (dashes)"
    return _picture(found, title, colours, words, _lines, lambda it: it.verified_length)


def _colours(found: Sequence[Figures]) -> _Colours:
    variants = dict.fromkeys(each.variant for each in found)
    return {name: _COLOURS[at % len(_COLOURS)] for at, name in enumerate(variants)}


def _picture(
    found: Sequence[Figures],
    title: str,
    colours: _Colours,
    words: str,
    marks: _Marks,
    value: Callable[[Figures], float | None],
) -> str:
    """`value` is what reaches highest."""
    kinds = list(dict.fromkeys(each.kind for each in found))
    columns = min(_COLUMNS, max(1, len(kinds)))
    legend, legend_rows = _legend(colours, columns * _WIDTH)
    head = _HEAD + legend_rows * _LEGEND_ROW
    parts = [text(_LEFT, 22, title, size=15, weight="bold"), *legend]
    for at, kind in enumerate(kinds):
        row, column = divmod(at, columns)
        panel = [each for each in found if each.kind == kind]
        axes = _Axes(
            tuple(dict.fromkeys(each.streams for each in panel)),
            _tick(max((value(each) or 0.0 for each in panel), default=0.0)),
        )
        parts.append(f'<g transform="translate({column * _WIDTH} {head + row * _HEIGHT})">')
        parts += [text(_LEFT, 18, f"{kind}: {words}", weight="bold"), *_grid(axes)]
        parts += [*marks(axes, panel, colours), "</g>"]
    return document(columns * _WIDTH, head + math.ceil(len(kinds) / columns) * _HEIGHT, parts)


def _legend(colours: _Colours, width: int) -> tuple[list[str], int]:
    """Its parts and in how many rows they stand."""
    parts, x, rows = [], _LEFT, 1
    for name, colour in colours.items():
        needed = 40 + 7 * len(name)
        if x > _LEFT and x + needed > width:
            x, rows = _LEFT, rows + 1
        y = 18 + rows * _LEGEND_ROW
        parts.append(f'<rect x="{x}" y="{y}" width="12" height="12" fill="{colour}"/>')
        parts.append(text(x + 17, y + 10, name))
        x += needed
    return parts, rows


def _grid(axes: _Axes) -> list[str]:
    parts = []
    for number in range(_TICKS + 1):
        y = axes.y(axes.tick * number)
        parts.append(
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#d8dee4"/>'
        )
        parts.append(text(_LEFT - 6, y + 4, f"{axes.tick * number:g}", anchor="end"))
    for streams in axes.groups:
        parts.append(text(axes.x(streams), _HEIGHT - _BOTTOM + 16, str(streams), anchor="middle"))
    parts.append(text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - _BOTTOM + 32, "streams", anchor="middle"))
    return parts


def _bars(axes: _Axes, panel: Sequence[Figures], colours: _Colours) -> list[str]:
    parts = []
    width = min(40.0, 0.84 * axes.group_width / len(colours))
    places = list(colours)
    for each in panel:
        rate = each.decode_tokens_per_s
        if rate is None:
            continue
        x = axes.x(each.streams) + (places.index(each.variant) - len(places) / 2) * width
        parts.append(
            f'<rect x="{x:.1f}" y="{axes.y(rate):.1f}" width="{width * 0.92:.1f}" '
            f'height="{axes.tall(rate):.1f}" fill="{colours[each.variant]}">'
            f"<title>{escape(each.variant)}: {rate:.1f}</title></rect>"
        )
        size = min(10.0, width / 2)
        if size >= _LEAST_SIZE:
            parts.append(text(x + width * 0.46, axes.y(rate) - 3, f"{rate:.0f}", size=size, anchor="middle"))
    return parts


def _lines(axes: _Axes, panel: Sequence[Figures], colours: _Colours) -> list[str]:
    parts = []
    for variant, colour in colours.items():
        known = [each for each in panel if each.variant == variant]
        verified = [(each.streams, each.verified_length) for each in known]
        accepted = [(each.streams, each.accepted_length and each.accepted_length - 1) for each in known]
        parts += _line(axes, verified, f"{variant}, verified", colour)
        parts += _line(axes, accepted, f"{variant}, accepted", colour, dashes="5 4")
    return parts


def _line(
    axes: _Axes, points: Iterable[tuple[int, float | None]], name: str, colour: str, dashes: str = "none"
) -> list[str]:
    """A dot for each value, which can be read by pointing at it."""
    known = [(axes.x(streams), axes.y(value), value) for streams, value in points if value is not None]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in known)
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}">'
        f"<title>{escape(name)}: {value:.2f}</title></circle>"
        for x, y, value in known
    ]
    line = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-dasharray="{dashes}"/>'
    return [line, *dots]


def _tick(largest: float) -> float:
    """A round step of which _TICKS reach past `largest`: 1, 2, 2.5 or 5 times a power of ten."""
    if largest <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(largest / _TICKS))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * _TICKS >= largest)
