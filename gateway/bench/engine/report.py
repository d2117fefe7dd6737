"""From waves to the figures that are shown and stored: medians, ratios, and what a million tokens cost.

In: `Wave`s. Out: `Figures`, one for each variant, kind and number of streams, and `Ratio`s of them. Pure. A
ratio is taken within each round, where both sides ran one after the other on the same prompts, and its median
is told: so a machine that changes its speed from round to round changes it little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from gateway.bench.engine.traces import Wave, accepted_length

PLAIN, SPECULATIVE, TRANSFORMERS, LLAMA = "plain", "speculative", "transformers", "llama.cpp"


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over rounds and streams. `usd_per_mtok`: of output tokens, None without a price of an hour."""

    variant: str
    kind: str
    streams: int
    rounds: int
    decode_tokens_per_s: float | None
    stream_tokens_per_s: float | None
    ttft_p50_s: float | None
    accepted_length: float | None
    failed_streams: int
    usd_per_mtok: float | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast `above` decodes as `below`; the median over the rounds in which both did."""

    kind: str
    streams: int
    above: str
    below: str
    times: float | None


def usd_per_mtok(usd_per_hour: float, tokens_per_s: float) -> float:
    """Dollars for a million output tokens of a machine that is kept busy at this rate."""
    return usd_per_hour / (tokens_per_s * 3600) * 1_000_000


def figures(waves: Sequence[Wave], usd_per_hour: float | None = None) -> list[Figures]:
    """One for each variant of each (kind, streams), cells in the order in which they were measured."""
    found = []
    for kind, streams in dict.fromkeys((wave.kind, wave.streams) for wave in waves):
        cell = [wave for wave in waves if (wave.kind, wave.streams) == (kind, streams)]
        for variant in _variants(waves):
            group = [wave for wave in cell if wave.variant == variant]
            if group:
                found.append(_figures(group, usd_per_hour))
    return found


def ratios(waves: Sequence[Wave]) -> list[Ratio]:
    """The speculative path against the plain one, transformers, and the faster build of llama.cpp."""
    variants = _variants(waves)
    rivals = [PLAIN, TRANSFORMERS, *(name for name in variants if name.startswith(LLAMA))]
    found = []
    for kind, streams in dict.fromkeys((wave.kind, wave.streams) for wave in waves):
        cell = [wave for wave in waves if (wave.kind, wave.streams) == (kind, streams)]
        against = [_ratio(cell, SPECULATIVE, rival) for rival in rivals if rival in variants]
        of_llama = [ratio for ratio in against if ratio.below.startswith(LLAMA)]
        slower = sorted(of_llama, key=lambda ratio: (ratio.times is None, ratio.times))[1:]
        found += [ratio for ratio in against if ratio not in slower]
    return found


def remarks(waves: Sequence[Wave]) -> list[str]:
    """What a reader must know of these figures, in sentences."""
    found = []
    ours = [trace for wave in waves if wave.variant == SPECULATIVE for trace in wave.traces]
    if ours and accepted_length(ours) is None:
        found.append(f"the engine drafted nothing: {PLAIN} and {SPECULATIVE} went the same way.")
    errors = Counter((wave.variant, error) for wave in waves for error in wave.errors)
    found += [f"{variant}: {count} answers failed: {error}" for (variant, error), count in errors.items()]
    apart = {wave.variant for wave in waves if not wave.errors and wave.decode_tokens_per_s is None}
    if apart:
        found.append(
            f"{', '.join(sorted(apart))}: in some waves the streams never all decoded at once: they give no "
            "rate; longer answers (--tokens) help."
        )
    return found


def _variants(waves: Iterable[Wave]) -> list[str]:
    """In one order for all tables: ours first."""
    names = dict.fromkeys(wave.variant for wave in waves)
    order = (PLAIN, SPECULATIVE, TRANSFORMERS)
    return sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name))


def _figures(waves: Sequence[Wave], usd_per_hour: float | None) -> Figures:
    good = [trace for wave in waves for trace in wave.traces if trace.error is None]
    decode = _median(wave.decode_tokens_per_s for wave in waves)
    return Figures(
        variant=waves[0].variant,
        kind=waves[0].kind,
        streams=waves[0].streams,
        rounds=len(waves),
        decode_tokens_per_s=decode,
        stream_tokens_per_s=_median(trace.tokens_per_s for trace in good),
        ttft_p50_s=_median(trace.ttft_s for trace in good),
        accepted_length=accepted_length(good),
        failed_streams=sum(len(wave.errors) for wave in waves),
        usd_per_mtok=usd_per_mtok(usd_per_hour, decode) if usd_per_hour is not None and decode else None,
    )


def _ratio(cell: Sequence[Wave], above: str, below: str) -> Ratio:
    rates = {(wave.variant, wave.round): wave.decode_tokens_per_s for wave in cell}
    pairs = [(rates.get((above, each)), rates.get((below, each))) for each in {wave.round for wave in cell}]
    times = _median(ours / theirs for ours, theirs in pairs if ours and theirs)
    return Ratio(cell[0].kind, cell[0].streams, above, below, times)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
