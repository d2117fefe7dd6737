"""The page of policies in a real browser, beside a real gateway: what is edited there is in force there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from dashboard.policies import differences, tables
from gateway.config.load import policy_hash
from gateway.ledger.records import Exchange
from tests.dashboard.gateway import ADMIN_KEY, POLICY, TRUTHS, recorded_calls, served_gateway
from tests.dashboard.screenshot import open_page
from tests.dashboard.server import dashboard
from tests.dashboard.test_page import brightness, card, cells, first_number, read, value, wait_for_words

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

WRONG = POLICY.replace("objective: ttft", "objective: tfft").replace("retries:", "retrys:")
MORE_ENGINE = POLICY.replace("weight: 0.4", "weight: 0.9")
ONLY_ENGINE = POLICY.replace("      - deepseek-flash\n", "").replace(
    "{target: engine, weight: 0.4}", "engine"
)


@dataclass
class Desk:
    """A gateway with recorded calls, the dashboard beside it, and a page of it where an admin has signed in."""

    gateway: str
    dashboard: str
    recorded: list[Exchange]
    page: Page
    complaints: list[str] = field(default_factory=list)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The gateway itself, over HTTP."""
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        answer = httpx.request(
            method, f"{self.gateway}/admin/policy{path}", json=body, headers=headers, trust_env=False
        )
        answer.raise_for_status()
        return answer.json()

    @property
    def editor(self) -> Locator:
        return self.page.get_by_label("policy.yaml")

    def write(self, text: str, state: str) -> None:
        """Types a text, until the page says so of it."""
        in_force = self.ask("GET", "")["yaml"]
        self.editor.fill(text)
        draft = self.page.locator('.sg-card[data-key="draft"]')
        changes = differences.counted(differences.differences(in_force, text))
        wait_for_words(draft, changes, state)

    def click(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def choose(self, key: str, option: str) -> None:
        """From a list, which closes again when the page is still being scrolled or drawn."""
        wanted = self.page.get_by_role("option", name=option).first
        for _ in range(20):
            self.page.locator(f".st-key-{key}").get_by_role("combobox").press("ArrowDown")
            self.page.wait_for_timeout(500)
            if wanted.count():
                wanted.click()
                return
        raise AssertionError(f"the list does not offer {option}")

    def versions(self, newest: str) -> list[list[str]]:
        """The table of versions, once that one is on top of it."""
        first = self.page.locator('table[data-key="versions"] tbody tr').first
        expect(first).to_contain_text(newest)
        return cells(self.page, "versions")

    def save(self, text: str) -> None:
        self.write(text, "valid")
        self.click("Save as a new version")
        expect(self.page.get_by_text(f"Version {policy_hash(text)} is saved").first).to_be_visible()


@pytest.fixture(scope="module")
def served(
    postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, str, list[Exchange]]]:
    database_url, folder = postgres.create(), tmp_path_factory.mktemp("policies")
    recorded = recorded_calls(database_url, tmp_path_factory.mktemp("recorded"))
    with (
        served_gateway(database_url, folder) as gateway,
        dashboard(database_url, folder / "dashboard.log", folder, SPARKGATE_URL=gateway) as url,
    ):
        yield gateway, url, recorded
    postgres.drop(database_url)


@pytest.fixture
def desk(browser: Browser, served: tuple[str, str, list[Exchange]]) -> Desk:
    """At the policy that the gateway began with, whatever tests before did."""
    gateway, url, recorded = served
    page = open_page(browser, url, width=1280)
    made = Desk(gateway, url, recorded, page)
    if made.ask("GET", "")["yaml"] != POLICY:
        made.ask("PUT", "", {"yaml": POLICY})
    page.on("pageerror", lambda error: made.complaints.append(str(error)))
    page.on("console", lambda it: made.complaints.append(it.text) if it.type == "error" else None)
    page.get_by_role("link", name="Policies", exact=True).click()
    expect(page.get_by_text("Read only").first).to_be_visible()
    page.get_by_role("link", name="sign in", exact=True).click()
    page.get_by_label("API key").fill(ADMIN_KEY)
    page.get_by_role("button", name="Sign in").click()
    expect(made.editor).to_have_value(POLICY)
    made.complaints.clear()  # opened by its own address, a page asks for what is not there: Streamlit's way
    return made


