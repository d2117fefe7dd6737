"""The served page in a real browser, on a real Postgres: what it says equals what the test computes for itself."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect
from sqlalchemy import Connection, Engine, make_url, text

from gateway.ledger.database import create_engine
from gateway.ledger.records import Exchange
from tests.dashboard import traffic
from tests.dashboard.screenshot import LIMIT_BYTES, open_page, shoot, wait_until_drawn
from tests.dashboard.server import dashboard

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

pytestmark = pytest.mark.browser
PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


def make_busy(engine: Engine) -> list[Exchange]:
    traffic.configure(engine)
    made = traffic.hour(time.time(), 400, length_s=600)
    traffic.write(engine, made)
    traffic.finish_tasks(engine, made)
    return made


@dataclass(frozen=True)
class Busy:
    """A served dashboard with traffic that no test changes."""

    url: str
    written: list[Exchange]


@pytest.fixture(scope="module")
def busy(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Busy]:
    database_url, folder = postgres.create(), tmp_path_factory.mktemp("dashboard")
    engine = create_engine(database_url)
    written = make_busy(engine)
    engine.dispose()
    with dashboard(database_url, folder / "dashboard.log", folder) as url:
        yield Busy(url, written)
    postgres.drop(database_url)


@pytest.fixture
def written(busy: Busy) -> list[Exchange]:
    return busy.written


@pytest.fixture(scope="module")
def looked_at(running_browser: Browser, busy: Busy) -> Iterator[Page]:
    """The overview with traffic, drawn once, for tests that leave it as it is."""
    page = open_page(running_browser, f"{busy.url}/?live=false")
    wait_until_drawn(page)
    yield page
    page.context.close()


@pytest.fixture
def page(browser: Browser, busy: Busy) -> Page:
    """The same, live, for a test that goes on from there."""
    page = open_page(browser, busy.url)
    wait_until_drawn(page)
    return page


@pytest.fixture
def own_page(browser: Browser, page_url: str, writer: Engine) -> Page:
    """The same on a database of the test's own."""
    make_busy(writer)
    page = open_page(browser, page_url)
    wait_until_drawn(page)
    return page


def read(locator: Locator) -> str:
    """What it says, once it says something: Streamlit empties a block for a moment when it draws it again."""
    expect(locator).to_have_text([re.compile(r"\S")])
    said = " ".join(locator.all_inner_texts())
    return said if said.strip() else read(locator)


def wait_for_words(locator: Locator, *words: str) -> None:
    """Until it says all of them, and there is one of it: where Streamlit draws a page anew, what stood there
    before may stand beside it for a moment."""
    for said in words:
        expect(locator).to_contain_text([said])


def cells(page: Page, table: str) -> list[list[str]]:
    """The words of a table's body, row by row, of one moment."""
    expect(page.locator(f'table[data-key="{table}"] tbody tr').first).to_be_visible()
    rows: list[list[str]] = page.evaluate(
        "table => [...document.querySelectorAll(`table[data-key='${table}'] tbody tr`)]"
        ".map(row => [...row.cells].map(cell => cell.innerText))",
        table,
    )
    return rows or cells(page, table)


def card(page: Page, key: str) -> str:
    return read(page.locator(f'.sg-card[data-key="{key}"]'))


def first_number(words: str) -> float:
    found = re.search(r"[\d.,]*\d", words)
    assert found, words
    return float(found.group().replace(",", ""))


def value(page: Page, key: str) -> float:
    return first_number(read(page.locator(f'.sg-card[data-key="{key}"] .sg-value')))


def assert_no_exception(page: Page) -> None:
    assert page.locator(".stException").count() == 0


def test_the_figures_are_those_of_the_exchanges(looked_at: Page, written: list[Exchange]) -> None:
    ttfts = [made.ttft_s for made in written if made.ttft_s is not None]
    whole = [made.total_s for made in written if made.status == 200]
    late = sum(made.timed_out is not None for made in written)
    cost = sum(float(made.record()["exchange"]["cost_usd"]) for made in written)
    assert value(looked_at, "calls") == len(written)
    failed = sum(made.status >= 400 for made in written)
    assert value(looked_at, "error_rate") == pytest.approx(100 * failed / len(written), abs=0.05)
    p95 = np.percentile(ttfts, 95, method="inverted_cdf")
    assert value(looked_at, "ttft") == pytest.approx(p95, abs=0.005 + 0.01 * p95)
    assert ("within 1.5 s" if p95 < 1.5 else "over 1.5 s") in card(looked_at, "ttft")
    p95 = np.percentile(whole, 95, method="inverted_cdf")
    assert value(looked_at, "completion_p95") == pytest.approx(p95, rel=0.01, abs=0.05)
    assert value(looked_at, "timeout_rate") == pytest.approx(100 * late / len(written), abs=0.05)
    assert ("within 0.5 %" if late / len(written) <= 0.005 else "over 0.5 %") in card(
        looked_at, "timeout_rate"
    )
    assert value(looked_at, "cost") == pytest.approx(cost, rel=0.005)
    assert_no_exception(looked_at)


