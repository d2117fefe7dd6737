"""The door of a served dashboard: who gets in, with what, and what a browser sees of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, expect
from starlette.applications import Starlette
from starlette.testclient import TestClient
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dashboard import sign_in
from dashboard.sessions import URL_VARIABLE, WRONG_KEYS
from gateway.callers.store import create_key
from gateway.ledger.database import create_async_engine
from tests.dashboard.server import dashboard

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

ADMIN, READER, APP = "sg-of-an-admin", "sg-of-a-reader", "sg-of-an-app"
DEEP = "/routing?span=1+h&live=false"


@dataclass(frozen=True)
class Served:
    """A dashboard at which everybody has to sign in, and where it logs."""

    url: str
    log: Path

    def post(self, key: str, wanted: str = "/") -> httpx.Response:
        return httpx.post(f"{self.url}/sign-in", data={"key": key, "next": wanted}, trust_env=False)

    def get(self, path: str, **headers: str) -> httpx.Response:
        given = {"accept": "text/html"} | headers
        return httpx.get(self.url + path, headers=given, trust_env=False)


async def _add_keys(database_url: str) -> None:
    database = create_async_engine(database_url)
    async with database.begin() as connection:
        await create_key(connection, "ann", "admin", ADMIN)
        await create_key(connection, "bob", "read", READER)
        await create_key(connection, "app", "call", APP)
    await database.dispose()


@pytest.fixture(scope="module")
def served(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    database_url, folder = postgres.create(), tmp_path_factory.mktemp("door")
    asyncio.run(_add_keys(database_url))
    with dashboard(database_url, folder / "log", folder, SPARKGATE_SIGN_IN="required") as url:
        yield Served(url, folder / "log")
    postgres.drop(database_url)


def test_nothing_is_shown_to_whoever_has_not_signed_in(served: Served) -> None:
    for path in ("/", DEEP, "/policies"):
        answer = served.get(path)
        where = urlsplit(answer.headers["location"])
        assert (answer.status_code, where.path) == (303, "/sign-in")
        assert parse_qs(where.query)["next"] == [path]
    for path in ("/_stcore/host-config", "/media/anything", "/_stcore/metrics"):
        assert served.get(path, accept="*/*").status_code == 401
    assert served.get("/", cookie=f"sparkgate_session_{urlsplit(served.url).port}=made-up").status_code == 303
    assert served.get("/_stcore/metrics", accept="*/*", host="a/sign-in?b=").status_code == 401
    assert served.get("/_stcore/health").status_code == 200  # what the supervisor asks
    with pytest.raises(InvalidStatus, match="403"):
        connect(served.url.replace("http", "ws") + "/_stcore/stream", proxy=None)


def test_a_key_opens_a_session_and_is_in_no_cookie_address_or_log(served: Served) -> None:
    answer = served.post(ADMIN, DEEP)
    assert (answer.status_code, answer.headers["location"]) == (303, DEEP)
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert ADMIN not in str(answer.headers) + served.log.read_text()
    inside = served.get("/", cookie=cookie.partition(";")[0])
    assert (inside.status_code, "sign-in" in inside.text) == (200, False)
    out = served.get("/sign-out", cookie=cookie.partition(";")[0])
    assert (out.status_code, out.headers["location"]) == (303, "/sign-in")
    assert served.get("/", cookie=cookie.partition(";")[0]).status_code == 303


@pytest.mark.parametrize("wanted", ["https://elsewhere.example/", "//elsewhere.example", "/\\elsewhere", ""])
def test_signing_in_leads_to_no_other_site(served: Served, wanted: str) -> None:
    assert served.post(READER, wanted).headers["location"] == "/"


def test_a_key_for_calls_is_refused_and_the_page_escapes_what_it_was_told(served: Served) -> None:
    answer = served.post(APP, '/"><script>')
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert "scope call" in answer.text
    assert "<script>" not in answer.text
    assert served.post("x" * 10_000).status_code == 413


def test_another_site_signs_nobody_in_or_out(served: Served) -> None:
    form = {"key": READER, "next": "/"}
    elsewhere = {"sec-fetch-site": "cross-site"}
    answer = httpx.post(f"{served.url}/sign-in", data=form, headers=elsewhere, trust_env=False)
    assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    cookie = served.post(READER).headers["set-cookie"].partition(";")[0]
    assert served.get("/sign-out", cookie=cookie, **elsewhere).headers["location"] == "/"
    assert served.get("/", cookie=cookie).status_code == 200
    served.get("/sign-out", cookie=cookie, **{"sec-fetch-site": "same-origin"})
    assert served.get("/", cookie=cookie).status_code == 303


def test_whoever_is_outside_is_not_told_where_the_database_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(URL_VARIABLE, "postgresql+psycopg://someone@127.0.0.1:1/somewhere")
    answer = TestClient(Starlette(routes=sign_in.ROUTES)).post("/sign-in", data={"key": "sg-any"})
    assert answer.status_code == 503
    assert "database does not answer" in answer.text
    assert not any(word in answer.text for word in ("127.0.0.1", "someone", "somewhere"))


def test_who_guesses_keys_has_to_wait(clean_database_url: str, tmp_path: Path) -> None:
    asyncio.run(_add_keys(clean_database_url))
    with dashboard(clean_database_url, tmp_path / "log", tmp_path, SPARKGATE_SIGN_IN="required") as url:
        own = Served(url, tmp_path / "log")
        assert [own.post("sg-guess").status_code for _ in range(WRONG_KEYS)] == [401] * WRONG_KEYS
        held_back = own.post(ADMIN)
        assert (held_back.status_code, 0 < int(held_back.headers["retry-after"]) <= 60) == (429, True)


@pytest.mark.browser
def test_a_reader_gets_to_the_page_of_the_link_and_out_again(browser: Browser, served: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    complaints: list[str] = []
    page.goto(served.url + DEEP)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.get_by_label("API key").fill("sg-wrong")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("unknown, expired or revoked")
    page.get_by_label("API key").fill(READER)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(served.url + DEEP)
    expect(page.get_by_text("No calls yet").first).to_be_visible(timeout=60_000)
    expect(page.locator(".sg-aside")).to_contain_text("bob")

    second = context.new_page()
    second.goto(f"{served.url}/benchmarks")
    expect(second.get_by_text("No benchmark of models").first).to_be_visible(timeout=60_000)
    page.get_by_role("link", name="Sign out").click()
    page.wait_for_url(f"{served.url}/sign-in")
    second.get_by_text("gateway", exact=True).first.click()  # a page left open shows nothing more
    expect(second.get_by_text("Your session has ended").first).to_be_visible(timeout=30_000)
    expect(second.get_by_text("No benchmark")).to_have_count(0)
    second.get_by_role("link", name="Sign in again").click()
    second.wait_for_url("**/sign-in?next=**benchmarks**")
    assert complaints == []