@pytest.mark.browser
def test_a_policy_is_corrected_compared_saved_and_rolled_back(desk: Desk) -> None:
    page, before = desk.page, desk.ask("GET", "")["hash"]
    desk.write(WRONG, "2 mistakes")
    expected = desk.ask("POST", "/check", {"yaml": WRONG})["mistakes"]
    found = cells(page, "mistakes")
    assert [int(row[0]) for row in found] == [it["line"] for it in expected]
    assert all(
        it["key"] in row[1] and it["message"] in row[1] for row, it in zip(found, expected, strict=True)
    )
    assert [row[1].rpartition("did you mean ")[2] for row in found] == ["'ttft'?", "'retries'?"]
    wrong = page.locator(".numbers .wrong")
    assert [int(number) for number in wrong.all_inner_texts()] == [it["line"] for it in expected]
    expect(page.get_by_role("button", name="Save as a new version")).to_be_disabled()

    desk.write(MORE_ENGINE, "valid")
    expect(wrong).to_have_count(0)
    panel = page.locator(".st-key-panel_policy_editor")
    expect(panel.locator(".sg-removed")).to_have_text(["-      - {target: engine, weight: 0.4}"])
    expect(panel.locator(".sg-added")).to_have_text(["+      - {target: engine, weight: 0.9}"])
    assert desk.ask("GET", "")["hash"] == before  # nothing was published by looking
    desk.save(MORE_ENGINE)
    now = desk.ask("GET", "")
    assert (now["yaml"], now["source"]) == (MORE_ENGINE, "api:suite")
    assert value_of(page, "in_force") == now["hash"]
    newest, older = desk.versions(now["hash"])[:2]
    assert newest[1:4] == [now["hash"], "in force", "suite"]
    assert older[1:3] == [before, "earlier"]

    desk.choose("policy_version", before)
    expect(page.locator(".st-key-panel_policy_versions .sg-added")).to_have_text(
        ["+      - {target: engine, weight: 0.4}"]
    )
    desk.click("Roll back to it …")
    assert desk.ask("GET", "")["hash"] == now["hash"]  # not before it was confirmed
    desk.click("Yes, roll back")
    expect(page.get_by_text(f"Rolled back to {before}").first).to_be_visible()
    assert desk.ask("GET", "")["yaml"] == POLICY
    expect(desk.editor).to_have_value(POLICY)
    assert desk.versions(before)[0][1:4] == [before, "in force", "suite, rolled back"]
    assert_sound(desk)


def value_of(page: Page, key: str) -> str:
    return read(page.locator(f'.sg-card[data-key="{key}"] .sg-value'))


@pytest.mark.browser
def test_what_somebody_else_published_meanwhile_is_shown_and_not_written_over(desk: Desk) -> None:
    page = desk.page
    desk.write(MORE_ENGINE, "valid")
    theirs = desk.ask("PUT", "", {"yaml": ONLY_ENGINE})["hash"]
    expect(page.get_by_text("Another version was published meanwhile").first).to_be_visible()
    expect(page.get_by_role("button", name="Save as a new version")).to_be_disabled()
    expect(desk.editor).to_have_value(MORE_ENGINE)
    assert desk.ask("GET", "")["hash"] == theirs
    desk.click("Compare with the new version")
    expect(page.locator(".st-key-panel_policy_editor .sg-added")).to_have_text(
        ["+      - deepseek-flash", "+      - {target: engine, weight: 0.9}"]
    )
    desk.save(MORE_ENGINE)
    assert desk.ask("GET", "")["yaml"] == MORE_ENGINE
    assert desk.complaints == []


@pytest.mark.browser
def test_a_page_left_open_saves_nothing_once_its_reader_has_signed_out(desk: Desk) -> None:
    desk.write(MORE_ENGINE, "valid")
    desk.page.context.request.get(f"{desk.dashboard}/sign-out")  # as in another tab
    desk.click("Save as a new version")
    expect(desk.page.get_by_text("Read only").first).to_be_visible()
    assert desk.ask("GET", "")["yaml"] == POLICY


@pytest.mark.browser
def test_a_request_is_explained_by_the_text_and_by_what_is_in_force(desk: Desk) -> None:
    page = desk.page
    desk.write(ONLY_ENGINE, "valid")
    request = {"model": "auto", "messages": [{"role": "user", "content": "Where is my order?"}]}
    headers = {"X-Task-Shape": "support"}
    page.get_by_label("Request body").fill(json.dumps(request))
    page.get_by_label("Headers").fill("X-Task-Shape: support")
    page.get_by_label("Headers").press("Enter")
    for by, policy, targets in (
        ("your text", ONLY_ENGINE, {"engine"}),
        ("the version in force", None, set(TRUTHS)),
    ):
        page.get_by_text(by, exact=True).click()
        desk.click("Explain")
        body = {"request": request, "headers": headers, "policy": policy}
        decision = desk.ask("POST", "/explain", body)
        panel = page.locator(".st-key-panel_policy_explain")
        wait_for_words(panel.locator(".sg-facts"), decision["policy_hash"], "support (declared)")
        wait_for_words(panel.locator(".sg-sentence"), decision["reason"].partition(",")[0])
        expect(page.locator('table[data-key="candidates"] tbody tr')).to_have_count(len(targets))
        rows = cells(page, "candidates")
        assert [row[0].split()[-1] for row in rows] == [it["target"] for it in decision["candidates"]]
        assert {row[0].split()[-1] for row in rows} == targets
        scores = [it["score"] for it in decision["candidates"]]
        assert [first_number(row[2]) for row in rows] == pytest.approx(scores, rel=0.1)  # what is known ages
    page.get_by_label("Request body").fill("{")
    desk.click("Explain")
    expect(page.get_by_text("The body is not JSON").first).to_be_visible()
    page.get_by_label("Request body").fill(json.dumps(request | {"user": "\ud83d", "top_p": float("nan")}))
    desk.click("Explain")
    expect(page.get_by_text("surrogates not allowed").first).to_be_visible()
    assert_sound(desk)


