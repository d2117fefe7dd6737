"""What a call costs: the price of a target, and exact nano-dollars from it.

In: a target of the configuration, token counts, engine seconds. Out: a `Price` (its own row in `prices`) and
costs. A cost that needs an unknown price is None, never 0. Prices of the configuration win over litellm's
list, key by key.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

import orjson

from gateway.config.deployment import AnyTarget, EngineSettings, EngineTarget, LitellmTarget, Provider
from gateway.ledger.price_map import PriceMap, litellm_prices
from gateway.ledger.records import Usage

_TOKEN_PRICES = (
    "input_usd_per_mtok",
    "cached_usd_per_mtok",
    "cache_write_usd_per_mtok",
    "output_usd_per_mtok",
)
_NUSD_PER_TOKEN = 1000  # 1 USD per million tokens = 1,000 nano-dollars per token
_NUSD_PER_USD = 10**9


@dataclass(frozen=True, slots=True)
class Price:
    """What a target's tokens or hours cost; None = unknown, or not how it is paid."""

    target: str
    model: str
    source: str  # config | litellm <version> | config + litellm <version>
    input_usd_per_mtok: Decimal | None = None
    cached_usd_per_mtok: Decimal | None = None
    cache_write_usd_per_mtok: Decimal | None = None
    output_usd_per_mtok: Decimal | None = None
    usd_per_hour: Decimal | None = field(default=None, kw_only=True)
    # the list has a dearer tier above this, which is not modelled: such calls are of unknown cost
    up_to_input_tokens: int | None = field(default=None, kw_only=True)

    @property
    def id(self) -> str:
        """The same for equal prices; a change of price is another id."""
        return hashlib.sha256(orjson.dumps(self._columns())).hexdigest()[:16]

    def record(self) -> dict[str, Any]:
        """The spool line: {"kind": "price", "price": {…columns}}."""
        return {"kind": "price", "price": {"id": self.id} | self._columns()}

    def _columns(self) -> dict[str, str | None]:
        columns = asdict(self)
        del columns["up_to_input_tokens"]
        return {
            name: f"{value:.9f}" if isinstance(value, Decimal) else value for name, value in columns.items()
        }


def price_for(target: AnyTarget, engine: EngineSettings, listed: PriceMap | None = None) -> Price | None:
    """The price of a target; None when nothing is known. `listed` defaults to the installed litellm's."""
    if isinstance(target, EngineTarget):
        per_hour = engine.cost_per_hour_usd if target.cost_per_hour_usd is None else target.cost_per_hour_usd
        if per_hour is None:
            return None
        return Price(target.name, target.model or engine.model, "config", usd_per_hour=_decimal(per_hour))
    return _token_price(target, listed)


def cost_nusd(price: Price | None, usage: Usage | None) -> int | None:
    """Nano-dollars of one attempt, rounded half to even once, at the end. Reasoning tokens are output tokens.

    Example: input 1,000 of which 600 cached, output 200, at 0.14 / 0.028 / 0.28 USD per million tokens:
    400 x 140 + 600 x 28 + 200 x 280 = 128,800 nano-dollars = 0.0001288 USD.
    """
    if price is None or usage is None:
        return None
    if price.up_to_input_tokens is not None and usage.input_tokens > price.up_to_input_tokens:
        return None
    fresh = max(usage.input_tokens - usage.cached_tokens - usage.cache_write_tokens, 0)
    counts = (fresh, usage.cached_tokens, usage.cache_write_tokens, usage.output_tokens)
    total = Decimal(0)
    for tokens, name in zip(counts, _TOKEN_PRICES, strict=True):
        if tokens:
            usd_per_mtok = getattr(price, name)
            if usd_per_mtok is None:
                return None
            total += tokens * usd_per_mtok * _NUSD_PER_TOKEN
    return round(total)


def engine_cost_nusd(usd_per_hour: Decimal, prefill_s: float, decode_s: float, max_batch: int) -> int:
    """Nano-dollars of one call to a self-hosted engine: its hourly price x the share of its capacity used.

    A prompt's prefill has the whole machine; a sequence that decodes holds one of `max_batch` places. So a
    call used prefill_s + decode_s / max_batch seconds of the machine. Waiting in the queue uses nothing, and
    places that stay empty belong to no call: they are the idle remainder.

    Example: 0.20 USD an hour, 0.36 s of prefill, 14.4 s of decoding with 16 places:
    (0.36 + 14.4 / 16) s = 1.26 s; 0.20 x 1.26 / 3600 = 0.00007 USD = 70,000 nano-dollars.
    """
    busy_s = _decimal(prefill_s) + _decimal(decode_s) / max_batch
    return round(usd_per_hour * busy_s * _NUSD_PER_USD / 3600)


def _token_price(target: Provider, listed: PriceMap | None) -> Price | None:
    configured = {name: getattr(target.prices, name) for name in _TOKEN_PRICES}
    given = {name: _decimal(value) for name, value in configured.items() if value is not None}
    base_url = None if isinstance(target, LitellmTarget) else getattr(target, "base_url", None)
    listed = litellm_prices() if listed is None else listed
    found = listed.find(target.model, base_url)
    missing = {name: getattr(found, name, None) for name in _TOKEN_PRICES if name not in given}
    known = {name: value for name, value in missing.items() if value is not None}
    if not given and not known:
        return None
    sources = ["config"] * bool(given) + [f"litellm {listed.version}"] * bool(known)
    tier = found.up_to_input_tokens if found and "input_usd_per_mtok" in known else None
    prices = ((given | known).get(name) for name in _TOKEN_PRICES)
    return Price(target.name, target.model, " + ".join(sources), *prices, up_to_input_tokens=tier)


def _decimal(value: float) -> Decimal:
    return Decimal(repr(value))
