"""`Book`: what an attempt cost, and the way of a finished exchange into spool and metrics.

In: attempts and exchanges as `Tally` fills them. Out: cost and price id on the attempt, a spool record, metrics.
An attempt that no upstream began to answer is free; one whose usage or price nobody knows costs `None`, never 0.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal

from gateway.dispatch.metrics import Metrics
from gateway.ledger.costs import Price, engine_cost_nusd
from gateway.ledger.errors import LedgerFull as SpoolFull
from gateway.ledger.meters import Meters
from gateway.ledger.records import Attempt, Exchange, shadow_record
from gateway.ledger.spool import Spool
from gateway.wire.errors import LedgerFull

log = logging.getLogger(__name__)
FULL_RETRY_S = 2.0
_FREE = frozenset({"connect_error", "http_error", "busy"})  # nothing was computed, as far as anyone says


class Book:
    """One worker's books."""

    def __init__(
        self,
        spool: Spool,
        metrics: Metrics,
        prices: Mapping[str, Price | None],
        max_batch: Mapping[str, int],
        on_full: Literal["refuse", "serve"],
        prefill_tokens_per_s: Callable[[str], float] = lambda target: 0.0,
    ) -> None:
        """By target name: `prices`, and of self-hosted ones `max_batch` (slots) and how fast they read prompts; 0 = not
        known."""
        self.metrics = metrics
        self._spool, self._max_batch, self._on_full = spool, max_batch, on_full
        self._prefill_tokens_per_s = prefill_tokens_per_s
        known = {name: price for name, price in prices.items() if price is not None}
        self._price_ids = {name: price.id for name, price in known.items()}
        self._meters = {name: Meters(price.tariff) for name, price in known.items()}
        self._per_hour = {
            name: hour for name, price in known.items() if (hour := price.usd_per_hour) is not None
        }
        self._is_losing = False

    def check_room(self) -> None:
        """Raises `LedgerFull` when a new call could not be recorded and the deployment refuses such calls."""
        if self._on_full == "refuse" and self._spool.is_full:
            why = "the database has been away or slow for long; see ledger.max_spool_mb and ledger.on_full"
            if self._spool.is_disk_full:
                why = f"the disk of {self._spool.directory} has no room left, or takes no more"
            raise LedgerFull(f"the ledger's spool is full: {why}", retry_after_s=FULL_RETRY_S)

    def charge(self, attempt: Attempt) -> None:
        """Sets the attempt's cost and the price it was reckoned with."""
        target, usage = attempt.target, attempt.usage
        attempt.price_id = self._price_ids.get(target)
        if usage is None and (attempt.result in _FREE or not attempt.is_sent):
            attempt.cost_nusd = 0
        elif target in self._per_hour:
            slots = self._max_batch[target]
            spent_s = _engine_seconds(attempt) or _estimated_seconds(
                attempt, self._prefill_tokens_per_s(target)
            )
            attempt.cost_nusd = engine_cost_nusd(self._per_hour[target], *spent_s, slots)
        elif usage is None or (meters := self._meters.get(target)) is None:
            attempt.cost_nusd = None
        else:
            attempt.cost_nusd = meters.nusd(usage, attempt.service_tier, attempt.started_at)

    def close(self, exchange: Exchange) -> None:
        """Into the spool, then the metrics."""
        self._keep(exchange.record())
        self.metrics.closed(exchange)

    def close_shadow(self, attempt: Attempt, exchange: Exchange, ordinal: int) -> None:
        """The same for an attempt that was made on trial, beside this exchange."""
        self._keep(shadow_record(attempt, exchange.id, ordinal, exchange.trace))
        self.metrics.shadowed(attempt)

    def _keep(self, record: dict[str, Any]) -> None:
        """A record that does not fit any more is counted as lost, not hidden."""
        try:
            self._spool.append(record)
            self._is_losing = False
        except SpoolFull as error:
            if not self._is_losing:
                log.error("records are being lost: %s", error)
            self._is_losing = True


def _engine_seconds(attempt: Attempt) -> tuple[float, float] | None:
    """(prefill, decode) as an engine of ours reports them."""
    said = attempt.engine or {}
    prefill_s, decode_s = said.get("prefill_s"), said.get("decode_s")
    if isinstance(prefill_s, int | float) and isinstance(decode_s, int | float):
        return float(prefill_s), float(decode_s)
    return None


def _estimated_seconds(attempt: Attempt, prefill_tokens_per_s: float) -> tuple[float, float]:
    """The same of a call broken off, and of servers that report none: the time to the first token is spent in a queue
    and beside others' prompts too, so the prompt counts by the pace at which that machine reads prompts."""
    prefill_s = attempt.ttft_s or 0.0
    if attempt.usage is not None and prefill_tokens_per_s:
        computed = attempt.usage.input_tokens - attempt.usage.cached_tokens
        waited_s = attempt.total_s if attempt.ttft_s is None else attempt.ttft_s
        prefill_s = min(waited_s, computed / prefill_tokens_per_s)
    return prefill_s, attempt.total_s - (prefill_s if attempt.ttft_s is None else attempt.ttft_s)