def test_cost_per_completed_task_equals_all_costs_by_tasks_done(
    looked_at: Page, written: list[Exchange]
) -> None:
    names = {made.task_id for made in written if made.task_id}
    tasks = len(names) + sum(
        made.task_id is None for made in written
    )  # one that names none is a task of its own
    done = sum(number % 6 in (0, 1, 3, 5) for number in range(len(names)))
    cost = sum(float(made.record()["exchange"]["cost_usd"]) for made in written)
    assert value(looked_at, "cost_per_task") == pytest.approx(cost / done, rel=0.005)
    assert f"{done} of {tasks} tasks done" in card(looked_at, "cost_per_task")
    assert [row[0] for row in cells(looked_at, "by-workflow")] == ["(no workflow)", "triage"]


def test_the_tables_list_every_target_and_shape_with_its_samples(
    looked_at: Page, written: list[Exchange]
) -> None:
    rows = {row[0]: row for row in cells(looked_at, "by-target")}
    for name in traffic.MODELS:
        mine = [made for made in written if made.attempts[-1].target == name]
        ttfts = [made.ttft_s for made in mine if made.ttft_s is not None]
        assert first_number(rows[name][1]) == len(mine)
        assert first_number(rows[name][6]) == len(ttfts)
        p95 = np.percentile(ttfts, 95, method="inverted_cdf")
        assert first_number(rows[name][5]) == pytest.approx(p95, abs=0.005 + 0.01 * p95)
        assert ("*" in rows[name][5]) == (len(ttfts) < 20)
    assert {row[0] for row in cells(looked_at, "by-shape")} == set(traffic.PLACES)


def test_the_limits_are_drawn(looked_at: Page) -> None:
    for key, label in (("ttft", "1.5 s"), ("timeouts", "0.5 %")):
        chart = looked_at.locator(f".st-key-chart_{key}")
        expect(chart.locator(".shapelayer path")).to_have_count(1)
        # A list waits until there is one: at each refresh the old chart stands beside the new for a moment.
        expect(chart.locator(".annotation-text")).to_have_text([label])


def test_the_list_says_why_and_leads_to_the_whole_decision(page: Page) -> None:
    row = page.locator('table[data-key="newest"] tbody tr').first
    wait_for_words(row, "has the lowest predicted time to first token")
    row.locator("a").click()
    wait_for_words(page.locator(".sg-sentence"), "0.31 s against 0.71 s")
    wait_for_words(page.locator('table[data-key="rejections"]'), "shedding after failures")
    expect(page.locator('table[data-key="candidates"] tbody tr')).to_have_count(2)
    expect(page.locator('table[data-key="attempts"] tbody tr').first).to_be_visible()
    assert_no_exception(page)
    page.get_by_role("link", name="Overview").click()
    page.wait_for_selector(".sg-cards", timeout=PATIENCE_MS)


def test_every_attempt_of_a_rescued_call_is_shown(browser: Browser, busy: Busy) -> None:
    rescued = next(made for made in busy.written if len(made.attempts) > 1)
    page = open_page(browser, f"{busy.url}/exchange?id={rescued.request_id}")
    rows = page.locator('table[data-key="attempts"] tbody tr')
    expect(rows).to_have_count(2)
    wait_for_words(rows.nth(0), "timeout first token", "no first token in 3 s")
    wait_for_words(rows.nth(1), "ok")
    assert_no_exception(page)


def test_an_exchange_is_found_by_typing_its_id(page: Page, written: list[Exchange]) -> None:
    box = page.get_by_placeholder("req_… from X-Request-Id")
    box.fill(written[-1].request_id)
    box.press("Enter")
    expect(page.locator(".sg-heading code").first).to_have_text(written[-1].request_id)
    expect(page.locator(".sg-sentence").first).to_be_visible()


def test_a_new_exchange_appears_without_a_reload(own_page: Page, writer: Engine) -> None:
    own_page.evaluate("window.neverReloaded = true")
    made = traffic.exchange(time.time())
    assert isinstance(made.decision, dict)
    made.decision["reason"] = "chosen because this test says so"
    traffic.write(writer, [made])
    newest = own_page.locator('table[data-key="newest"] tbody tr').first
    wait_for_words(newest, "chosen because this test says so")
    expect(own_page.locator('.sg-card[data-key="calls"] .sg-value')).to_have_text(["401"])
    assert own_page.evaluate("window.neverReloaded") is True
    assert_no_exception(own_page)


