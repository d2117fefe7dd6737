"""`Meters`: exact nano-dollars of a usage by a `Tariff`.

In: a `Usage`, what the answer said of its service tier, when the attempt began. Out: nano-dollars, or None where a rate
that is needed is unknown. All arithmetic is in whole numbers; what one condition's rates are is worked out once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from gateway.ledger.records import Usage
from gateway.ledger.tariff import RATES, STANDARD, Rates, Tariff

_ALIASES = {"batch": "batches", "fast": "priority"}
_NUSD_PER_TOKEN = 1000  # 1 USD per million tokens = 1,000 nano-dollars per token
_NUSD_PER_USD = 10**9
MAX_METERS = 64  # kept for service tiers that answers name; no provider has as many


class _Meter(NamedTuple):
    """Rates under one condition as whole numbers: nano-dollars a token or piece, times `scale`."""

    above_input_tokens: int
    scale: int
    is_whole: bool  # no rate that tokens need is unknown
    rates: dict[str, int | None]
    input: int
    cached: int
    cache_write: int
    output: int
    reasoning: int
    request: int
    web_search: int | None


class Meters:
    """A tariff made ready to charge calls with."""

    def __init__(self, tariff: Tariff) -> None:
        self._tariff = tariff
        self._by_tier: dict[tuple[str, bool], tuple[_Meter, ...] | None] = {}
        steps = self._of(STANDARD, is_off_peak=False)
        self._minute, self._is_off_peak = -1, False  # windows begin and end with minutes
        self._only = steps[0] if steps and len(steps) == 1 and not tariff.windows else None

    def nusd(self, usage: Usage, service_tier: str | None, started_at: float) -> int | None:
        """Nano-dollars, rounded half to even once, at the end. `service_tier`: words of the answer, None for an
        ordinary one (see `wire.billing`).

        Example: input 1,000 of which 600 cached, output 200, at 0.14 / 0.028 / 0.28 USD per million tokens:
        400 x 140 + 600 x 28 + 200 x 280 = 128,800 nano-dollars = 0.0001288 USD.
        """
        meter = self._only
        if meter is None or service_tier is not None:
            meter = self._meter(usage.input_tokens, service_tier or STANDARD, started_at)
            if meter is None:
                return None
        if usage.apart is not None or not meter.is_whole:
            return _by_parts(meter, usage)
        cached, written, reasoning = usage.cached_tokens, usage.cache_write_tokens, usage.reasoning_tokens
        fresh = usage.input_tokens - cached - written
        total = meter.request + usage.output_tokens * meter.output + cached * meter.cached
        if fresh > 0:
            total += fresh * meter.input
        if written:
            total += written * meter.cache_write
        if reasoning:
            total += min(reasoning, usage.output_tokens) * (meter.reasoning - meter.output)
        return rounded(total, meter.scale)

    def _meter(self, input_tokens: int, service_tier: str, started_at: float) -> _Meter | None:
        minute = int(started_at // 60)
        if minute != self._minute and self._tariff.windows:
            at = datetime.fromtimestamp(started_at, UTC)
            self._minute = minute
            self._is_off_peak = any(window.holds(at) for window in self._tariff.windows)
        steps = self._of(service_tier, self._is_off_peak)
        for meter in reversed(steps or ()):
            if input_tokens > meter.above_input_tokens or meter.above_input_tokens == 0:
                return meter
        return None

    def _of(self, service_tier: str, is_off_peak: bool) -> tuple[_Meter, ...] | None:
        key = service_tier, is_off_peak
        if key not in self._by_tier:
            if len(self._by_tier) >= MAX_METERS:
                self._by_tier.clear()
            self._by_tier[key] = self._made(service_tier, is_off_peak)
        return self._by_tier[key]

    def _made(self, service_tier: str, is_off_peak: bool) -> tuple[_Meter, ...] | None:
        """None: such calls have no price that is known."""
        tariff, tiers, factor = self._tariff, dict(self._tariff.tiers), Decimal(1)
        tier = STANDARD
        for word in service_tier.split():
            if word in (factors := dict(tariff.factors)):
                factor *= factors[word]
            elif word in tiers or _ALIASES.get(word) in tiers:
                tier = word if word in tiers else _ALIASES[word]
            elif not tariff.has_one_price:
                return None
        if tier not in tiers:
            return None
        over = tariff.off_peak if is_off_peak else Rates()
        return tuple(
            _meter(tariff, step.above_input_tokens, over.over(step.rates).filled().times(factor))
            for step in tiers[tier]
        )


def _meter(tariff: Tariff, above_input_tokens: int, filled: Rates) -> _Meter:
    tokens = {name: rate * _NUSD_PER_TOKEN for name in RATES if (rate := getattr(filled, name)) is not None}
    fees = {"request": tariff.usd_per_request or Decimal(0), "web_search": tariff.usd_per_web_search}
    all_of_them = tokens | {name: fee * _NUSD_PER_USD for name, fee in fees.items() if fee is not None}
    scale = 10 ** max((_decimals(nusd) for nusd in all_of_them.values()), default=0)
    whole = {name: int(nusd * scale) for name, nusd in all_of_them.items()}
    return _Meter(
        above_input_tokens,
        scale,
        "input" in whole and "output" in whole,
        {name: whole.get(name) for name in RATES},
        input=whole.get("input", 0),
        cached=whole.get("cached", 0),
        cache_write=whole.get("cache_write", 0),
        output=whole.get("output", 0),
        reasoning=whole.get("reasoning", 0),
        request=whole["request"],
        web_search=whole.get("web_search"),
    )


def _by_parts(meter: _Meter, usage: Usage) -> int | None:
    """Each part of the input and output at its own rate; only the rates of parts that there are need be known."""
    total, rates = meter.request, meter.rates
    for name, tokens in _parts(usage):
        if tokens:
            rate = rates[name]
            if rate is None:
                return None
            total += tokens * rate
    if searches := (usage.apart or {}).get("web_searches"):
        if meter.web_search is None:
            return None
        total += searches * meter.web_search
    return rounded(total, meter.scale)


def _parts(usage: Usage) -> Iterator[tuple[str, int]]:
    """(rate, tokens), which add up to input and output; parts that would exceed them are cut."""
    apart = usage.apart or {}
    written = usage.cache_write_tokens
    longer = min(apart.get("cache_write_1h_tokens", 0), written)
    yield "cached", usage.cached_tokens
    yield "cache_write", written - longer
    yield "cache_write_1h", longer
    fresh = max(usage.input_tokens - usage.cached_tokens - written, 0)
    yield from _split(
        fresh, "input", ((name, apart.get(f"{name}_tokens", 0)) for name in ("audio_input", "image_input"))
    )
    pieces = [(name, apart.get(f"{name}_tokens", 0)) for name in ("audio_output", "image_output")]
    yield from _split(usage.output_tokens, "output", [("reasoning", usage.reasoning_tokens), *pieces])


def _split(whole: int, rest: str, pieces: Iterable[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    for name, tokens in pieces:
        taken = min(tokens, whole)
        whole -= taken
        yield name, taken
    yield rest, whole


def rounded(total: int, scale: int) -> int:
    """total ÷ scale, half to even."""
    nusd, rest = divmod(total, scale)
    return nusd + 1 if 2 * rest > scale or (2 * rest == scale and nusd & 1) else nusd


def _decimals(value: Decimal) -> int:
    exponent = value.normalize().as_tuple().exponent
    assert isinstance(exponent, int)
    return max(0, -exponent)
