"""The way from the drain to the process that exports: a real process, a real collector."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway.config.variables import TELEMETRY_VARIABLE
from gateway.ledger.records import Exchange
from gateway.ledger.segments import decode_line, encode_line
from gateway.telemetry import feed as feeding
from gateway.telemetry.feed import Feed
from gateway.telemetry.settings import METRICS, TRACES, Telemetry
from tests.gateway.telemetry.collector import Collector, collecting

NOON = 1_795_262_400.0  # 2026-11-21 12:00:00 UTC


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as collector:
        yield collector


def environment(collector: Collector) -> dict[str, str]:
    telemetry = Telemetry(endpoint=collector.url, signals=(TRACES, METRICS))
    return {**os.environ, TELEMETRY_VARIABLE: telemetry.as_text()}


def record() -> dict[str, Any]:
    found = decode_line(encode_line(Exchange("a", "/v1/chat/completions", True, NOON).record()).rstrip(b"\n"))
    assert found is not None
    return found


def pid_of(feed: Feed, other_than: int | None = None) -> int:
    """The exporting process's, once there is one."""
    end = time.monotonic() + 20.0
    while feed.pid is None or feed.pid == other_than:
        assert time.monotonic() < end, "there is no process"
        time.sleep(0.02)
    return feed.pid


def test_what_is_fed_arrives_before_the_feed_is_closed(collector: Collector) -> None:
    feed = Feed(environment(collector))
    for size in (1, 2):
        feed.take([record() for _ in range(size)])
    feed.close()
    assert (len(collector.spans), feed.dropped_records) == (3, 0)


def test_a_signal_to_all_leaves_it_its_work(collector: Collector) -> None:
    feed = Feed(environment(collector))
    feed.take([record()])
    end = time.monotonic() + 20.0
    while not collector.spans:  # it is past its beginning
        assert time.monotonic() < end, "nothing was sent"
        time.sleep(0.05)
    os.kill(pid_of(feed), signal.SIGINT)
    feed.take([record()])
    feed.close()
    assert len(collector.spans) == 2


def test_one_that_died_is_started_anew(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding, "RESTART_AFTER_S", 0.0)
    feed = Feed(environment(collector))
    feed.take([record()])
    first = pid_of(feed)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    feed.take([record()])  # finds the pipe broken
    feed.take([record()])
    assert pid_of(feed, other_than=first)
    feed.close()
    assert feed.dropped_records == 1
    assert len(collector.spans) >= 1


def test_one_that_stands_still_costs_records_and_no_time(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feeding, "MAX_WAITING_BYTES", 100_000)
    monkeypatch.setattr(feeding, "CLOSE_WITHIN_S", 0.5)
    feed = Feed(environment(collector))
    feed.take([record()])
    os.kill(pid_of(feed), signal.SIGSTOP)
    for _ in range(1000):
        feed.take([record()])
    feed.close()
    assert 500 < feed.dropped_records <= 1000


def test_without_an_endpoint_there_is_none() -> None:
    with feeding.feeding({}) as feed:
        assert feed is None


def test_without_its_packages_telemetry_is_off_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    with caplog.at_level(logging.ERROR), feeding.feeding(given) as feed:
        assert feed is None
    assert 'pip install "sparkgate[otel]"' in caplog.text