def test_a_refused_policy_is_shown_with_file_line_and_key(own_page: Page, writer: Engine) -> None:
    assert own_page.get_by_role("alert").count() == 0
    traffic.publish(writer, traffic.POLICY_ERROR)
    box = own_page.get_by_role("alert")
    wait_for_words(
        box, "policy.yaml:3: shapes.short_chat.objective", "policy.yaml:7: shapes.short_chat.fallback[0]"
    )
    wait_for_words(own_page.locator(".st-key-panel_policy"), "active: 9f1c2e7ab04d")
    traffic.publish(writer, None)
    expect(box).to_have_count(0)


def test_disabled_targets_and_engines_are_listed(looked_at: Page) -> None:
    wait_for_words(looked_at.locator('table[data-key="targets"]'), "GPU_POOL_KEY is not set")
    engine = looked_at.locator('table[data-key="engines"] tbody tr')
    wait_for_words(engine, "3 of 16", "42.0 %", "118", "2.37")


def test_a_shape_and_a_longer_span_can_be_chosen(page: Page, written: list[Exchange]) -> None:
    page.get_by_role("button", name="24 h").or_(page.get_by_role("radio", name="24 h")).first.click()
    page.locator(".st-key-shape").get_by_role("combobox").click()
    page.get_by_role("option", name="short_chat").click()
    chats = sum(made.shape == "short_chat" for made in written)
    expect(page.locator('.sg-card[data-key="calls"] .sg-value')).to_have_text([str(chats)])
    assert "span=24" in page.url
    assert "shape=short_chat" in page.url
    assert_no_exception(page)


def test_an_unknown_cost_is_said_and_is_not_zero(browser: Browser, page_url: str, writer: Engine) -> None:
    traffic.write(writer, [traffic.exchange(time.time() - 5, cost_nusd=None)])
    page = open_page(browser, page_url)
    wait_until_drawn(page)
    wait_for_words(page.locator('.sg-card[data-key="cost"] .sg-value'), "unknown")
    assert "only 1 samples" in card(page, "ttft")
    assert not any("$0" in cell for row in cells(page, "newest") for cell in row)


def test_an_empty_ledger_shows_the_first_call_to_make(
    browser: Browser, page_url: str, writer: Engine
) -> None:
    page = open_page(browser, page_url)
    wait_for_words(page.locator(".sg-box-info"), "No calls yet")
    code = page.locator(".stCode").first
    wait_for_words(code, "curl", "/v1/chat/completions")
    assert_no_exception(page)
    traffic.write(writer, [traffic.exchange(time.time())])
    page.wait_for_selector(".sg-cards", timeout=PATIENCE_MS)


def test_a_quiet_span_says_when_the_last_call_was(browser: Browser, page_url: str, writer: Engine) -> None:
    traffic.write(writer, [traffic.exchange(time.time() - 7200)])
    page = open_page(browser, page_url)
    wait_for_words(page.locator(".sg-box-info"), "No calls in the last 15 min", "2 h ago")


@pytest.fixture
def administrator(clean_database_url: str) -> Iterator[Connection]:
    """Of the server, beside the test's database."""
    url = make_url(clean_database_url).set(database="postgres")
    server = create_engine(url.render_as_string(hide_password=False))
    with server.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        yield connection
    server.dispose()


def test_a_database_that_goes_away_is_said_and_recovered_from(
    own_page: Page, clean_database_url: str, administrator: Connection
) -> None:
    name = make_url(clean_database_url).database
    cut = text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
    administrator.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
    administrator.execute(cut, {"name": name})
    wait_for_words(own_page.get_by_role("alert"), "The ledger's database does not answer")
    assert_no_exception(own_page)
    administrator.execute(text(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
    own_page.wait_for_selector(".sg-cards", timeout=PATIENCE_MS)
    expect(own_page.get_by_role("alert")).to_have_count(0)
    assert_no_exception(own_page)


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (800, True)], ids=["light", "dark"])
def test_the_page_fits_its_width_in_both_themes(
    browser: Browser, busy: Busy, tmp_path: Path, width: int, dark: bool
) -> None:
    page = open_page(browser, busy.url, width=width, dark=dark)
    wait_until_drawn(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for figure in page.locator(".sg-value").all():
        assert figure.evaluate("it => it.scrollWidth <= it.clientWidth + 1"), figure.inner_text()
    look = "getComputedStyle(document.querySelector('.stApp'))"
    background, colour = page.evaluate(f"[{look}.backgroundColor, {look}.color]")
    light, dim = (colour, background) if dark else (background, colour)
    assert brightness(light) > 200 > 60 > brightness(dim)
    assert shoot(page, tmp_path / "page.png") <= LIMIT_BYTES
    assert_no_exception(page)


def brightness(css: str) -> float:
    channels = [float(number) for number in re.findall(r"[\d.]+", css)[:3]]
    return sum(channels) / 3
