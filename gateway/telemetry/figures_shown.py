"""Figures of the drain and of the process that exports, for Prometheus: they serve no HTTP themselves, so the
gateway's `/metrics` shows them with its own.

In: their counters, looked at once a second. Out: prometheus_client's shared files, in the folder of the workers'
(`PROMETHEUS_MULTIPROC_DIR`, which must be set before this module is imported).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from gateway.config.variables import METRICS_FOLDER_VARIABLE

INTERVAL_S = 1.0


class DrainCounts(Protocol):
    """What the drain counts, in this process."""

    exchanges: int
    quarantined: int
    written_at: float  # Unix seconds; 0 = nothing was written yet
    is_database_up: bool


class FeedCounts(Protocol):
    @property
    def dropped_records(self) -> int: ...


class SpanCounts(Protocol):
    """What the exporter counts."""

    made: int
    sent: int
    dropped: int


def drain_figures(
    drain: DrainCounts, feed: FeedCounts | None, registry: CollectorRegistry = REGISTRY
) -> Callable[[], None]:
    """Gives what brings them up to date."""
    counters = {
        "exchanges": Counter(
            "sparkgate_drain_exchanges", "Exchanges written to the database", registry=registry
        ),
        "quarantined": Counter(
            "sparkgate_drain_quarantined_lines", "Lines of the spool that were put aside", registry=registry
        ),
    }
    lost = Counter(
        "sparkgate_telemetry_dropped_records",
        "Records that the process which exports to OpenTelemetry did not get",
        registry=registry,
    )
    up = Gauge(
        "sparkgate_drain_database_up",
        "Whether the database takes records: 1 or 0",
        multiprocess_mode="mostrecent",
        registry=registry,
    )
    written_at = Gauge(
        "sparkgate_drain_last_write_timestamp_seconds",
        "When records were last written, in Unix seconds",
        multiprocess_mode="mostrecent",
        registry=registry,
    )
    add = _adding({name: (counter, drain) for name, counter in counters.items()})
    add_lost = _adding({"dropped_records": (lost, feed)} if feed else {})

    def show() -> None:
        add()
        add_lost()
        up.set(drain.is_database_up)
        written_at.set(drain.written_at)

    return show


def span_figures(spans: SpanCounts, registry: CollectorRegistry = REGISTRY) -> Callable[[], None]:
    """The same for the process that exports."""
    counter = Counter(
        "sparkgate_telemetry_spans",
        "OpenTelemetry spans: made, sent to the collector, and dropped as too many waited for it",
        ("state",),
        registry=registry,
    )
    return _adding({state: (counter.labels(state), spans) for state in ("made", "sent", "dropped")})


def _adding(counters: Mapping[str, tuple[Counter, object]]) -> Callable[[], None]:
    """Adds to each counter what its owner's attribute of that name has grown by."""
    known = dict.fromkeys(counters, 0)

    def add() -> None:
        for name, (counter, owner) in counters.items():
            now = getattr(owner, name)
            counter.inc(now - known[name])
            known[name] = now

    return add


@contextmanager
def shown(figures: Callable[[], Callable[[], None]], env: Mapping[str, str]) -> Iterator[None]:
    """Brings figures up to date as long as the block lasts, and at its end, where the workers share theirs."""
    folder = env.get(METRICS_FOLDER_VARIABLE)
    if folder is None:
        yield
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    show, stop = figures(), threading.Event()

    def repeat() -> None:
        show()
        while not stop.wait(INTERVAL_S):
            show()

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        show()
