"""What the drain does beside draining: fresh histograms merged, silent tasks abandoned, the ledger kept small.

In: an engine on the ledger's database, days of calls to keep. Of several drains on one database, one does it at a
time. A database that is away costs nothing but delay.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from gateway.ledger import joining, tasks
from gateway.ledger.compaction import FRESH, compact_histograms
from gateway.ledger.maintain import lock, maintain
from gateway.ledger.rollups import Workflows

log = logging.getLogger("sparkgate.upkeep")
EVERY_S = 60.0
MAINTAINED_EVERY_S = 600.0


@dataclass(slots=True)
class Upkeep:
    """`retention_days` None: old calls stay, and are for `db maintain`."""

    engine: Engine
    retention_days: int | None
    _workflows: Workflows = field(default_factory=Workflows)
    _maintained_at: float = float("-inf")  # monotonic

    def run(self, stop: threading.Event) -> None:
        while not stop.wait(EVERY_S):
            try:
                self.step(datetime.now(UTC))
            except SQLAlchemyError as error:
                log.warning("the ledger's upkeep is put off: %s", getattr(error, "orig", None) or error)
            except Exception:
                log.exception("the ledger's upkeep failed; it is tried again")

    def step(self, now: datetime) -> None:
        """Short transactions, as what they touch waits for them."""
        with self.engine.begin() as connection:
            if lock(connection, wait=False):
                compact_histograms(connection, now, FRESH)
        while self._abandon(now) == tasks.SWEEP:
            pass
        with self.engine.begin() as connection:
            if lock(connection, wait=False):
                tasks.reunite(connection, now, self._workflows)
                joining.forget(connection, now)
        if self.retention_days is not None and time.monotonic() - self._maintained_at >= MAINTAINED_EVERY_S:
            with self.engine.begin() as connection:
                if lock(connection, wait=False):
                    self._maintain(connection, now, self.retention_days)
            self._maintained_at = time.monotonic()

    def _abandon(self, now: datetime) -> int:
        with self.engine.begin() as connection:
            return tasks.abandon_silent(connection, now) if lock(connection, wait=False) else 0

    def _maintain(self, connection: Connection, now: datetime, retention_days: int) -> None:
        done = maintain(connection, now, retention_days)
        if done.dropped:
            log.info(
                "days past their %d days of retention dropped: %s", retention_days, ", ".join(done.dropped)
            )
