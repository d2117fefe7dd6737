"""What admins do over real HTTP: keys, usage, targets and the policy, in force everywhere within seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest

from tests.gateway.conftest import HELLO, Gateway, Run
from tests.gateway.control.test_api import OTHER, READER, add_keys, drained, eventually_status

Prepare = Callable[..., Run]
POLICY = "version: 1\ndefaults: {explore: 0.5}\n"


async def ask(gateway: Gateway, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    given = gateway.headers | headers
    async with gateway.session.request(method, gateway.url + path, json=body, headers=given) as response:
        return response.status, orjson.loads(await response.read())


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


ROUTES = [
    *("GET /admin/keys", "POST /admin/keys", "PATCH /admin/keys/suite", "DELETE /admin/keys/suite"),
    *("GET /admin/usage", "GET /admin/targets"),
    *("GET /admin/policy", "PUT /admin/policy", "POST /admin/policy/check"),
    *("GET /admin/policy/versions", "GET /admin/policy/versions/abc", "POST /admin/policy/rollback"),
    *("POST /admin/policy/explain", "POST /admin/policy/replay"),
]


def test_admin_keys_only(with_gateway: Prepare, clean_database_url: str) -> None:
    async def test(gateway: Gateway) -> None:
        await add_keys(clean_database_url, other="call", reader="read")
        await eventually_status(gateway, "/v1/models", 200, **bearer(OTHER))
        for route in ROUTES:
            method, _, path = route.partition(" ")
            for key, status in [(OTHER, 403), (READER, 403), ("unknown", 401)]:
                body = {"name": "new", "yaml": POLICY}
                refused, value = await ask(gateway, method, path, body, **bearer(key))
                assert (refused, set(value["error"])) == (status, {"message", "type", "param", "code"}), route
        _, listed = await ask(gateway, "GET", "/admin/keys")
        assert [key["revoked_at"] for key in listed["data"]] == [None] * 3

    with_gateway()(test)


def test_a_key_is_made_changed_listed_and_revoked(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        wanted = {"name": "team/app", "rpm": 60, "daily_usd": 1.5, "allowed_models": ["gpt-*"], "tags": ["a"]}
        status, made = await ask(gateway, "POST", "/admin/keys", wanted)
        assert (status, made["scope"], made["rpm"], made["daily_usd"]) == (201, "call", 60, 1.5)
        await eventually_status(gateway, "/v1/models", 200, **bearer(made["key"]))

        status, changed = await ask(
            gateway, "PATCH", "/admin/keys/team/app", {"rpm": None, "expires_at": "2030-01-01T00:00:00+01:00"}
        )
        assert (status, changed["rpm"], changed["daily_usd"]) == (200, None, 1.5)
        assert datetime.fromisoformat(changed["expires_at"]) == datetime(2029, 12, 31, 23, tzinfo=UTC)

        _, listed = await ask(gateway, "GET", "/admin/keys")
        (shown,) = (key for key in listed["data"] if key["name"] == "team/app")
        assert shown == changed | {"spent_today_usd": 0.0, "spent_this_month_usd": 0.0}
        assert "key" not in shown

        status, revoked = await ask(gateway, "DELETE", "/admin/keys/team/app")
        assert (status, revoked["revoked_at"] is None) == (200, False)
        await eventually_status(gateway, "/v1/models", 401, **bearer(made["key"]))

    with_gateway()(test)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "name"),
        ({"name": "suite"}, "the name 'suite' is taken"),
        ({"name": " x"}, "a key's name should be"),
        ({"name": "x", "scope": "root"}, "scope"),
        ({"name": "x", "rpm": 0}, "rpm should be above 0"),
        ({"name": "x", "rpm": "many"}, "rpm"),
        ({"name": "x", "rpm": True}, "rpm"),
        ({"name": "x", "daily_usd": "NaN"}, "daily_usd"),
        ({"name": "x", "expires_at": "2030-01-01T00:00:00"}, "expires_at"),
        ({"name": "x", "allowed_models": [""]}, "allowed_models"),
        ({"name": "x", "allowed_model": ["a"]}, "allowed_model"),
    ],
)
def test_keys_that_make_no_sense_are_refused_by_name(with_gateway: Prepare, body: Any, message: str) -> None:
    async def test(gateway: Gateway) -> None:
        status, value = await ask(gateway, "POST", "/admin/keys", body)
        assert (status, set(value["error"])) == (400, {"message", "type", "param", "code"})
        assert message in value["error"]["message"]
        _, listed = await ask(gateway, "GET", "/admin/keys")
        assert [key["name"] for key in listed["data"]] == ["suite"]

    with_gateway()(test)


def test_keys_that_do_not_exist_are_404(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        for method in ("PATCH", "DELETE"):
            status, value = await ask(gateway, method, "/admin/keys/none", {})
            assert (status, value["error"]["code"]) == (404, "key_not_found")

    with_gateway()(test)


def test_usage_is_shown_by_caller_and_day(with_gateway: Prepare, clean_database_url: str) -> None:
    async def test(gateway: Gateway) -> None:
        for _ in range(3):
            await gateway.post(HELLO)
        await drained(gateway, clean_database_url)
        status, shown = await ask(gateway, "GET", "/admin/usage?days=2")
        (row,) = shown["data"]
        assert (status, row["caller"], row["calls"], row["attempts_of_unknown_cost"]) == (200, "suite", 3, 3)
        assert row["tokens"] > 0
        status, value = await ask(gateway, "GET", "/admin/usage?days=0")
        assert (status, "days" in value["error"]["message"]) == (400, True)

    with_gateway()(test)


def test_targets_are_shown_with_their_health(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        _, shown = await ask(gateway, "GET", "/admin/targets")
        assert [(row["name"], row["kind"], row["usable"]) for row in shown["data"]] == [
            ("a", "openai", True),
            ("b", "openai", True),
        ]
        assert not any("key-of-a" in str(row) for row in shown["data"])

    with_gateway(targets=("a", "b"))(test)


def test_a_policy_put_here_is_in_force_within_seconds(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        _, first = await ask(gateway, "GET", "/admin/policy")
        assert first["yaml"] == "version: 1\n"
        status, checked = await ask(gateway, "POST", "/admin/policy/check", {"yaml": POLICY})
        assert (status, checked["ok"], checked["mistakes"]) == (200, True, [])
        assert (await ask(gateway, "GET", "/admin/policy"))[1] == first  # checking publishes nothing

        status, put = await ask(gateway, "PUT", "/admin/policy", {"yaml": POLICY})
        assert (status, put["hash"]) == (200, checked["hash"])
        for _ in range(100):
            _, health = await gateway.get("/health")
            if health["policy"]["hash"] == put["hash"]:
                break
            await asyncio.sleep(0.1)
        assert health["policy"]["hash"] == put["hash"]
        assert (await ask(gateway, "GET", "/admin/policy"))[1] == put

    with_gateway()(test)


def test_a_wrong_policy_is_refused_with_all_its_mistakes(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        wrong = "version: 1\nshapes:\n  general: {candidates: [nobody]}\ndefaults: {explore: 2}\n"
        _, before = await ask(gateway, "GET", "/admin/policy")
        status, value = await ask(gateway, "PUT", "/admin/policy", {"yaml": wrong})
        assert (status, value["error"]["code"], value["error"]["param"]) == (400, "invalid_policy", "yaml")
        assert "nobody" in value["error"]["message"]
        assert "explore" in value["error"]["message"]
        status, checked = await ask(gateway, "POST", "/admin/policy/check", {"yaml": wrong})
        assert (status, checked["ok"], len(checked["mistakes"])) == (200, False, 2)
        assert checked["mistakes"][0]["line"] == 3
        assert (await ask(gateway, "GET", "/admin/policy"))[1] == before

    with_gateway()(test)
