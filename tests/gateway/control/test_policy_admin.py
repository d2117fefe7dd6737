"""Versions of the policy, explained calls and replays over the admin API of a real gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gateway.app import SURFACES
from gateway.control import policy_admin
from gateway.control.explain import CALL_OF
from gateway.wire.paths import COUNT_TOKENS
from tests.fakes import error
from tests.gateway.conftest import HELLO, Gateway, Run
from tests.gateway.control.test_admin import ask
from tests.gateway.control.test_api import drained

Prepare = Callable[..., Run]
FIRST = "version: 1\n"
SECOND = "version: 1\ndefaults: {explore: 0.5}\n"
ONLY_B = "version: 1\ndefaults: {candidates: [b]}\n"
NESTED = orjson.loads("[" * 500 + "]" * 500)
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4},
    "/v1/completions": {"prompt": "hello", "max_tokens": 4},
    "/v1/embeddings": {"input": "hello"},
    "/v1/responses": {"input": "hello", "max_output_tokens": 4},
    "/v1/messages": {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4},
}


async def hash_in_force(gateway: Gateway, wanted: str) -> None:
    for _ in range(100):
        _, health = await gateway.get("/health")
        if health["policy"]["hash"] == wanted:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{wanted} did not come into force")


def test_versions_are_listed_shown_and_rolled_back_to(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        _, put = await ask(gateway, "PUT", "/admin/policy", {"yaml": SECOND})
        _, listed = await ask(gateway, "GET", "/admin/policy/versions")
        newest, oldest = listed["data"]
        assert (newest["hash"], newest["active"], newest["source"]) == (put["hash"], True, "api:suite")
        assert (oldest["active"], oldest["error"]) == (False, None)
        _, shown = await ask(gateway, "GET", f"/admin/policy/versions/{oldest['id']}")
        assert (shown["yaml"], shown["active"]) == (FIRST, False)

        status, back = await ask(gateway, "POST", "/admin/policy/rollback", {"version": oldest["hash"][:6]})
        assert (status, back["hash"], back["unchanged"]) == (200, oldest["hash"], False)
        await hash_in_force(gateway, oldest["hash"])
        _, listed = await ask(gateway, "GET", "/admin/policy/versions?limit=2")
        assert [version["source"] for version in listed["data"]] == ["rollback:suite", "api:suite"]
        _, again = await ask(gateway, "POST", "/admin/policy/rollback", {"version": oldest["id"]})
        assert again["unchanged"] is True
        assert len((await ask(gateway, "GET", "/admin/policy/versions"))[1]["data"]) == 3

    with_gateway(policy=FIRST)(test)


def test_a_text_made_from_a_version_that_is_no_longer_in_force_is_a_conflict(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        _, first = await ask(gateway, "GET", "/admin/policy")
        status, second = await ask(
            gateway, "PUT", "/admin/policy", {"yaml": SECOND, "based_on": first["hash"]}
        )
        assert status == 200
        for path, body in (
            ("", {"yaml": "version: 1\ndefaults: {explore: 0.1}\n"}),
            ("/rollback", {"version": first["hash"]}),
        ):
            method = "POST" if path else "PUT"
            late = body | {"based_on": first["hash"]}
            status, value = await ask(gateway, method, f"/admin/policy{path}", late)
            assert (status, value["error"]["code"], value["error"]["param"]) == (
                409,
                "policy_conflict",
                "based_on",
            )
            assert second["hash"] in value["error"]["message"]
            assert "api:suite" in value["error"]["message"]
            assert (await ask(gateway, "GET", "/admin/policy"))[1]["hash"] == second["hash"]
            status, _ = await ask(
                gateway, method, f"/admin/policy{path}", body | {"based_on": second["hash"]}
            )
            assert status == 200
            _, second = await ask(gateway, "GET", "/admin/policy")

    with_gateway(policy=FIRST)(test)


@pytest.mark.parametrize(
    "version", ["ffffffffffff", "%", "\0", "0199c0de-0000-7000-8000-000000000000", "not a hash"]
)
def test_versions_that_do_not_exist_are_404(with_gateway: Prepare, version: str) -> None:
    async def test(gateway: Gateway) -> None:
        status, value = await ask(gateway, "POST", "/admin/policy/rollback", {"version": version})
        assert (status, value["error"]["code"], value["error"]["param"]) == (
            404,
            "policy_not_found",
            "version",
        )
        assert version in value["error"]["message"]

    with_gateway()(test)


def test_an_old_version_that_no_longer_fits_the_targets_is_refused(
    with_gateway: Prepare, clean_database_url: str
) -> None:
    from gateway.control.policy_versions import publish
    from gateway.ledger.database import create_async_engine

    async def test(gateway: Gateway) -> None:
        database = create_async_engine(clean_database_url)
        gone = await publish(database, "api", "policy", "defaults: {fallback: [gone]}\n", ["gone"])
        await database.dispose()
        _, put = await ask(gateway, "PUT", "/admin/policy", {"yaml": SECOND})
        status, value = await ask(gateway, "POST", "/admin/policy/rollback", {"version": gone})
        assert (status, value["error"]["code"]) == (400, "invalid_policy")
        assert "no target is called 'gone'" in value["error"]["message"]
        assert (await ask(gateway, "GET", "/admin/policy"))[1]["hash"] == put["hash"]

    with_gateway()(test)


def test_every_surface_can_be_explained_and_nothing_is_sent(with_gateway: Prepare) -> None:
    assert set(REQUESTS) == set(CALL_OF) == set(SURFACES) - {COUNT_TOKENS}
    endpoints = ["/v1/chat/completions", "/v1/embeddings", "/v1/completions"]

    async def test(gateway: Gateway) -> None:
        for endpoint, request in REQUESTS.items():
            body = {"endpoint": endpoint, "request": {"model": "auto", **request}, "caller": "app"}
            status, found = await ask(gateway, "POST", "/admin/policy/explain", body)
            assert (status, found["object"], found["is_learnt"]) == (200, "policy.explanation", True), (
                endpoint
            )
            assert [it["target"] for it in found["candidates"]] == ["a"], endpoint
            assert found["query"]["endpoint"] == endpoint
            assert found["shape"] == ("embedding" if "embed" in endpoint else "classification")
        assert gateway.fakes["a"].calls == []
        assert gateway.exchanges() == []

    with_gateway(limits={"a": {"endpoints": endpoints}})(test)


def test_an_explanation_counts_what_was_learnt_and_may_try_another_policy(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(500)] * 3
        for _ in range(3):
            await gateway.post(HELLO, x_task_shape="general")
        body: dict[str, Any] = {"request": HELLO, "headers": {"X-Task-Shape": "general"}}
        _, found = await ask(gateway, "POST", "/admin/policy/explain", body)
        shares = {
            it["target"]: it["prediction"]["success_share"] for it in found["candidates"] if it["prediction"]
        }
        rejected = {it["target"] for it in found["rejections"]}
        assert "a" in rejected or shares["a"] < shares["b"]
        assert (found["shape"], found["shape_source"]) == ("general", "declared")
        _, tried = await ask(gateway, "POST", "/admin/policy/explain", body | {"policy": ONLY_B})
        assert [it["target"] for it in tried["candidates"]] == ["b"]
        assert tried["policy_hash"] != found["policy_hash"]
        described = {"call": {"declared_shape": "general", "has_tools": True}}
        _, told = await ask(gateway, "POST", "/admin/policy/explain", described)
        assert told["query"]["has_tools"] is True

    with_gateway(targets=("a", "b"))(test)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "either 'request'"),
        ({"request": HELLO, "call": {}}, 400, "either 'request'"),
        ({"request": {"model": "auto"}}, 400, "'messages' must be"),
        ({"request": {"messages": []}}, 400, "'model' must be"),
        ({"request": HELLO, "endpoint": "/v2/chat"}, 400, "no API is served at '/v2/chat'"),
        ({"request": HELLO, "headers": {"x-task-shape": "poetry"}}, 400, "'poetry' is not a task shape"),
        ({"request": HELLO, "policy": "explore: 1\n"}, 400, "explore: unknown key"),
        (
            {"request": HELLO, "policy": "defaults: {fallback: [nobody]}\n"},
            400,
            "no target is called 'nobody'",
        ),
        ({"request": HELLO | {"model": "gpt-9"}}, 404, "'gpt-9'"),
        ({"request": HELLO, "draw": 2}, 400, "draw"),
        ({"request": HELLO, "forward": True}, 400, "forward"),
        ({"call": {"declared_shape": "poetry"}}, 400, "poetry"),
        ({"request": [1]}, 400, "request"),
        ({"request": HELLO | {"user": "\ud83d"}}, 400, "surrogates not allowed"),
        ({"request": HELLO | {"user": NESTED}}, 400, "Recursion limit"),
    ],
)
def test_what_cannot_be_explained_is_refused(
    with_gateway: Prepare, body: dict[str, Any], status: int, words: str
) -> None:
    async def test(gateway: Gateway) -> None:
        found, value = await ask(gateway, "POST", "/admin/policy/explain", body)
        assert (found, words in value["error"]["message"]) == (status, True), value

    with_gateway(unknown_model="reject")(test)


def test_recorded_calls_are_replayed(with_gateway: Prepare, clean_database_url: str) -> None:
    async def test(gateway: Gateway) -> None:
        for _ in range(6):
            await gateway.post(HELLO | {"stream": True})
        await drained(gateway, clean_database_url)
        policy = "version: 1\ndefaults: {explore: 0.0}\n"
        status, found = await ask(gateway, "POST", "/admin/policy/replay", {"yaml": policy, "since_s": 600})
        assert (status, found["object"], found["recorded_calls"]) == (200, "policy.replay", 6)
        assert sum(calls for *_, calls in found["all"]["moves"]) == found["all"]["calls"] == 6
        _, few = await ask(gateway, "POST", "/admin/policy/replay", {"yaml": policy, "limit": 2})
        assert few["all"]["calls"] == 2

    with_gateway(targets=("a", "b"))(test)


def test_a_replay_is_bounded_and_wants_a_policy_that_is_right(
    with_gateway: Prepare, clean_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(gateway: Gateway) -> None:
        async def refused(**body: Any) -> tuple[int, str]:
            status, value = await ask(gateway, "POST", "/admin/policy/replay", body)
            return status, value["error"]["message"]

        assert "limit" in (await refused(yaml=FIRST, limit=10**9))[1]
        assert "since_s" in (await refused(yaml=FIRST, since_s=0))[1]
        status, words = await refused(yaml="defaults: {candidates: [nobody]}\n")
        assert (status, "no target is called 'nobody'" in words) == (400, True)
        await gateway.post(HELLO)
        await drained(gateway, clean_database_url)
        monkeypatch.setattr(policy_admin, "REPLAY_WITHIN_S", 0.0)
        assert "ask for fewer calls" in (await refused(yaml=FIRST))[1]

    with_gateway()(test)
