"""What an entry of litellm's price list means: its keys as a `Tariff`.

In: an entry, as the list's JSON has it. Out: its tariff, None where it does not price tokens. Prices of what no answer
can tell us of (seconds, characters, pixels, pages) are left out; docs/cost.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from gateway.ledger.tariff import STANDARD, Rates, Step, Tariff, Window

Entry = Mapping[str, Any]
_KEYS = {
    "input": "input_cost_per_token",
    "cached": "cache_read_input_token_cost",
    "cache_write": "cache_creation_input_token_cost",
    "cache_write_1h": "cache_creation_input_token_cost_above_1hr",
    "output": "output_cost_per_token",
    "reasoning": "output_cost_per_reasoning_token",
    "audio_input": "input_cost_per_audio_token",
    "audio_output": "output_cost_per_audio_token",
    "image_input": "input_cost_per_image_token",
    "image_output": "output_cost_per_image_token",
}
BATCHES = "batches"
SERVICE_TIERS = ("flex", "priority", "balanced", "ultrafast", "decisions", BATCHES)
_ABOVE = re.compile(rf"(?:{'|'.join(_KEYS.values())})_above_(\d+)(k?)_tokens(?:_(\w+))?")
_OTHER_UNITS = ("second", "character", "query", "image", "session", "page", "pixel")
_AT_THE_THRESHOLD = ("xai",)  # whose dearer step begins with its threshold; others' begin one token later
_CACHED_SHARE = {
    "fireworks_ai": Decimal("0.5")
}  # of the input's price, where the list has none: the provider's rule
_REGIONS = "regional_processing_uplift_multiplier_"


def tariff_of(entry: Entry, region: str = "") -> Tariff | None:
    """`region`: what the address begins with that is called.

    Raises ValueError, KeyError, TypeError or AttributeError at what the list never had before.
    """
    if not is_priced(entry):
        return None
    ladder = entry.get("tiered_pricing")
    tiers = (
        {STANDARD: _steps(entry, STANDARD)} if not isinstance(ladder, list) else {STANDARD: _ladder(entry)}
    )
    for tier in SERVICE_TIERS:
        if any(f"{_KEYS[name]}_{tier}" in entry for name in ("input", "output")):
            tiers[tier] = _steps(entry, tier)
    uplift = _decimal(entry.get(_REGIONS + region))
    if uplift is not None:
        tiers = {tier: _times(steps, uplift) for tier, steps in tiers.items()}
    off_peak = entry.get("off_peak_pricing") or {}
    return Tariff(
        tuple(tiers.items()),
        Rates(**{name: _per_mtok(off_peak.get(key)) for name, key in _KEYS.items()}),
        tuple(_windows(off_peak)),
        tuple(_factors(entry.get("provider_specific_entry") or {})),
        _decimal(entry.get("input_cost_per_request")),
        _search_fee(entry.get("search_context_cost_per_query")),
    )


def is_priced(entry: Entry) -> bool:
    """Has it a price of tokens? One of 0 beside a price of another unit says nothing of tokens."""
    if isinstance(entry.get("tiered_pricing"), list):
        return any(_KEYS["input"] in step for step in entry["tiered_pricing"])
    prices = [entry.get(_KEYS["input"]), entry.get(_KEYS["output"])]
    if all(price is None for price in prices):
        return False
    return any(prices) or not any(
        value
        for key, value in entry.items()
        if "cost_per_" in key and any(unit in key for unit in _OTHER_UNITS)
    )


def _steps(entry: Entry, tier: str) -> tuple[Step, ...]:
    """The dearer steps have keys of their own; what they leave out stays as it was below them."""
    inclusive = str(entry.get("litellm_provider")) in _AT_THE_THRESHOLD
    found = {
        match[1] + match[2]: match
        for match in map(_ABOVE.fullmatch, entry)
        if match and match[3] in (None, tier)
    }
    if tier == BATCHES:
        found = {
            name: match
            for name, match in found.items()
            if any(f"above_{name}_tokens_batches" in k for k in entry)
        }
    above = {name: int(match[1]) * (1000 if match[2] else 1) for name, match in found.items()}
    order = sorted(above, key=lambda name: above[name])
    steps = [Step(0, _rates(entry, tier, ()))]
    for passed in range(1, len(order) + 1):
        names = order[:passed][::-1]
        steps.append(Step(above[names[0]] - inclusive, _rates(entry, tier, names)))
    return tuple(steps)


def _rates(entry: Entry, tier: str, passed: Sequence[str]) -> Rates:
    """`passed`: the thresholds that the input is above, highest first."""
    rates = {name: _first(entry, _spellings(key, tier, passed)) for name, key in _KEYS.items()}
    if tier and f"{_KEYS['output']}_{tier}" in entry and f"{_KEYS['reasoning']}_{tier}" not in entry:
        rates["reasoning"] = rates["output"]  # the standard tier's own price of reasoning is not this one's
    if rates["cached"] is None:
        rates["cached"] = _per_mtok(entry.get("input_cost_per_token_cache_hit"))  # DeepSeek's older name
    share = _CACHED_SHARE.get(str(entry.get("litellm_provider")))
    if rates["cached"] is None and rates["input"] is not None and share is not None:
        rates["cached"] = rates["input"] * share
    return Rates(**rates)


def _spellings(key: str, tier: str, passed: Sequence[str]) -> Iterable[str]:
    bases = [*(f"{key}_above_{name}_tokens" for name in passed), key]
    for base in bases:
        if tier:
            yield f"{base}_{tier}"
        if tier != BATCHES or key == _KEYS["cache_write_1h"]:
            yield base


def _ladder(entry: Entry) -> tuple[Step, ...]:
    """Steps of which each is complete: what it leaves out costs what the step's input costs."""
    own = _rates(entry, STANDARD, ())
    rungs = []
    for rung in sorted(entry["tiered_pricing"], key=lambda rung: rung["range"][0]):
        rates = Rates(**{name: _per_mtok(rung.get(key)) for name, key in _KEYS.items()})
        rungs.append(Step(int(rung["range"][0]), replace(rates, output=rates.output or own.output)))
    return (replace(rungs[0], above_input_tokens=0), *rungs[1:])


