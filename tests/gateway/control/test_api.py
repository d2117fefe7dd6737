"""The control plane over real HTTP and a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway.callers.store import create_key, revoke_key
from gateway.ledger import drain
from gateway.ledger.database import create_async_engine
from tests.fakes import error
from tests.gateway.conftest import HELLO, Gateway, Run, eventually

Prepare = Callable[..., Run]
OTHER = "sg-key-of-another-caller"
READER = "sg-key-that-only-reads"


async def drained(gateway: Gateway, database_url: str) -> None:
    """Everything answered so far is in Postgres."""
    await eventually(lambda: bool(list(gateway.data_dir.glob("spool/*.ready"))))
    arguments = ["--database-url", database_url, "--spool", str(gateway.data_dir / "spool"), "--once"]
    assert await asyncio.to_thread(drain.main, arguments) == 0


async def add_keys(database_url: str, **scopes: Any) -> None:
    database = create_async_engine(database_url)
    async with database.begin() as connection:
        for key, scope in scopes.items():
            await create_key(connection, key, scope, {"other": OTHER, "reader": READER}[key])
    await database.dispose()


def test_an_exchange_is_its_callers_and_the_admins(with_gateway: Prepare, clean_database_url: str) -> None:
    async def test(gateway: Gateway) -> None:
        await add_keys(clean_database_url, other="call")
        theirs = {"Authorization": f"Bearer {OTHER}"}
        await eventually_status(gateway, "/v1/models", 200, **theirs)
        gateway.fakes["a"].script = [error(500)]
        _, mine, _ = await gateway.post(HELLO)
        _, other, _ = await gateway.post(HELLO, **theirs)
        await drained(gateway, clean_database_url)
        status, shown = await gateway.get(f"/v1/exchanges/{other['x-request-id']}")
        assert (status, shown["caller"]) == (200, "other")  # the suite's key is an admin's
        status, shown = await gateway.get(f"/v1/exchanges/{mine['x-request-id']}")
        assert [attempt["result"] for attempt in shown["attempts"]] == ["http_error", "ok"]
        assert shown["decision"]["candidates"][0]["target"] == "a"
        status, refused = await gateway.get(f"/v1/exchanges/{mine['x-request-id']}", **theirs)
        assert (status, refused["error"]["code"]) == (404, "exchange_not_found")

    with_gateway()(test)


async def eventually_status(gateway: Gateway, path: str, status: int, **headers: str) -> None:
    for _ in range(100):
        if (await gateway.get(path, **headers))[0] == status:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{path} never gave {status}")


def test_a_key_counts_from_its_making_to_its_revoking(with_gateway: Prepare, clean_database_url: str) -> None:
    async def test(gateway: Gateway) -> None:
        reads = {"Authorization": f"Bearer {READER}"}
        assert (await gateway.get("/v1/models", **reads))[0] == 401
        await add_keys(clean_database_url, reader="read")
        await eventually_status(gateway, "/v1/models", 200, **reads)
        status, _, _ = await gateway.post(HELLO, **reads)
        assert status == 403
        database = create_async_engine(clean_database_url)
        async with database.begin() as connection:
            await revoke_key(connection, "reader")
        await database.dispose()
        await eventually_status(gateway, "/v1/models", 401, **reads)

    with_gateway()(test)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "status"),
        ({"status": "done"}, "status"),
        ({"status": "completed", "score": 2}, "score"),
        ({"status": "completed", "extra": 1}, "extra"),
        ("completed", "body"),
    ],
)
def test_wrong_outcomes_are_refused_by_name(with_gateway: Prepare, body: Any, param: str) -> None:
    async def test(gateway: Gateway) -> None:
        status, _, raw = await gateway.post(body, "/v1/tasks/t1/outcome")
        assert status == 400
        assert f'"param":"{param}"' in raw.decode()
        assert [record for record in gateway.records() if record["kind"] == "outcome"] == []

    with_gateway()(test)


def test_unknown_paths_and_ids_are_404_in_openais_shape(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        for path in ("/v1/nothing", "/v1/exchanges/req_xyz", "/v1/tasks/none", "/v1/models/none"):
            status, value = await gateway.get(path)
            assert status == 404, path
            assert set(value["error"]) == {"message", "type", "param", "code"}
        status, _, raw = await gateway.post(HELLO, "/v1/nothing")
        assert (status, b"not_found" in raw) == (404, True)

    with_gateway()(test)


def test_health_says_which_targets_are_usable_and_why_not(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(500)] * 9
        for _ in range(2):
            await gateway.post(HELLO)
        _, health = await gateway.get("/health")
        assert not health["targets"]["a"]["usable"]
        assert "shedding" in health["targets"]["a"]["reason"]
        assert health["policy"]["error"] is None

    with_gateway()(test)


def test_a_full_spool_refuses_new_calls_and_says_so(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        (gateway.data_dir / "spool" / "old.ready").write_bytes(b"x" * 1024 * 1024)
        for _ in range(50):
            status, headers, raw = await gateway.post(HELLO)
            if status == 503:
                break
            await asyncio.sleep(0.1)
        assert (status, b"ledger_full" in raw, headers["retry-after"]) == (503, True, "2")

    with_gateway(ledger={"max_spool_mb": 1})(test)


def test_a_full_spool_serves_on_if_so_configured_and_counts_what_it_loses(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        (gateway.data_dir / "spool" / "old.ready").write_bytes(b"x" * 2 * 1024 * 1024)
        for _ in range(50):
            status, _, _ = await gateway.post(HELLO)
            assert status == 200
            _, health = await gateway.get("/health")
            if health["ledger"]["lost_records"]:
                return
            await asyncio.sleep(0.1)
        raise AssertionError("no loss was counted")

    with_gateway(ledger={"max_spool_mb": 1, "on_full": "serve"})(test)


def test_metrics_name_target_and_shape(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        await gateway.post({**HELLO, "stream": True})
        _, raw = await gateway.get("/metrics")
        assert b'sparkgate_exchanges_total{shape="short_chat",status="200",target="a"} 1.0' in raw
        assert b'sparkgate_tokens_total{kind="output",target="a"} 2.0' in raw

    with_gateway()(test)
