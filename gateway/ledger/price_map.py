"""litellm's list of model prices, read from the file in its package: importing litellm would take seconds.

In: a model's name and where it is called. Out: its listed prices, or None. Which prices count is `costs`'
business.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

_FILE = "model_prices_and_context_window_backup.json"
_TIER = re.compile(r"input_cost_per_token_above_(\d+)k_tokens")


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """Dollars per million tokens. Calls with more input than `up_to_input_tokens` cost more than this."""

    key: str
    provider: str
    input_usd_per_mtok: Decimal | None
    cached_usd_per_mtok: Decimal | None
    cache_write_usd_per_mtok: Decimal | None
    output_usd_per_mtok: Decimal | None
    up_to_input_tokens: int | None
    context_tokens: int | None


class PriceMap:
    """Listed prices by litellm's model names, which start with a provider or not."""

    def __init__(self, entries: Mapping[str, Any], version: str) -> None:
        self.version = version
        self._entries = {key: entry for key, entry in entries.items() if isinstance(entry, dict)}
        prefixes = {key.partition("/")[0] for key in self._entries if "/" in key}
        self._providers = prefixes | {_provider(entry) for entry in self._entries.values()}

    def find(self, model: str, base_url: str | None = None) -> ListedPrice | None:
        """The listed price of `model`; with a `base_url` whose host is a known provider's, only that one's.

        `provider/name` is looked up as it is, then as `name` if that entry is of this provider.
        """
        for key in self._candidates(model, base_url):
            if key in self._entries:
                return _listed(key, self._entries[key])
        return None

    def _candidates(self, model: str, base_url: str | None) -> Iterator[str]:
        provider = self._provider_of_host(base_url)
        if provider is not None:
            yield f"{provider}/{model}"
            if self._is_of(model, provider):
                yield model
            return
        yield model
        prefix, _, name = model.partition("/")
        if name and self._is_of(name, prefix):
            yield name

    def _is_of(self, key: str, provider: str) -> bool:
        return _provider(self._entries.get(key, {})).startswith(provider)

    def _provider_of_host(self, base_url: str | None) -> str | None:
        """deepseek for api.deepseek.com, xai for api.x.ai; the label nearest to the end wins."""
        labels = re.split(r"[.-]", urlsplit(base_url or "").hostname or "")
        names = ["".join(labels[-2:]), *reversed(labels)]
        known = {spelling: provider for provider in self._providers for spelling in _spellings(provider)}
        return next((known[name] for name in names if name in known), None)


@cache
def litellm_prices() -> PriceMap:
    """The price list of the installed litellm; an empty one without it. Read once."""
    found = importlib.util.find_spec("litellm")
    if found is None or found.origin is None:
        return PriceMap({}, "absent")
    path = Path(found.origin).parent / _FILE
    entries = orjson.loads(path.read_bytes()) if path.is_file() else {}
    return PriceMap(entries, importlib.metadata.version("litellm"))


def _provider(entry: Mapping[str, Any]) -> str:
    return str(entry.get("litellm_provider", ""))


def _spellings(provider: str) -> set[str]:
    return {provider, provider.removesuffix("_ai"), provider.replace("_", "")} - {""}


def _listed(key: str, entry: Mapping[str, Any]) -> ListedPrice:
    tiers = [int(match[1]) * 1000 for name in entry if (match := _TIER.fullmatch(name))]
    context = entry.get("max_input_tokens")
    return ListedPrice(
        key,
        _provider(entry),
        _per_mtok(entry.get("input_cost_per_token")),
        _per_mtok(entry.get("cache_read_input_token_cost")),
        _per_mtok(entry.get("cache_creation_input_token_cost")),
        _per_mtok(entry.get("output_cost_per_token")),
        min(tiers, default=None),
        context if isinstance(context, int) else None,
    )


def _per_mtok(usd_per_token: Any) -> Decimal | None:
    if not isinstance(usd_per_token, int | float) or usd_per_token < 0:
        return None
    return Decimal(repr(usd_per_token)) * 10**6  # repr: 1.4e-07 means 0.00000014 exactly
