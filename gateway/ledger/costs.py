"""What a call costs: the price of a target, and exact nano-dollars from it.

In: a target of the configuration, what a call used. Out: a `Price` (its own row in `prices`) and costs. A cost that
needs an unknown price is None, never 0. Prices of the configuration win over litellm's list, key by key: where one is
given, the list's other prices of the same kind (long inputs, service tiers, off-peak hours) do not count either.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import orjson

from gateway.config.deployment import (
    AnyTarget,
    EngineSettings,
    EngineTarget,
    LitellmTarget,
    Prices,
    Provider,
    ServerTarget,
    TokenPrices,
)
from gateway.ledger.meters import rounded
from gateway.ledger.price_map import PriceMap, litellm_prices
from gateway.ledger.tariff import RATES, STANDARD, Rates, Step, Tariff


@dataclass(frozen=True, slots=True)
class Price:
    """What a target's tokens or hours cost."""

    target: str
    model: str
    source: str  # config | litellm <version> | config + litellm <version>
    tariff: Tariff = field(default_factory=Tariff)
    usd_per_hour: Decimal | None = None

    @property
    def id(self) -> str:
        """The same for equal prices; a change of price is another id."""
        columns = {name: value for name, value in self._columns().items() if (name, value) != ("rates", None)}
        return hashlib.sha256(orjson.dumps(columns)).hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """The spool line: {"kind": "price", "price": {…columns}}."""
        return {"kind": "price", "price": {"id": self.id} | self._columns()}

    def _columns(self) -> dict[str, Any]:
        standard = self.tariff.standard
        return {
            "target": self.target,
            "model": self.model,
            "source": self.source,
            "input_usd_per_mtok": _written(standard.input),
            "cached_usd_per_mtok": _written(standard.cached),
            "cache_write_usd_per_mtok": _written(standard.cache_write),
            "output_usd_per_mtok": _written(standard.output),
            "usd_per_hour": _written(self.usd_per_hour),
            "rates": self.tariff.beyond_the_plain(),
        }


def price_for(target: AnyTarget, engine: EngineSettings, listed: PriceMap | None = None) -> Price | None:
    """The price of a target; None when nothing is known. `listed` defaults to the installed litellm's."""
    if isinstance(target, EngineTarget | ServerTarget):
        per_hour = target.cost_per_hour_usd
        if per_hour is None and isinstance(target, EngineTarget):
            per_hour = engine.cost_per_hour_usd
        if per_hour is None:
            return None
        return Price(target.name, target.model or engine.model, "config", usd_per_hour=_decimal(per_hour))
    return _token_price(target, listed)


def unknown_price(price: Price | None) -> str | None:
    """Why calls are of unknown cost, in words; None where a usual one's cost is known."""
    if price is None:
        return "no price is known: set prices (of a machine of your own cost_per_hour_usd) in sparkgate.yaml"
    standard = price.tariff.standard
    missing = [name for name in ("input", "output") if getattr(standard, name) is None]
    if price.usd_per_hour is not None or not missing:
        return None
    return f"no price of {' and '.join(missing)} tokens is known: set prices in sparkgate.yaml"


def engine_cost_nusd(usd_per_hour: Decimal, prefill_s: float, decode_s: float, max_batch: int) -> int:
    """Nano-dollars of one call to a self-hosted engine: its hourly price x the share of its capacity used.

    A prompt's prefill has the whole machine; a sequence that decodes holds one of `max_batch` places. So a call used
    prefill_s + decode_s / max_batch seconds of the machine, each to the nanosecond. Waiting in the queue uses nothing,
    and places that stay empty belong to no call: they are the idle remainder.

    Example: 0.20 USD an hour, 0.36 s of prefill, 14.4 s of decoding with 16 places:
    (0.36 + 14.4 / 16) s = 1.26 s; 0.20 x 1.26 / 3600 = 0.00007 USD = 70,000 nano-dollars.
    """
    busy = round(prefill_s * 1e9) * max_batch + round(decode_s * 1e9)  # nanoseconds of one place
    usd, per = usd_per_hour.as_integer_ratio()  # a dollar a second is a nano-dollar a nanosecond
    return rounded(usd * busy, per * max_batch * 3600)


def _token_price(target: Provider, listed: PriceMap | None) -> Price | None:
    base_url = None if isinstance(target, LitellmTarget) else getattr(target, "base_url", None)
    listed = litellm_prices() if listed is None else listed
    found = listed.find(target.model, base_url)
    tariff = Tariff() if found is None or found.tariff is None else found.tariff
    configured = target.prices.model_dump(exclude_defaults=True)
    sources = ["config"] * bool(configured) + [f"litellm {listed.version}"] * bool(tariff.tiers)
    if not sources:
        return None
    return Price(target.name, target.model, " + ".join(sources), _configured(target.prices, tariff))


def _configured(prices: Prices, listed: Tariff) -> Tariff:
    """The list's tariff with what the configuration says instead."""
    given = _rates(prices)
    tiers = {
        tier: tuple(replace(step, rates=given.over(step.rates)) for step in steps)
        for tier, steps in listed.tiers
    } or {STANDARD: (Step(0, given),)}
    base = given.over(listed.standard)
    if prices.above:
        dearer = sorted(prices.above, key=lambda step: step.input_tokens)
        tiers[STANDARD] = (
            Step(0, base),
            *(Step(step.input_tokens, _rates(step).over(base)) for step in dearer),
        )
    for tier, own in prices.service_tiers.items():
        tiers[tier.lower()] = (Step(0, _rates(own).over(base)),)
    off_peak = (
        None if getattr(given, name) is not None else getattr(listed.off_peak, name) for name in RATES
    )
    return replace(
        listed,
        tiers=tuple(tiers.items()),
        off_peak=Rates(*off_peak),
        usd_per_request=_or(prices.usd_per_request, listed.usd_per_request),
        usd_per_web_search=_or(prices.usd_per_web_search, listed.usd_per_web_search),
        has_one_price=given.input is not None and given.output is not None,
    )


def _rates(prices: TokenPrices) -> Rates:
    given = {name: getattr(prices, f"{name}_usd_per_mtok") for name in RATES}
    return Rates(**{name: _decimal(value) for name, value in given.items() if value is not None})


def _or(given: float | None, listed: Decimal | None) -> Decimal | None:
    return listed if given is None else _decimal(given)


def _written(usd: Decimal | None) -> str | None:
    return None if usd is None else f"{usd:.9f}"


def _decimal(value: float) -> Decimal:
    return Decimal(repr(value))
