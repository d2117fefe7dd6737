"""From waves to the figures that are shown and stored: medians, ratios, and what a million tokens cost.

In: `Wave`s. Out: `Figures`, one for each variant, kind and number of streams, and `Ratio`s of them. Pure. A
ratio is taken within each round, where both sides ran one after the other on the same prompts, and its median
is told: so a machine that changes its speed from round to round changes it little.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf
from statistics import median

from gateway.bench.engine.traces import Wave, accepted_length, verified_length
from gateway.bench.engine.ways import AUTO, FIXED, PLAIN, Way

TRANSFORMERS, LLAMA = "transformers", "llama.cpp"
FLOOR = "max(plain, fixed)"


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
    verified_length: float | None
    accepted_length: float | None
    failed_streams: int
    usd_per_mtok: float | None = None


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast `above` decodes as `below`; the median over the rounds in which both did.

    `against` is what `below` stands for: of llama.cpp's builds the faster, of plain and fixed the faster.
    """

    kind: str
    streams: int
    above: str
    against: str
    below: str
    times: float | None


def usd_per_mtok(usd_per_hour: float, tokens_per_s: float) -> float:
    """Dollars for a million output tokens of a machine that is kept busy at this rate."""
    return usd_per_hour / (tokens_per_s * 3600) * 1_000_000


def figures(waves: Sequence[Wave], usd_per_hour: float | None = None) -> list[Figures]:
    """One for each variant of each (kind, streams); cells and variants in the order of the first waves."""
    found = []
    for kind, streams in dict.fromkeys((wave.kind, wave.streams) for wave in waves):
        cell = [wave for wave in waves if (wave.kind, wave.streams) == (kind, streams)]
        for variant in dict.fromkeys(wave.variant for wave in waves):
            group = [wave for wave in cell if wave.variant == variant]
            if group:
                found.append(_figures(group, usd_per_hour))
    return found


def ratios(waves: Sequence[Wave], ways: Sequence[Way]) -> list[Ratio]:
    """Each way that drafts, cell by cell, against plain decoding and the baselines.

    `auto` also against its drafter's `fixed`, and against the faster of that and plain decoding.
    """
    names = dict.fromkeys(wave.variant for wave in waves)
    found = []
    for kind, streams in dict.fromkeys((wave.kind, wave.streams) for wave in waves):
        cell = [wave for wave in waves if (wave.kind, wave.streams) == (kind, streams)]
        for way in ways:
            for against, rivals in _rivals(way, ways, names).items():
                if rivals:
                    those = [_ratio(cell, way.name, against, rival) for rival in rivals]
                    found.append(min(those, key=_against_fastest))
    return found


def remarks(waves: Sequence[Wave], ways: Sequence[Way]) -> list[str]:
    """What a reader must know of these figures, in sentences."""
    drafting = {wave.variant for wave in waves for trace in wave.traces if trace.drafted}
    idle = [way.name for way in ways if way.drafts and way.name not in drafting]
    found = [f"{', '.join(idle)}: nothing was drafted, so this is plain decoding."] if idle else []
    errors = Counter((wave.variant, error) for wave in waves for error in wave.errors)
    found += [f"{variant}: {count} answers failed: {error}" for (variant, error), count in errors.items()]
    apart = {wave.variant for wave in waves if not wave.errors and wave.decode_tokens_per_s is None}
    if apart:
        found.append(
            f"{', '.join(sorted(apart))}: in some waves the streams never all decoded at once: they give no "
            "rate; longer answers (--tokens) help."
        )
    return found


def _rivals(way: Way, ways: Sequence[Way], names: Iterable[str]) -> dict[str, list[str]]:
    """What a way is compared with, and the variants that may stand for it: the fastest does."""
    if not way.drafts:
        return {}
    plain = [PLAIN] if any(other.name == PLAIN for other in ways) else []
    twin = (FIXED, way.drafter) if way.mode == AUTO else None
    fixed = [other.name for other in ways if (other.mode, other.drafter) == twin]
    return {
        PLAIN: plain,
        FIXED: fixed,
        FLOOR: plain + fixed if plain and fixed else [],
        TRANSFORMERS: [name for name in names if name == TRANSFORMERS],
        LLAMA: [name for name in names if name.startswith(LLAMA)],
    }


def _against_fastest(ratio: Ratio) -> float:
    """The faster of plain and fixed is known only where both are; of llama.cpp's builds one will do."""
    if ratio.times is None:
        return -inf if ratio.against == FLOOR else inf
    return ratio.times


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
        verified_length=verified_length(good),
        accepted_length=accepted_length(good),
        failed_streams=sum(len(wave.errors) for wave in waves),
        usd_per_mtok=usd_per_mtok(usd_per_hour, decode) if usd_per_hour is not None and decode else None,
    )


def _ratio(cell: Sequence[Wave], above: str, against: str, below: str) -> Ratio:
    rates = {(wave.variant, wave.round): wave.decode_tokens_per_s for wave in cell}
    pairs = [(rates.get((above, each)), rates.get((below, each))) for each in {wave.round for wave in cell}]
    times = _median(ours / theirs for ours, theirs in pairs if ours and theirs)
    return Ratio(cell[0].kind, cell[0].streams, above, against, below, times)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
