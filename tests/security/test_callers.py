"""What a caller with a key, or none, tries beyond what it may; over real HTTP."""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from tests.gateway.callers.test_limited_calls import caller, refusal
from tests.gateway.conftest import CHAT, HELLO, Gateway, Run

Prepare = Callable[..., Run]
SHORT_BODIES = {
    "deep lists": b'{"model":"auto","messages":' + b"[" * 100_000,
    "deep objects": b'{"a":' * 100_000,
    "closed deep lists": b'{"model":"auto","messages":[],"x":' + b"[" * 600 + b"]" * 600 + b"}",
    "NaN": b'{"model":"auto","messages":[{"role":"user","content":"x"}],"temperature":NaN}',
    "infinity": b'{"model":"auto","messages":[{"role":"user","content":"x"}],"temperature":-Infinity}',
    "a lone surrogate": b'{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}',
    "broken UTF-8": b'{"model":"auto","messages":[{"role":"user","content":"\xff"}]}',
    "UTF-16": '{"model":"auto"}'.encode("utf-16"),
    "no object": b"[1]",
    "nothing": b"",
    "a byte order mark": b'\xef\xbb\xbf{"model":"auto"}',
}
HUGE = b"1" * 100_000


async def send(gateway: Gateway, raw: bytes, path: str = CHAT, **headers: str) -> tuple[int, bytes]:
    async with gateway.session.post(
        gateway.url + path, data=io.BytesIO(raw), headers=gateway.headers | headers
    ) as response:
        return response.status, await response.read()


def test_hostile_json_is_the_callers_mistake(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        for what, raw in SHORT_BODIES.items():
            status, said = await send(gateway, raw)
            assert (status, orjson.loads(said)["error"]["code"]) == (400, "invalid_json"), what
        many = b'{"model":"auto","messages":[' + b"{}," * 1_000_001 + b"{}]}"
        assert refusal(*await send(gateway, many))[2] == "invalid_json"
        for key in ("temperature", "max_tokens", "seed", "n"):
            raw = b'{"model":"auto","messages":[{"role":"user","content":"x"}],"%b":%b}' % (
                key.encode(),
                HUGE,
            )
            assert (await send(gateway, raw))[0] < 500, key
        assert len(gateway.fakes["a"].calls) <= 4
        for path in ("/admin/keys", "/admin/policy/explain", "/v1/tasks/t/outcome"):
            for what, raw in SHORT_BODIES.items():
                assert (await send(gateway, raw, path, **{"Content-Type": "application/json"}))[0] < 500, (
                    path,
                    what,
                )

    with_gateway()(test)


def test_of_a_repeated_key_the_target_gets_what_we_decided_by(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        app = await caller(gateway, allowed_models=["a"])
        said = b'"messages":[{"role":"user","content":"x"}]'
        for raw in (
            b'{"model":"a","model":"auto",%b}' % said,
            b'{"model":"a","mod\\u0065l":"auto",%b}' % said,
        ):
            assert refusal(*await send(gateway, raw, **app)) == (
                403,
                "invalid_request_error",
                "model_not_found",
            )
        assert (await send(gateway, b'{"model":"auto","model":"a",%b}' % said, **app))[0] == 200
        (got,) = gateway.fakes["a"].calls
        assert got["model"] == "a-model"

    with_gateway()(test)


def test_a_key_asks_for_no_other_name_whatever_leads_to_the_same_target(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        app = await caller(gateway, allowed_models=["gpt-*"])
        for name in ("auto", "auto/short_chat", "a", "b", "fast", "GPT-4o", "gpt", "claude", " gpt-4o"):
            for path, body in (
                (CHAT, HELLO),
                ("/v1/responses", {"input": "x"}),
                ("/v1/messages", HELLO | {"max_tokens": 5}),
                ("/v1/messages/count_tokens", HELLO),
                ("/v1/embeddings", {"input": "x"}),
                ("/v1/completions", {"prompt": "x"}),
            ):
                status, _, _ = await gateway.post({**body, "model": name}, path, **app)
                assert status == 403, (name, path)
        assert gateway.fakes["a"].calls == gateway.fakes["b"].calls == []
        for name in ("gpt-4o", "gpt-unheard-of"):  # what they lead to is the operator's word
            assert (await gateway.post({**HELLO, "model": name}, **app))[0] == 200

    with_gateway(targets=("a", "b"), models={"gpt-4o": "auto", "fast": ["a", "b"]})(test)


def test_a_revoked_key_ends_within_three_seconds(
    with_gateway: Prepare, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(gateway: Gateway) -> None:
        app = await caller(gateway)
        async with gateway.session.delete(
            f"{gateway.url}/admin/keys/app", headers=gateway.headers
        ) as response:
            assert response.status == 200
        revoked, status = time.monotonic(), 200
        while status == 200:
            status, _, _ = await gateway.post(HELLO, **app)
            assert time.monotonic() - revoked < 3.0
        assert status == 401

    monkeypatch.setattr("gateway.control.key_watch.INTERVAL_S", 2.0)  # as it is in use
    with_gateway()(test)


def test_a_stranger_sends_no_large_body(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        port = int(gateway.url.rpartition(":")[2])
        for path in (CHAT, "/v1/messages"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
            assert (await reader.readline()).startswith(b"HTTP/1.1 401")
            writer.close()
            await writer.wait_closed()

    with_gateway()(test)


def test_answers_of_the_control_plane_are_for_who_asked(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        for path in (
            "/admin/keys",
            "/v1/models",
            "/health",
            "/metrics",
            "/v1/exchanges/none",
            "/no-such-path",
        ):
            async with gateway.session.get(gateway.url + path, headers=gateway.headers) as response:
                told = {name.lower(): value for name, value in response.headers.items()}
                assert (told["cache-control"], told["x-content-type-options"]) == ("no-store", "nosniff"), (
                    path
                )

    with_gateway()(test)


FORGED = "x\n2026-01-01 00:00:00 CRITICAL forged\x1b[2J"


def test_no_log_line_is_a_callers(with_gateway: Prepare, caplog: pytest.LogCaptureFixture) -> None:
    async def test(gateway: Gateway) -> None:
        hostile: list[dict[str, Any]] = [
            {**HELLO, "model": FORGED},
            {**HELLO, "user": FORGED, "metadata": {FORGED: FORGED, "task_id": FORGED, "workflow": FORGED}},
            {"model": "auto", "messages": [{"role": FORGED, "content": FORGED}], "tools": [{"type": FORGED}]},
        ]
        for body in hostile:
            await gateway.post(body)
            assert (await gateway.get("/health"))[0] == 200
        await gateway.get("/no/\x1b[2J%0aforged")
        for record in caplog.records:
            assert "\n" not in record.getMessage(), record
            assert "\x1b" not in record.getMessage(), record

    with caplog.at_level(logging.DEBUG, logger="gateway"):
        with_gateway()(test)
