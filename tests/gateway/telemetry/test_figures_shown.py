"""The figures of drain and exporter for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from gateway.ledger.database import create_engine
from gateway.ledger.drain import Drain
from gateway.ledger.records import Exchange
from gateway.ledger.segments import encode_line
from gateway.telemetry.figures_shown import drain_figures, span_figures

NOON = 1_795_262_400.0  # 2026-11-21 12:00:00 UTC
FIRST = f"w-{1:020d}00000000.ready"


@dataclass
class Feed:
    dropped_records: int = 0


@dataclass
class Spans:
    made: int = 0
    sent: int = 0
    dropped: int = 0


@pytest.fixture
def engine(clean_database_url: str) -> Iterator[Engine]:
    engine = create_engine(clean_database_url)
    yield engine
    engine.dispose()


def test_what_the_drain_did_is_shown_once(engine: Engine, tmp_path: Path) -> None:
    registry, drain, feed = CollectorRegistry(), Drain(engine, tmp_path), Feed()
    show = drain_figures(drain, feed, registry)

    def shown(name: str) -> float | None:
        return registry.get_sample_value(f"sparkgate_{name}")

    show()
    assert (shown("drain_last_write_timestamp_seconds"), shown("drain_exchanges_total")) == (0, 0)
    lines = [encode_line(Exchange("a", "/v1/chat/completions", True, NOON).record()) for _ in range(3)]
    (tmp_path / FIRST).write_bytes(b"".join(lines) + b"damaged\n")
    while drain.step():
        pass
    feed.dropped_records = 4
    for _ in range(2):
        show()
    assert (shown("drain_exchanges_total"), shown("drain_quarantined_lines_total")) == (3, 1)
    assert shown("drain_last_write_timestamp_seconds") == drain.written_at > NOON - 365 * 86_400
    assert (shown("drain_database_up"), shown("telemetry_dropped_records_total")) == (1, 4)
    drain.is_database_up = False
    show()
    assert shown("drain_database_up") == 0


def test_spans_are_shown_by_what_became_of_them() -> None:
    registry, spans = CollectorRegistry(), Spans()
    show = span_figures(spans, registry)
    for _ in range(2):
        spans.made, spans.sent, spans.dropped = spans.made + 5, spans.sent + 3, spans.dropped + 1
        show()
    states = ("made", "sent", "dropped")
    found = [
        registry.get_sample_value("sparkgate_telemetry_spans_total", {"state": state}) for state in states
    ]
    assert found == [10, 6, 2]


def test_what_is_written_is_told(engine: Engine, tmp_path: Path) -> None:
    told: list[str] = []
    drain = Drain(engine, tmp_path)
    drain.on_written = lambda records: told.extend(record["exchange"]["id"] for record in records)
    exchange = Exchange("a", "/v1/chat/completions", True, NOON)
    (tmp_path / FIRST).write_bytes(encode_line(exchange.record()))
    while drain.step():
        pass
    assert told == [str(exchange.id)]
