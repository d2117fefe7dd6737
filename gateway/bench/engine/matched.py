"""What a user gets at the same total: the speed of single streams of two variants at one aggregate rate.

In: `Figures` over streams. Out: `Match`es. Pure. A variant's points, from few streams to many, are joined by
straight lines of tokens/s a stream over tokens/s of all streams; a rate is compared only where both lines reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from gateway.bench.engine.report import Figures

_Curve = list[tuple[float, float]]  # tokens/s of all streams, of one


@dataclass(frozen=True, slots=True)
class Match:
    """A stream of `above` is so many `times` as fast as one of `below` when both decode `decode_tokens_per_s`."""

    kind: str
    above: str
    below: str
    decode_tokens_per_s: float
    times: float


def matches(found: Sequence[Figures], above: str) -> list[Match]:
    """Of `above` and each other variant, three for a kind: at the lowest, median and highest rate of both.

    The median is that of the rates that were measured, of either, from the lowest to the highest. None for a
    kind where the two have no rate in common.
    """
    result = []
    for kind in dict.fromkeys(each.kind for each in found):
        of_kind = [each for each in found if each.kind == kind]
        curves = {name: _curve(of_kind, name) for name in dict.fromkeys(each.variant for each in of_kind)}
        ours = curves.pop(above, [])
        for below, theirs in curves.items():
            result += [
                Match(kind, above, below, rate, _speed_at(ours, rate) / _speed_at(theirs, rate))
                for rate in _common_rates(ours, theirs)
            ]
    return result


def _curve(found: Sequence[Figures], variant: str) -> _Curve:
    return [
        (each.decode_tokens_per_s, each.stream_tokens_per_s)
        for each in sorted(found, key=lambda each: each.streams)
        if each.variant == variant and each.decode_tokens_per_s and each.stream_tokens_per_s
    ]


def _common_rates(one: _Curve, other: _Curve) -> tuple[float, ...]:
    if not (one and other):
        return ()
    lowest = max(min(one)[0], min(other)[0])
    highest = min(max(one)[0], max(other)[0])
    measured = [rate for rate, _ in one + other if lowest <= rate <= highest]
    return (lowest, median(measured), highest) if measured else ()


def _speed_at(curve: _Curve, rate: float) -> float:
    """Where more than one load gives the rate, the speed at the kindest."""
    speeds = [speed for measured, speed in curve if measured == rate]
    for (from_rate, from_speed), (to_rate, to_speed) in pairwise(curve):
        if min(from_rate, to_rate) < rate < max(from_rate, to_rate):
            speeds.append(from_speed + (to_speed - from_speed) * (rate - from_rate) / (to_rate - from_rate))
    return max(speeds)
