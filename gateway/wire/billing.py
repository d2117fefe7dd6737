"""What a price may depend on beside the usual token counts, as providers tell it in an answer.

In: decoded JSON of any of the APIs. Out: counts for `Usage.apart` and the words of `Attempt.service_tier`; None where
an answer tells nothing out of the ordinary. Knows no prices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway.wire.fields import count

_ORDINARY = frozenset(
    {"default", "auto", "standard", "standard_only", "on_demand", "global", "not_available"}
)
_OF_USAGE = ("service_tier", "speed", "inference_geo")  # Anthropic's
MAX_CHARS = 64


def service_tier_of(value: Mapping[str, Any]) -> str | None:
    """Words in lower case, such as `flex` or `priority us`, of a body, message, response or chunk."""
    tier, usage = value.get("service_tier"), value.get("usage")
    if not isinstance(usage, dict):
        usage = {}
    told = usage.get("service_tier") or usage.get("speed") or usage.get("inference_geo")
    if not told and (not tier or tier == "default"):  # of nearly all answers
        return None
    words = [word.lower() for word in (tier, *map(usage.get, _OF_USAGE)) if isinstance(word, str)]
    return " ".join(word for word in words if word not in _ORDINARY)[:MAX_CHARS] or None


def apart(counts: Iterable[tuple[str, Any]]) -> dict[str, int] | None:
    """Those above 0."""
    found = {name: number for name, told in counts if told and (number := count(told))}
    return found or None
