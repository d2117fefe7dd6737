"""Nobody but the gateway uses an engine that others can reach."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from engine.errors import StartError
from engine.http.door import KEY_VARIABLE, behind_door, key_for

KEY = "a-key-of-an-engine"
PATHS = ("/v1/chat/completions", "/v1/models", "/state", "/health", "/metrics")


def statuses(host: str, environment: dict[str, str], **headers: str) -> dict[str, int]:
    async def ask() -> dict[str, int]:
        app = Starlette(routes=[Route(path, lambda _: PlainTextResponse("")) for path in PATHS])
        transport = httpx.ASGITransport(behind_door(app, key_for(host, environment)))
        async with httpx.AsyncClient(transport=transport, base_url="http://engine") as client:
            return {path: (await client.get(path, headers=headers)).status_code for path in PATHS}

    return asyncio.run(ask())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_who_is_on_this_machine_needs_no_key(host: str) -> None:
    assert set(statuses(host, {}).values()) == {200}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "engine", "::ffff:10.0.0.1"])
def test_an_address_that_others_reach_needs_a_key(host: str) -> None:
    with pytest.raises(StartError, match=KEY_VARIABLE):
        key_for(host, {})
    assert statuses(host, {KEY_VARIABLE: KEY}, authorization=f"Bearer {KEY}") == dict.fromkeys(PATHS, 200)


def test_a_key_that_could_be_guessed_is_none() -> None:
    with pytest.raises(StartError, match="at least 16"):
        key_for("127.0.0.1", {KEY_VARIABLE: "short"})


@pytest.mark.parametrize("given", [{}, {"authorization": "Bearer"}, {"authorization": f"Bearer {KEY}x"}])
def test_without_the_key_only_checks_and_scrapers_come_in(given: dict[str, str]) -> None:
    seen = statuses("127.0.0.1", {KEY_VARIABLE: KEY}, **given)
    assert seen == {path: 200 if path in ("/health", "/metrics") else 401 for path in PATHS}
