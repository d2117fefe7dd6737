"""`Tariff`: what a provider's tokens cost under all its conditions.

These are the length of the input, the service tier, the hour of the day, and fees beside the tokens. Values only: where
they come from is `listed_tariff`'s and `costs`' business, what a call costs by them that of `meters`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

STANDARD = ""  # the service tier of a call that names none


@dataclass(frozen=True, slots=True)
class Rates:
    """Dollars per million tokens; None = not given."""

    input: Decimal | None = None
    cached: Decimal | None = None
    cache_write: Decimal | None = None
    cache_write_1h: Decimal | None = None
    output: Decimal | None = None
    reasoning: Decimal | None = None
    audio_input: Decimal | None = None
    audio_output: Decimal | None = None
    image_input: Decimal | None = None
    image_output: Decimal | None = None

    def over(self, other: Rates) -> Rates:
        """These, and the other's where there is none."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in RATES)
        return Rates(*(theirs if ours is None else ours for ours, theirs in pairs))

    def filled(self) -> Rates:
        """What has no rate of its own costs what it is a part of: cached tokens are input, reasoning is output."""
        write = self.input if self.cache_write is None else self.cache_write
        inputs = Rates(self.input, self.input, write, write, audio_input=self.input, image_input=self.input)
        outputs = Rates(reasoning=self.output, audio_output=self.output, image_output=self.output)
        return self.over(inputs).over(outputs)

    def times(self, factor: Decimal) -> Rates:
        rates = (getattr(self, name) for name in RATES)
        return Rates(*(None if rate is None else rate * factor for rate in rates))


RATES = tuple(field.name for field in fields(Rates))


@dataclass(frozen=True, slots=True)
class Step:
    """Rates of calls with more input than this: they hold for all their tokens."""

    above_input_tokens: int
    rates: Rates


@dataclass(frozen=True, slots=True)
class Window:
    """Hours of a day, UTC; one that ends before it begins goes past midnight, one that ends where it begins is all
    day. `weekdays` 1 = Monday, counted in `zone`; none = every day."""

    begin: time
    end: time
    weekdays: tuple[int, ...] = ()
    zone: str = "UTC"

    def holds(self, at: datetime) -> bool:
        zone = UTC if self.zone == "UTC" else ZoneInfo(self.zone)
        if self.weekdays and at.astimezone(zone).isoweekday() not in self.weekdays:
            return False
        now = at.astimezone(UTC).time()
        if self.begin < self.end:
            return self.begin <= now < self.end
        return now >= self.begin or now < self.end


@dataclass(frozen=True, slots=True)
class Tariff:
    """`tiers`: steps by service tier, the standard one's name is empty. `off_peak` rates go before all others within
    their windows. `factors`: on all tokens of answers that name the word, such as a region."""

    tiers: tuple[tuple[str, tuple[Step, ...]], ...] = ()
    off_peak: Rates = Rates()
    windows: tuple[Window, ...] = ()
    factors: tuple[tuple[str, Decimal], ...] = ()
    usd_per_request: Decimal | None = None
    usd_per_web_search: Decimal | None = None
    has_one_price: bool = False  # for every service tier that is not in `tiers`

    @property
    def standard(self) -> Rates:
        """Of short inputs, by day."""
        steps = dict(self.tiers).get(STANDARD, ())
        return steps[0].rates if steps else Rates()

    def beyond_the_plain(self) -> dict[str, Any] | None:
        """All of it as JSON, None if there is nothing but the four rates that a price always shows."""
        plain = Rates(*(getattr(self.standard, name) for name in ("input", "cached", "cache_write")))
        plain = Rates(output=self.standard.output).over(plain)
        if self == Tariff(((STANDARD, (Step(0, plain),)),), has_one_price=self.has_one_price):
            return None
        value = {
            "tiers": {tier or "standard": [_json(step) for step in steps] for tier, steps in self.tiers},
            "off_peak": _json(self.off_peak),
            "windows": [_json(window) for window in self.windows],
            "factors": {word: str(factor) for word, factor in self.factors},
            "usd_per_request": self.usd_per_request and str(self.usd_per_request),
            "usd_per_web_search": self.usd_per_web_search and str(self.usd_per_web_search),
        }
        return {key: item for key, item in value.items() if item} or None


def _json(part: Rates | Step | Window) -> dict[str, Any]:
    """Without what is not given; numbers that are not whole as texts, exactly."""
    if isinstance(part, Step):
        return {"above_input_tokens": part.above_input_tokens} | _json(part.rates)
    values = {key: value for key, value in asdict(part).items() if value not in (None, ())}
    return {key: value if isinstance(value, tuple) else str(value) for key, value in values.items()}
