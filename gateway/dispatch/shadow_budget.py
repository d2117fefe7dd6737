"""`ShadowBudget`: what shadows have cost today (UTC), by task shape, so that a policy's `usd_per_day` holds.

That is what the ledger has booked, for all workers and from before a restart, plus what this worker has booked and the
ledger does not show yet. `step` reads it; until it has, nothing may be spent, and while the database is away the last
reading stands. A budget that cannot be counted, since a cost is unknown, is a spent one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.ledger.records import Attempt, utc
from gateway.ledger.shadows import shadow_costs
from router.policy import Policy

log = logging.getLogger(__name__)
INTERVAL_S = 5.0
_NUSD_PER_USD = 10**9


class ShadowBudget:
    """One worker's view. `step` every `INTERVAL_S`."""

    def __init__(self, database: AsyncEngine, policy: Callable[[], Policy]) -> None:
        self._database, self._policy = database, policy
        self._day = date.min  # of the last reading
        self._booked: Mapping[str, int | None] | None = None
        self._told: dict[str, date] = {}  # by shape, when it was last logged that its costs cannot be counted
        self._own: dict[UUID, tuple[date, str, int | None]] = {}  # that no reading has shown yet

    def allows(self, shape: str, usd_per_day: float | None) -> bool:
        """May one more shadow begin now? `usd_per_day` None = whatever it costs."""
        if usd_per_day is None:
            return True
        if self._booked is None:
            return False
        today = datetime.now(UTC).date()
        spent = [nusd for day, of, nusd in self._own.values() if day == today and of == shape]
        if self._day == today:
            spent.append(self._booked.get(shape, 0))
        known = [nusd for nusd in spent if nusd is not None]
        if len(known) < len(spent):
            self._tell(today, shape)
            return False
        return sum(known) < usd_per_day * _NUSD_PER_USD

    def _tell(self, today: date, shape: str) -> None:
        if self._told.get(shape) != today:
            self._told[shape] = today
            log.warning(
                "no more shadows of %s today: the cost of one is unknown, so that usd_per_day cannot be held; "
                "give its target prices, or leave usd_per_day out",
                shape,
            )

    def add(self, shape: str, attempt: Attempt) -> None:
        """A shadow that has been booked."""
        self._own[attempt.id] = utc(attempt.started_at).date(), shape, attempt.cost_nusd

    async def step(self) -> None:
        today = datetime.now(UTC).date()
        for key in [key for key, (day, _, _) in self._own.items() if day < today]:
            del self._own[key]
        if not self._own and not _has_budgets(self._policy()):
            return
        try:
            await self._read(today)
        except SQLAlchemyError as error:
            log.warning("costs of shadows not read: %s", type(error).__name__)

    async def _read(self, today: date) -> None:
        asked = [key for key, (day, _, _) in self._own.items() if day == today]
        async with self._database.connect() as connection:
            costs = await shadow_costs(connection, today, asked)
        self._day, self._booked = today, costs.nusd
        for key in costs.found:
            self._own.pop(key, None)


def _has_budgets(policy: Policy) -> bool:
    return any(
        rules.shadow is not None and rules.shadow.usd_per_day is not None
        for rules in (*policy.shapes.values(), policy.defaults)
    )
