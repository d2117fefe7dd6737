"""litellm's list of model prices, read from the file in its package: importing litellm would take seconds.

In: a model's name and where it is called. Out: its listed prices, or None. Which prices count is `costs`'
business; what an entry's keys mean is `listed_tariff`'s.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from gateway.ledger.listed_tariff import tariff_of
from gateway.ledger.tariff import Tariff

log = logging.getLogger(__name__)
_FILE = "model_prices_and_context_window_backup.json"


@dataclass(frozen=True, slots=True)
class ListedPrice:
    """One entry. `tariff` is None where the entry does not say what tokens cost."""

    key: str
    provider: str
    tariff: Tariff | None
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
                return _listed(key, self._entries[key], _region(base_url))
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


def _region(base_url: str | None) -> str:
    """eu for eu.api.openai.com, whose calls cost more."""
    return (urlsplit(base_url or "").hostname or "").partition(".")[0]


def _spellings(provider: str) -> set[str]:
    return {provider, provider.removesuffix("_ai"), provider.replace("_", "")} - {""}


def _listed(key: str, entry: Mapping[str, Any], region: str) -> ListedPrice:
    context = entry.get("max_input_tokens")
    try:
        tariff = tariff_of(entry, region)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("litellm's prices of %s cannot be read: %s: %s", key, type(error).__name__, error)
        tariff = None
    return ListedPrice(key, _provider(entry), tariff, context if isinstance(context, int) else None)