def _times(steps: Sequence[Step], factor: Decimal) -> tuple[Step, ...]:
    return tuple(replace(step, rates=step.rates.times(factor)) for step in steps)


def _windows(off_peak: Mapping[str, Any]) -> Iterable[Window]:
    zone = off_peak.get("weekday_timezone", "UTC")
    if zone != "UTC":
        ZoneInfo(zone)  # a KeyError here, rather than when a call is charged
    every_day = {"hours_utc": off_peak["hours_utc"]} if "hours_utc" in off_peak else None
    for rule in filter(None, (every_day, *off_peak.get("windows", ()))):
        hours = [rule["hours_utc"]] if isinstance(rule["hours_utc"], str) else rule["hours_utc"]
        for begin, _, end in (text.partition("-") for text in hours):
            days = tuple(rule.get("weekdays", ()))
            yield Window(time.fromisoformat(begin), time.fromisoformat(end), days, zone)


def _factors(special: Mapping[str, Any]) -> Iterable[tuple[str, Decimal]]:
    for word, factor in special.items():
        if isinstance(factor, int | float) and "_" not in word:
            yield word, Decimal(repr(factor))


def _search_fee(sizes: Any) -> Decimal | None:
    """The price of a search, where it does not depend on how much of the web is taken in: no answer tells that."""
    prices = {_decimal(price) for price in sizes.values()} if isinstance(sizes, Mapping) else set()
    return prices.pop() if len(prices) == 1 else None


def _first(entry: Entry, keys: Iterable[str]) -> Decimal | None:
    return next((price for key in keys if (price := _per_mtok(entry.get(key))) is not None), None)


def _per_mtok(usd_per_token: Any) -> Decimal | None:
    usd = _decimal(usd_per_token)
    return None if usd is None else usd * 10**6


def _decimal(value: Any) -> Decimal | None:
    """repr: 1.4e-07 means 0.00000014 exactly."""
    return Decimal(repr(value)) if isinstance(value, int | float) and value >= 0 else None
