"""Fixtures of the dashboard's tests: engines on the test's database, the served page, a browser."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from playwright.sync_api import Browser
from sqlalchemy import Engine

from dashboard.database import connect
from gateway.ledger.database import create_engine
from gateway.ledger.records import Exchange
from tests.dashboard import traffic
from tests.dashboard.server import chromium, dashboard, find_chromium


@pytest.fixture
def writer(clean_database_url: str) -> Iterator[Engine]:
    """Writes the ledger as the gateway does."""
    engine = create_engine(clean_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def reader(clean_database_url: str) -> Iterator[Engine]:
    """The dashboard's own read-only pool on the same database."""
    engine = connect(clean_database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def start() -> datetime:
    """A whole minute, a quarter of an hour ago."""
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=15)


@pytest.fixture
def written(writer: Engine) -> list[Exchange]:
    """300 calls since `start`."""
    made = traffic.hour(time.time(), 300, length_s=800)
    traffic.write(writer, made)
    return made


@pytest.fixture(scope="module")
def running_browser() -> Iterator[Browser]:
    """Ended with its module: while Playwright runs, its event loop makes `asyncio.run` impossible here."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine (looked for chromium, chromium-browser, google-chrome)")
    with chromium(executable) as running:
        yield running


@pytest.fixture
def browser(running_browser: Browser) -> Iterator[Browser]:
    """The browser; what a test opens is closed after it, as a page left open would go on refreshing."""
    before = list(running_browser.contexts)
    yield running_browser
    for context in running_browser.contexts:
        if context not in before:
            context.close()


@pytest.fixture
def page_url(clean_database_url: str, tmp_path: Path) -> Iterator[str]:
    """The dashboard on the test's database, served for real."""
    with dashboard(clean_database_url, tmp_path / "dashboard.log", tmp_path) as url:
        yield url
