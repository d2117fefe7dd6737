"""Every page in a real browser, reached as a reader does: it says what the test computes, wide and narrow, light
and dark, and nothing goes wrong on the way.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect

from gateway.ledger.database import create_engine
from gateway.ledger.records import Exchange
from tests.dashboard import traffic
from tests.dashboard.screenshot import open_page, wait_until_drawn
from tests.dashboard.server import dashboard
from tests.dashboard.test_page import brightness, card, cells, first_number, value, wait_for_words

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

pytestmark = pytest.mark.browser


@dataclass(frozen=True)
class Busy:
    """A served dashboard with traffic, engine samples and benchmark runs that no test changes."""

    url: str
    written: list[Exchange]


@dataclass
class Opened:
    """A page of the dashboard, and what its browser complained about."""

    page: Page
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def busy(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Busy]:
    database_url, folder = postgres.create(), tmp_path_factory.mktemp("pages")
    engine = create_engine(database_url)
    traffic.configure(engine)
    written = traffic.hour(time.time(), 600, length_s=2400)
    traffic.write(engine, written)
    traffic.finish_tasks(engine, written)
    traffic.history(engine)
    traffic.benchmark(engine)
    engine.dispose()
    with dashboard(database_url, folder / "dashboard.log", folder) as url:
        yield Busy(url, written)
    postgres.drop(database_url)


@pytest.fixture(scope="module")
def window(running_browser: Browser, busy: Busy) -> Iterator[Opened]:
    """One page for all tests, which start by going where they want; opened at the last hour."""
    page = open_page(running_browser, f"{busy.url}/?span=1+h&live=false", width=1280)
    made = Opened(page)
    page.on("pageerror", lambda error: made.complaints.append(str(error)))
    page.on("console", lambda it: made.complaints.append(it.text) if it.type == "error" else None)
    yield made
    page.context.close()


@pytest.fixture
def opened(window: Opened) -> Opened:
    """The window, 1280 pixels wide, without what it complained of before."""
    window.page.set_viewport_size({"width": 1280, "height": 900})
    window.complaints.clear()
    return window


def go(opened: Opened, name: str, drawn: str) -> Page:
    """To a page by its link, until this part of it is drawn."""
    page = opened.page
    page.get_by_role("link", name=name, exact=True).click()
    page.wait_for_selector(drawn, timeout=60_000)
    return page


def assert_sound(opened: Opened, charts: tuple[str, ...]) -> None:
    """No complaint, no exception; all charts drawn with titles on both axes; fits 1280 and 400, light and dark."""
    page = opened.page
    for key in charts:
        page.locator(f".st-key-chart_{key}").scroll_into_view_if_needed()
        for axis in ("xtitle", "ytitle"):
            expect(page.locator(f".st-key-chart_{key} .{axis}").first).not_to_be_empty()
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")
    look = "getComputedStyle(document.querySelector('.stApp'))"
    for scheme, is_dark in (("dark", True), ("light", False)):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.wait_for_function(f"({look}.colorScheme.includes('dark')) === {str(is_dark).lower()}")
        background, colour = page.evaluate(f"[{look}.backgroundColor, {look}.color]")
        bright, dim = (colour, background) if is_dark else (background, colour)
        assert brightness(bright) > 200 > 60 > brightness(dim)
    assert page.locator(".stException").count() == 0
    assert opened.complaints == []


def p95(values: list[float]) -> float:
    return float(np.percentile(values, 95, method="inverted_cdf"))


def test_latency(opened: Opened, busy: Busy) -> None:
    page = go(opened, "Latency", 'table[data-key="latency-by-size"]')
    rows = {(row[0], row[1]): row for row in cells(page, "latency-by-shape")}
    for key, row in rows.items():
        mine = [made for made in busy.written if (made.attempts[-1].target, made.shape) == key]
        ttfts = [made.ttft_s for made in mine if made.ttft_s is not None]
        assert first_number(row[5]) == len(ttfts)
        assert first_number(row[3]) == pytest.approx(p95(ttfts), abs=0.005 + 0.01 * p95(ttfts))
    assert "span=1" in page.url
    assert_sound(opened, ("latency_time", "latency_heat", "latency_distribution"))


def test_routing(opened: Opened, busy: Busy) -> None:
    page = go(opened, "Routing", 'table[data-key="ends"]')
    tries = [attempt for made in busy.written for attempt in made.attempts]
    assert value(page, "attempts") == len(tries)
    assert value(page, "hedges") == sum(it.result == "hedge_lost" for it in tries)
    assert value(page, "further") == len(tries) - len(busy.written)
    explored = sum(isinstance(made.decision, dict) and made.decision["explored"] for made in busy.written)
    assert f"{explored} of {len(busy.written)}" in card(page, "explored")
    assert sum(first_number(row[3]) for row in cells(page, "why")) == len(busy.written)
    assert_sound(opened, ("routing_shares", "routing_resting", "routing_ends"))
    page.set_viewport_size({"width": 1280, "height": 900})
    page.locator('table[data-key="newest"] tbody a').first.click()
    expect(page.locator('table[data-key="attempts"] tbody tr')).to_have_count(2)


def test_tasks_and_cost(opened: Opened, busy: Busy) -> None:
    page = go(opened, "Tasks and cost", 'table[data-key="lost"]')
    costs = {made.id: float(made.record()["exchange"]["cost_usd"]) for made in busy.written}
    assert value(page, "spent") == pytest.approx(sum(costs.values()), rel=0.005)
    names = sorted({made.task_id for made in busy.written if made.task_id})
    done, failed = ([name for n, name in enumerate(names) if n % 6 in ends] for ends in ((0, 1, 3, 5), (2,)))
    assert f"{len(done)} of {len(done) + len(failed)} ended tasks" in card(page, "completion_rate")
    lost = sum(costs[made.id] for made in busy.written if made.task_id in failed)
    assert value(page, "lost") == pytest.approx(lost, rel=0.005)
    assert [row[0] for row in cells(page, "sides")] == ["self-hosted", "upstream"]
    assert_sound(opened, ("costs_time", "costs_lost"))


def test_engine(opened: Opened, busy: Busy) -> None:
    page = go(opened, "Engine", 'table[data-key="concurrency"]')
    assert value(page, "accepted") == 2.37
    assert value(page, "waste") == 55.7
    ttfts = [made.ttft_s for made in busy.written if made.attempts[-1].target == traffic.ENGINE]
    bands = cells(page, "concurrency")
    assert {"1", "5-8"} <= {row[0] for row in bands}
    assert sum(first_number(row[6]) for row in bands) == pytest.approx(len(ttfts), abs=25)  # minutes sampled
    assert_sound(
        opened,
        (
            "engine_sequences",
            "engine_kv",
            "engine_accepted",
            "engine_waste",
            "engine_tails",
            "engine_steps",
            "engine_mtok",
        ),
    )


def test_benchmarks(opened: Opened, busy: Busy) -> None:
    page = go(opened, "Benchmarks", ".sg-box-info")
    page.get_by_role("button", name="gateway").or_(page.get_by_role("radio", name="gateway")).first.click()
    page.wait_for_selector('table[data-key="regressions"]')
    assert ["sparkgate", "Calls"] in [row[1:3] for row in cells(page, "regressions")]
    assert_sound(opened, ("benchmark_time",))
    page.set_viewport_size({"width": 1280, "height": 900})
    go(opened, "Overview", ".sg-cards")
    assert "span=1" in page.url  # kept on the way through a page that has no time span


def test_the_overview_advises_and_hands_out_its_rows(opened: Opened, busy: Busy) -> None:
    page = go(opened, "Overview", ".sg-advice")
    wait_until_drawn(page)
    wait_for_words(page.locator(".sg-advice"), "Slowest", "Costliest")
    with page.expect_download() as download:
        page.locator(".st-key-csv_calls button").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("at,target,shape,calls")
    assert sum(int(line.split(",")[3]) for line in lines[1:]) == len(busy.written)


def test_a_theme_in_the_url_beats_that_of_the_system(opened: Opened) -> None:
    page = go(opened, "Overview", ".sg-cards")
    page.get_by_role("link", name="Dark", exact=True).click()
    page.wait_for_url("**embed_options=dark_theme**")
    page.wait_for_selector(".sg-cards", timeout=60_000)
    assert (
        brightness(page.evaluate("getComputedStyle(document.querySelector('.stApp')).backgroundColor")) < 60
    )
    go(opened, "Routing", 'table[data-key="ends"]')
    assert "dark_theme" in page.url
    assert "span=1" in page.url
    page.get_by_role("link", name="System", exact=True).click()
    page.wait_for_url(lambda url: "dark_theme" not in url)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Latency", "No calls yet"),
        ("Routing", "No calls yet"),
        ("Tasks and cost", "No calls yet"),
        ("Engine", "No engine has been sampled"),
        ("Benchmarks", "No benchmark of models has been kept"),
    ],
)
def test_an_empty_ledger_says_what_to_do(empty_page: Page, name: str, says: str) -> None:
    empty_page.get_by_role("link", name=name, exact=True).click()
    expect(empty_page.get_by_text(says).first).to_be_visible(timeout=60_000)
    assert empty_page.locator(".stException").count() == 0


@pytest.fixture(scope="module")
def empty_page(
    running_browser: Browser, postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    database_url, folder = postgres.create(), tmp_path_factory.mktemp("empty")
    with dashboard(database_url, folder / "dashboard.log", folder) as url:
        page = open_page(running_browser, url)
        yield page
        page.context.close()
    postgres.drop(database_url)
