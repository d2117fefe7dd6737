"""Numbers as people read them: durations, shares, money, counts, each with its unit; None becomes a dash.

Pure functions of values, in SI and dollars. An unknown cost is the word "unknown", never 0.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

NONE = "–"


def is_absent(value: Any) -> bool:
    """True for None, NaN and NaT."""
    return value is None or value != value


def seconds(value: float | None) -> str:
    if value is None or is_absent(value):
        return NONE
    if value < 0.0995:
        return f"{1000 * value:.0f} ms" if value >= 0.00995 else f"{1000 * value:.1f} ms"
    return f"{value:.2f} s" if value < 9.995 else f"{value:.1f} s"


def share(part: float, whole: float) -> str:
    """A percentage with enough digits to be told from zero."""
    if not whole:
        return NONE
    if not part:
        return "0 %"
    percent = 100 * part / whole
    return f"{percent:.2f} %" if percent < 1 else f"{percent:.1f} %" if percent < 100 else "100 %"


def rate(tokens_per_s: float | None) -> str:
    if tokens_per_s is None or is_absent(tokens_per_s):
        return NONE
    return f"{tokens_per_s:.1f}" if tokens_per_s < 100 else f"{tokens_per_s:,.0f}"


def count(value: float | None) -> str:
    return NONE if value is None or is_absent(value) else f"{int(value):,}"


def usd(value: float | None) -> str:
    """Three significant digits below a dollar, whole cents from there on."""
    if value is None or is_absent(value):
        return "unknown"
    if value == 0:
        return "$0"
    if abs(value) >= 1:
        return f"${value:,.2f}"
    digits = min(9, 2 - math.floor(math.log10(abs(value))))  # a nano-dollar is the unit of cost
    return f"${value:.{digits}f}"


def total_usd(known: float | None, unpriced: int) -> str:
    """A sum of which some summands may be unknown: then it is a lower bound, or unknown when all are."""
    if known is None or is_absent(known):
        return "unknown" if unpriced else "$0"
    return f"≥ {usd(known)}" if unpriced else usd(known)


def age(then: datetime, now: datetime) -> str:
    passed = max(0.0, (now - then).total_seconds())
    for unit_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if passed >= unit_s:
            return f"{passed / unit_s:.0f} {unit} ago"
    return f"{passed:.0f} s ago"
