"""A link to one page of the dashboard: it opens there, and the browser has nothing to complain of."""

from __future__ import annotations

import time

import pytest
from playwright.sync_api import Browser
from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from dashboard.deep_links import Root
from tests.dashboard import traffic

HTML = {"accept": "text/html"}


@pytest.mark.browser
def test_a_deep_link_opens_without_complaints(browser: Browser, page_url: str, writer: Engine) -> None:
    traffic.write(writer, [traffic.exchange(time.time() - 60)])
    page = browser.new_page()
    complaints: list[str] = []
    page.on("console", lambda it: complaints.append(it.text) if it.type == "error" else None)
    page.on("response", lambda it: complaints.append(it.url) if it.status >= 400 else None)
    page.goto(f"{page_url}/latency?span=1+h&live=false")
    page.wait_for_selector('table[data-key="latency-by-shape"]', timeout=60_000)
    assert page.url.startswith(f"{page_url}/latency?")
    page.get_by_role("link", name="Routing", exact=True).click()
    page.wait_for_selector('table[data-key="why"]', timeout=60_000)
    assert page.url.startswith(f"{page_url}/routing?")
    assert complaints == []


def test_only_pages_are_told_of_the_root() -> None:
    async def page(_: Request) -> Response:
        return HTMLResponse("<html><head><title>ü</title></head></html>")

    async def words(_: Request) -> Response:
        return PlainTextResponse("<head>")

    app = Root(Starlette(routes=[Route("/page", page), Route("/words", words)]))
    client = TestClient(app)
    told = client.get("/page", headers=HTML)
    assert "<head><script>" in told.text
    assert int(told.headers["content-length"]) == len(told.content)
    assert "<script>" not in client.get("/page", headers={"accept": "*/*"}).text
    assert client.get("/words", headers=HTML).text == "<head>"
    assert client.get("/none", headers=HTML).status_code == 404
