"""A key's limits as its holder meets them: real HTTP, keys made through the admin API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import sqlalchemy

from gateway.ledger import tables
from gateway.ledger.database import create_engine
from tests.fakes import GOOD_BODY, body
from tests.gateway.conftest import HELLO, Gateway, Run, eventually

Prepare = Callable[..., Run]


async def caller(gateway: Gateway, **terms: Any) -> dict[str, str]:
    """The headers of a new key that the gateway knows of."""
    wanted, given = {"name": "app", **terms}, gateway.headers
    async with gateway.session.post(f"{gateway.url}/admin/keys", json=wanted, headers=given) as response:
        made = await response.json()
    headers = {"Authorization": f"Bearer {made['key']}"}
    for _ in range(100):
        if (await gateway.get("/v1/models", **headers))[0] == 200:
            return headers
        await asyncio.sleep(0.05)
    raise AssertionError("the key never came into force")


def refusal(status: int, raw: bytes) -> tuple[int, str, str]:
    error = orjson.loads(raw)["error"]
    return status, error["type"], error["code"]


def test_calls_of_a_minute(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        app = await caller(gateway, rpm=2)
        left = [(await gateway.post(HELLO, **app))[1]["x-ratelimit-remaining-requests"] for _ in range(2)]
        assert left == ["1", "0"]
        status, headers, raw = await gateway.post(HELLO, **app)
        assert refusal(status, raw) == (429, "requests", "rate_limit_exceeded")
        assert 1 <= int(headers["retry-after"]) <= 30
        assert headers["x-ratelimit-limit-requests"] == "2"
        assert (await gateway.post(HELLO))[0] == 200  # others are not affected

    with_gateway()(test)


def test_tokens_of_a_minute_are_reserved_and_settled(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        app = await caller(gateway, tpm=1000)
        for _ in range(3):  # each may take almost all, and takes little
            status, headers, _ = await gateway.post({**HELLO, "max_tokens": 900, "stream": True}, **app)
            assert status == 200
            assert int(headers["x-ratelimit-remaining-tokens"]) < 100
        status, _, raw = await gateway.post({**HELLO, "max_tokens": 2000}, **app)
        assert refusal(status, raw) == (429, "tokens", "rate_limit_exceeded")

    with_gateway()(test)


def test_calls_at_once(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        app = await caller(gateway, parallel=1)
        gateway.fakes["a"].script = [body(GOOD_BODY, after_s=1.0)]
        first = asyncio.create_task(gateway.post(HELLO, **app))
        await eventually(lambda: len(gateway.fakes["a"].calls) == 1)
        status, _, raw = await gateway.post(HELLO, **app)
        assert refusal(status, raw) == (429, "requests", "rate_limit_exceeded")
        assert (await first)[0] == 200
        assert (await gateway.post(HELLO, **app))[0] == 200

    with_gateway()(test)


def test_models(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        app = await caller(gateway, allowed_models=["gpt-*"])
        assert (await gateway.post({**HELLO, "model": "gpt-4o"}, **app))[0] == 200
        status, _, raw = await gateway.post(HELLO, **app)
        assert refusal(status, raw) == (403, "invalid_request_error", "model_not_found")
        assert len(gateway.fakes["a"].calls) == 1

    with_gateway()(test)


def test_a_budget_that_is_spent(with_gateway: Prepare, clean_database_url: str) -> None:
    async def test(gateway: Gateway) -> None:
        await asyncio.to_thread(spend, clean_database_url)
        app = await caller(gateway, daily_usd=0.25)
        status, headers, raw = await gateway.post(HELLO, **app)
        assert refusal(status, raw) == (429, "insufficient_quota", "insufficient_quota")
        assert headers["x-should-retry"] == "false"
        assert 0 < int(headers["retry-after"]) <= 86_400

    with_gateway()(test)


def spend(url: str) -> None:
    """A quarter of a dollar, today."""
    today = {"day": datetime.now(UTC).date(), "caller": "app", "cost_usd": 0.25}
    engine = create_engine(url)
    with engine.begin() as connection:
        values = today | {"calls": 1, "tokens": 1, "attempts_of_unknown_cost": 0}
        connection.execute(sqlalchemy.insert(tables.quota_usage).values(values))
    engine.dispose()