@pytest.mark.browser
def test_a_replay_says_what_would_have_gone_where_and_how_it_would_have_done(desk: Desk) -> None:
    page = desk.page
    desk.write(ONLY_ENGINE, "valid")
    desk.click("Replay")
    page.wait_for_selector('table[data-key="moves"]', timeout=60_000)
    rows = cells(page, "moves")
    support = [it for it in desk.recorded if it.shape == "support"]
    of_flash = sum(it.attempts[0].target == "deepseek-flash" for it in support)
    moved = [row for row in rows if row[:3] == ["support", "deepseek-flash", "engine"]]
    assert [first_number(row[3]) for row in moved] == [of_flash]
    assert sum(first_number(row[3]) for row in rows) == value(page, "replayed") == len(desk.recorded)
    assert f"{of_flash} calls" in card(page, "moved")

    desk.choose("policy_replayed_shape", "support")
    found = desk.ask("POST", "/replay", {"yaml": ONLY_ENGINE, "since_s": 86_400})
    (report,) = [it for it in found["shapes"] if it["shape"] == "support"]
    figures = [name for name in tables.FIGURES if report["old"][name] is not None]
    shown_p95 = tables.estimate("completion_p95_s", report["old"]["completion_p95_s"])
    wait_for_words(page.locator('table[data-key="outcomes"]'), shown_p95)
    shown = cells(page, "outcomes")
    for row, name in zip(shown, figures, strict=True):
        assert row[:3] == [
            tables.FIGURES[name],
            *(tables.estimate(name, report[it][name]) for it in ("old", "new")),
        ]
    totals = sorted(it.total_s for it in support)
    p95 = next(row for row in shown if row[0] == "Completion p95")
    assert first_number(p95[1]) == pytest.approx(totals[-(-95 * len(totals) // 100) - 1], abs=0.005)
    assert p95[3] == "✓ less"  # the engine is that much faster
    with page.expect_download() as download:
        page.locator(".st-key-csv_policy_replay button").click()
    assert "support,recorded,completion_p95_s," in Path(download.value.path()).read_text()
    assert_sound(desk)


def assert_sound(desk: Desk) -> None:
    """No complaint, no exception; fits 1280 and 400, light and dark."""
    page = desk.page
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function(f"document.documentElement.scrollWidth <= {width}")
    look = "getComputedStyle(document.querySelector('.stApp'))"
    for scheme, is_dark in (("dark", True), ("light", False)):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        page.wait_for_function(f"({look}.colorScheme.includes('dark')) === {str(is_dark).lower()}")
        text = brightness(desk.editor.evaluate("it => getComputedStyle(it).color"))
        assert text > 200 if is_dark else text < 60
    assert page.locator(".stException").count() == 0
    assert desk.complaints == []


def test_differences_are_counted_and_shown_line_by_line() -> None:
    lines = differences.differences("a: 1\nb: 2\n", "a: 1\nb: <3>\nc: 4\n")
    assert differences.counted(lines) == "+2 −1"
    assert '<div class="sg-added">+b: &lt;3&gt;</div>' in differences.drawn(lines).text
    assert differences.differences("same\n", "same\n") == []


@pytest.mark.parametrize(
    ("source", "who"),
    [
        ("file:web-1:/etc/sparkgate/policy.yaml", "policy.yaml on web-1"),
        ("file:web-1:default", "default on web-1"),
        ("api:ann", "ann"),
        ("rollback:ann", "ann, rolled back"),
        ("rollback", "command line, rolled back"),
        ("cli", "command line"),
        ("something else", "something else"),
    ],
)
def test_who_published_is_said_in_words(source: str, who: str) -> None:
    assert tables.who(source) == who


def test_a_difference_is_told_only_where_intervals_are_apart() -> None:
    def report(low: float | None, high: float | None) -> dict[str, Any]:
        new = dict.fromkeys(tables.FIGURES) | {
            "timeout_rate": {"value": 0.02, "low": low, "high": high, "n": 9}
        }
        old = dict.fromkeys(tables.FIGURES) | {
            "timeout_rate": {"value": 0.1, "low": 0.05, "high": 0.2, "n": 9}
        }
        return {"old": old, "new": new}

    assert "✓ less" in tables.outcomes(report(0.01, 0.04)).text
    assert "✕ more" in tables.outcomes(report(0.3, 0.4)).text
    assert "within chance" in tables.outcomes(report(0.01, 0.06)).text
    assert "within chance" in tables.outcomes(report(None, None)).text
