"""From readings to the figures that are shown and stored: medians over the rounds, what a gateway adds, ratios.

In: `Reading`s. Out: `Figures`, one a contestant; `Part`s of our gateway; `Ratio`s to it. Pure. What a gateway adds is
a percentile through it less the same percentile straight to the upstream in the same round; ratios, too, are taken
within rounds: so a machine that changes its speed from round to round changes them little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from gateway.bench.gateway.readings import (
    BARE,
    CELLS,
    LITELLM,
    OURS,
    POSTGRES,
    STRAIGHT,
    STREAMS,
    STREAMS_PACED,
    TWO_WORKERS,
    WHOLE,
    WHOLE_PACED,
    WORKER,
    Cell,
    Reading,
)

_LATE_SHARE, _LATE_S = (
    0.1,
    0.5,
)  # answers that come later than this after the last call was due: too many calls


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians. Processor time is the worker's, memory that of all processes but Postgres. None: not measured."""

    contestant: str
    start_s: float | None
    rss_mb: float | None
    calls_per_s: float | None
    cpu_us_per_call: float | None
    added_ms_p50: float | None
    added_ms_p99: float | None
    streams_per_s: float | None
    cpu_us_per_stream: float | None
    added_ttft_ms_p50: float | None
    added_ttft_ms_p99: float | None


@dataclass(frozen=True, slots=True)
class Part:
    """What the processes of one kind use for a call. Memory of Postgres is left out: it is shared."""

    name: str
    cpu_us_per_call: float | None
    cpu_us_per_stream: float | None
    rss_mb: float | None


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure of `above` ÷ the same of `below`; the median over the rounds in which both have it."""

    figure: str
    above: str
    below: str
    times: float | None


Value = Callable[[Reading], float | None]


def figures(readings: Sequence[Reading], starts_s: dict[str, float | None]) -> list[Figures]:
    """One a contestant, in the order of `starts_s`, those without a reading left out."""
    measured = {reading.contestant for reading in readings}
    return [_figures(readings, name, start_s) for name, start_s in starts_s.items() if name in measured]


def parts(readings: Sequence[Reading]) -> list[Part]:
    """Of our gateway."""
    ours = [reading for reading in readings if reading.contestant == OURS]
    names = dict.fromkeys(name for reading in ours for name in reading.cpu_us)
    return [_part(ours, name) for name in names]


def ratios(readings: Sequence[Reading]) -> list[Ratio]:
    """Our gateway to bare ASGI and to LiteLLM; two workers to one."""
    found = [
        _ratio(readings, figure, cell, value, OURS, rival)
        for rival in (BARE, LITELLM)
        for figure, cell, value in (
            ("calls_per_s", WHOLE, _rate),
            ("cpu_us_per_call", WHOLE, _cpu_us),
            ("streams_per_s", STREAMS, _rate),
            ("cpu_us_per_stream", STREAMS, _cpu_us),
        )
    ]
    found.append(_ratio(readings, "cpu_us_per_call", WHOLE, _cpu_us, TWO_WORKERS, OURS))
    return [ratio for ratio in found if ratio.times is not None]


def remarks(readings: Sequence[Reading]) -> list[str]:
    """What a reader must know of these figures, in sentences."""
    found = []
    for name, cell in dict.fromkeys((reading.contestant, reading.cell) for reading in readings):
        group = [reading for reading in readings if (reading.contestant, reading.cell) == (name, cell)]
        failed = sum(reading.load.errors for reading in group)
        if failed:
            error = next(reading.load.first_error for reading in group if reading.load.errors)
            found.append(f"{name}, {cell}: {failed} calls failed, their rounds count for nothing: {error}")
        if any(is_past_capacity(reading) for reading in group):
            found.append(f"{name}, {cell}: more calls were due than it could answer")
    return found


def is_past_capacity(reading: Reading) -> bool:
    """Whether answers kept piling up to the end of a paced cell."""
    rate = next(cell.rate for cell in CELLS if cell.name == reading.cell)
    if rate is None:
        return False
    due_s = (reading.load.calls + reading.load.errors) / rate
    return reading.load.took_s > (1 + _LATE_SHARE) * due_s + _LATE_S


def _figures(readings: Sequence[Reading], name: str, start_s: float | None) -> Figures:
    own = [reading for reading in readings if reading.contestant == name]
    return Figures(
        contestant=name,
        start_s=start_s,
        rss_mb=_median(_rss_mb(reading) for reading in own),
        calls_per_s=_over(own, WHOLE, _rate),
        cpu_us_per_call=_over(own, WHOLE, _cpu_us),
        added_ms_p50=_added(readings, name, WHOLE_PACED, "p50"),
        added_ms_p99=_added(readings, name, WHOLE_PACED, "p99"),
        streams_per_s=_over(own, STREAMS, _rate),
        cpu_us_per_stream=_over(own, STREAMS, _cpu_us),
        added_ttft_ms_p50=_added(readings, name, STREAMS_PACED, "p50"),
        added_ttft_ms_p99=_added(readings, name, STREAMS_PACED, "p99"),
    )


def _part(readings: Sequence[Reading], name: str) -> Part:
    def cpu_us(reading: Reading) -> float | None:
        return reading.cpu_us[name]

    rss_mb = None if name == POSTGRES else _median(reading.rss_mb[name] for reading in readings)
    return Part(name, _over(readings, WHOLE, cpu_us), _over(readings, STREAMS, cpu_us), rss_mb)


def _rate(reading: Reading) -> float | None:
    return reading.load.calls_per_s


def _cpu_us(reading: Reading) -> float | None:
    return reading.cpu_us.get(WORKER)


def _rss_mb(reading: Reading) -> float | None:
    return sum(mb for part, mb in reading.rss_mb.items() if part != POSTGRES) or None


def _over(readings: Sequence[Reading], cell: Cell, value: Value) -> float | None:
    return _median(value(reading) for reading in readings if reading.cell == cell.name and reading.is_good)


def _by_round(readings: Sequence[Reading], name: str, cell: Cell, value: Value) -> dict[int, float]:
    return {
        reading.round: known
        for reading in readings
        if (reading.contestant, reading.cell) == (name, cell.name) and reading.is_good
        if (known := value(reading)) is not None
    }


def _added(readings: Sequence[Reading], name: str, cell: Cell, percentile: str) -> float | None:
    """In ms: to the first content of streams, to the end of whole answers."""

    def ms(reading: Reading) -> float | None:
        times = reading.load.first_ms if cell.chunks else reading.load.total_ms
        return times[percentile] if times and not is_past_capacity(reading) else None

    if name == STRAIGHT:
        return None
    through, straight = (_by_round(readings, each, cell, ms) for each in (name, STRAIGHT))
    return _median(through[each] - straight[each] for each in through.keys() & straight.keys())


def _ratio(
    readings: Sequence[Reading], figure: str, cell: Cell, value: Value, above: str, below: str
) -> Ratio:
    ours, theirs = (_by_round(readings, name, cell, value) for name in (above, below))
    both = [each for each in ours.keys() & theirs.keys() if theirs[each]]
    return Ratio(figure, above, below, _median(ours[each] / theirs[each] for each in both))


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
