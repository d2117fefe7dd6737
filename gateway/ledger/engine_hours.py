"""How long self-hosted engines were up, and what that cost: the whole of which calls are charged parts.

In: what one gateway saw of an engine. Out: sums in `engine_hours`. Gateways that watch the same engine count its time
once; two machines of one name count each. What was idle is the rest: the view `self_hosted_costs`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

LONGEST_GAP_S = 60.0  # between two looks at an engine that was up in both

_ADD = """
INSERT INTO engine_hours AS kept (hour, target, place, up_s, usd, counted_until)
SELECT hour, target, place, up_s, round(CAST(up_s AS numeric) * usd_per_hour / 3600, 9), counted_until
FROM (SELECT CAST(:hour AS timestamptz) AS hour, CAST(:target AS text) AS target, CAST(:place AS text) AS place,
    CAST(:up_s AS float8) AS up_s, CAST(:usd_per_hour AS numeric) AS usd_per_hour,
    CAST(:counted_until AS timestamptz) AS counted_until) AS new
ON CONFLICT (hour, target, place) DO UPDATE SET
    up_s = kept.up_s + {share} * excluded.up_s,
    usd = kept.usd + round(CAST({share} AS numeric) * excluded.usd, 9),
    counted_until = greatest(kept.counted_until, excluded.counted_until)
"""
_NOT_COUNTED_YET = """
least(1, greatest(0, extract(epoch FROM excluded.counted_until - kept.counted_until)) / excluded.up_s)
"""
_STATEMENT = text(_ADD.format(share=_NOT_COUNTED_YET.strip()))


@dataclass(slots=True)
class UpTime:
    """One engine, as one gateway sees it: what is not written yet, by the hour."""

    target: str
    place: str
    usd_per_hour: Decimal | None
    unwritten: dict[datetime, tuple[float, datetime]] = field(default_factory=dict)
    _last_up: datetime | None = None

    def look(self, is_up: bool, at: datetime) -> None:
        """Between two looks at which it answered, it was up."""
        last, self._last_up = self._last_up, at if is_up else None
        up_s = (at - last).total_seconds() if last is not None and is_up else 0.0
        if 0.0 < up_s <= LONGEST_GAP_S:
            hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
            before_s, _ = self.unwritten.get(hour, (0.0, at))
            self.unwritten[hour] = before_s + up_s, at

    async def write(self, connection: AsyncConnection) -> None:
        """Adds what is not written; `written` follows once that is committed."""
        for hour, (up_s, until) in sorted(self.unwritten.items()):
            values = {"hour": hour, "up_s": up_s, "counted_until": until}
            whose = {"target": self.target, "place": self.place, "usd_per_hour": self.usd_per_hour}
            await connection.execute(_STATEMENT, values | whose)

    def written(self) -> None:
        self.unwritten.clear()
