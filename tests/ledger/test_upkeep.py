"""The drain's upkeep: what it does by itself, by which of several drains, and what it leaves alone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from gateway.ledger import upkeep
from gateway.ledger.batch import write
from gateway.ledger.maintain import lock
from gateway.ledger.records import Exchange
from gateway.ledger.upkeep import Upkeep
from tests.ledger.conftest import NOON, carried

MakeExchange = Callable[..., Exchange]
NOW = datetime.fromtimestamp(NOON, UTC) + timedelta(minutes=5)


def scalar(engine: Engine, query: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(query)) or 0)


def histograms(engine: Engine) -> int:
    return scalar(engine, "SELECT count(*) FROM latency_histograms")


@pytest.fixture
def calls(engine: Engine, make_exchange: MakeExchange) -> None:
    """Three batches of one minute, and a call of ten days before."""
    for at in (NOON, NOON + 1, NOON + 2, NOON - 864_000):
        with engine.begin() as connection:
            write(connection, [carried(make_exchange(at))])


@pytest.mark.usefixtures("calls")
def test_minutes_are_merged_and_old_days_dropped(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    Upkeep(engine, retention_days=9).step(NOW)
    assert histograms(engine) == 2 * 3
    assert scalar(engine, "SELECT count(*) FROM exchanges") == 3
    assert "9 days of retention dropped: exchanges_20261111, attempts_20261111" in caplog.text
    assert scalar(engine, "SELECT sum(calls) FROM call_sums") == 4  # sums outlive their rows


@pytest.mark.usefixtures("calls")
def test_without_a_retention_nothing_is_dropped(engine: Engine) -> None:
    Upkeep(engine, retention_days=None).step(NOW)
    assert histograms(engine) == 2 * 3
    assert scalar(engine, "SELECT count(*) FROM exchanges") == 4


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("days", [36_500, 1_000_000_000])
def test_a_retention_for_ever_drops_nothing(engine: Engine, days: int) -> None:
    Upkeep(engine, retention_days=days).step(NOW)
    assert scalar(engine, "SELECT count(*) FROM exchanges") == 4
    assert scalar(engine, "SELECT sum(calls) FROM call_sums") == 4


def test_a_fault_of_ours_costs_one_pass(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upkeep, "EVERY_S", 0.01)
    passes, stop = 0, threading.Event()

    def step(*_: object) -> None:
        nonlocal passes
        passes += 1
        if passes == 1:
            raise ValueError("a bug of ours")
        stop.set()

    monkeypatch.setattr(Upkeep, "step", step)
    Upkeep(engine, None).run(stop)
    assert passes == 2
    assert "a bug of ours" in caplog.text


@pytest.mark.usefixtures("calls")
def test_of_two_drains_one_does_it(engine: Engine) -> None:
    with engine.begin() as connection:
        assert lock(connection, wait=False)
        Upkeep(engine, retention_days=9).step(NOW)
        assert histograms(engine) == 4 * 3
    Upkeep(engine, retention_days=9).step(NOW)
    assert histograms(engine) == 2 * 3


@pytest.mark.usefixtures("calls")
def test_it_goes_on_after_the_database_failed_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upkeep, "EVERY_S", 0.02)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE latency_histograms RENAME TO elsewhere"))
    stop = threading.Event()
    thread = threading.Thread(target=Upkeep(engine, None).run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: "upkeep is put off" in caplog.text)
        with engine.begin() as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO latency_histograms"))
        wait_until(lambda: histograms(engine) == 2 * 3)
    finally:
        stop.set()
        thread.join()


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)
