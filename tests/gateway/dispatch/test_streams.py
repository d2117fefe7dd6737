"""Streams end to end: a real worker, a real client socket, scripted upstreams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from router.outlook import FRESH_S
from tests.fakes import DONE, GOOD_STREAM, ROLE, chunk, error, stream, usage_chunk
from tests.gateway.conftest import CHAT, HELLO, Gateway, Run, eventually

STREAM = {**HELLO, "stream": True}
ORDERED = "version: 1\ndefaults: {candidates: [a], fallback: [b], explore: 0}\n"
Prepare = Callable[..., Run]


def test_a_stream_is_the_upstreams_bytes_less_the_usage_nobody_asked_for(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        status, headers, raw = await gateway.post(STREAM)
        assert status == 200
        assert raw == b"".join(GOOD_STREAM[:4]) + DONE
        assert headers["x-accel-buffering"] == "no"
        assert headers["content-type"].startswith("text/event-stream")
        assert gateway.fakes["a"].calls[0]["stream_options"] == {"include_usage": True}
        record = await gateway.exchange()
        row = record["exchange"]
        assert headers["x-request-id"] == f"req_{row['id'].replace('-', '')}"
        assert (row["target"], row["input_tokens"], row["output_tokens"], row["status"]) == ("a", 7, 2, 200)
        assert 0 < row["ttft_s"] < row["total_s"]
        assert row["decision"]["candidates"][0]["target"] == "a"

    with_gateway()(test)


def test_a_caller_who_asks_for_usage_gets_every_byte(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        _, _, raw = await gateway.post({**STREAM, "stream_options": {"include_usage": True}})
        assert raw == b"".join(GOOD_STREAM)

    with_gateway()(test)


def test_events_cut_anywhere_and_comments_arrive_as_they_were_sent(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        text = chunk("héllo ✓")
        pieces: list[bytes | float] = [
            b": ping\n\n",
            text[:17],
            0.02,
            text[17:49],
            0.02,
            text[49:],
            chunk(finish_reason="stop"),
            DONE,
        ]
        gateway.fakes["a"].script = [stream(*pieces)]
        _, _, raw = await gateway.post(STREAM)
        assert raw == b"".join(piece for piece in pieces if isinstance(piece, bytes))

    with_gateway()(test)


@pytest.mark.parametrize(
    ("failure", "result"),
    [
        (error(500), "http_error"),
        (error(429, "rate_limit_exceeded", retry_after="1"), "http_error"),
        (error(401, "invalid_api_key"), "http_error"),
        (stream(ROLE, cut=True), "cut_off"),
        (stream(ROLE), "cut_off"),
        (stream(b"data: {oops\n\n"), "bad_response"),
        (
            stream(ROLE, b'data: {"error": {"message": "overloaded", "type": "overloaded_error"}}\n\n'),
            "http_error",
        ),
        (stream(ROLE, 5.0), "timeout_first_token"),
    ],
)
def test_a_failure_before_the_first_token_goes_to_the_next_and_shows_nothing_of_it(
    with_gateway: Prepare, failure: object, result: str
) -> None:
    policy = "version: 1\ndefaults: {candidates: [a], fallback: [b], timeouts: {first_token_s: 0.5}}\n"

    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [failure]  # type: ignore[list-item]
        status, headers, raw = await gateway.post(STREAM)
        assert (status, headers["x-sparkgate-target"], headers["x-sparkgate-attempts"]) == (200, "b", "2")
        assert raw == b"".join(GOOD_STREAM[:4]) + DONE
        record = await gateway.exchange()
        assert [attempt["result"] for attempt in record["attempts"]] == [result, "ok"]
        assert record["exchange"]["error_code"] is None

    with_gateway(policy, ("a", "b"))(test)


def test_after_the_first_token_a_broken_stream_ends_in_an_error_event_and_never_switches(
    with_gateway: Prepare,
) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [stream(ROLE, chunk("Hel"), 0.05, cut=True)]
        status, _, raw = await gateway.post(STREAM)
        assert status == 200
        assert raw.startswith(ROLE + chunk("Hel"))
        last = json.loads(raw.removeprefix(ROLE + chunk("Hel"))[6:])
        assert last["error"]["code"] == "cut_off"
        assert "'a' stopped in mid-answer" in last["error"]["message"]
        assert gateway.fakes["b"].calls == []
        record = await gateway.exchange()
        assert record["exchange"]["error_code"] == "cut_off"
        assert record["attempts"][0]["result"] == "cut_off"

    with_gateway(ORDERED, ("a", "b"))(test)


@pytest.mark.parametrize(("limits", "which"), [("idle_s: 0.3", "idle"), ("total_s: 0.4", "total")])
def test_deadlines_after_the_first_token(with_gateway: Prepare, limits: str, which: str) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [stream(chunk("Hel"), 5.0, DONE)]
        _, _, raw = await gateway.post(STREAM)
        assert json.loads(raw.removeprefix(chunk("Hel"))[6:])["error"]["code"] == f"timeout_{which}"
        row = (await gateway.exchange())["exchange"]
        assert row["timed_out"] == which
        await eventually(lambda: gateway.fakes["a"].closed_early == 1)

    with_gateway(f"version: 1\ndefaults: {{timeouts: {{{limits}}}}}\n")(test)


def test_a_slow_stream_that_keeps_talking_is_not_idle(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        pieces: list[bytes | float] = [part for index in range(8) for part in (chunk(f"{index}"), 0.1)]
        gateway.fakes["a"].script = [stream(*pieces, chunk(finish_reason="stop"), DONE)]
        _, _, raw = await gateway.post(STREAM)
        assert raw.endswith(DONE)

    with_gateway("version: 1\ndefaults: {timeouts: {first_token_s: 0.4, idle_s: 0.4}}\n")(test)


@pytest.mark.parametrize("phase", ["before the first token", "in mid-stream", "while a body is awaited"])
def test_a_client_that_leaves_stops_the_upstream_and_is_booked(with_gateway: Prepare, phase: str) -> None:
    async def test(gateway: Gateway) -> None:
        held = stream(ROLE, 30.0) if phase == "before the first token" else stream(chunk("Hel"), 30.0)
        gateway.fakes["a"].script = [held]
        asked = HELLO if phase == "while a body is awaited" else STREAM
        call = asyncio.create_task(gateway.post(asked))
        await eventually(lambda: len(gateway.fakes["a"].calls) == 1)
        await asyncio.sleep(0.1)
        call.cancel()
        await eventually(lambda: gateway.fakes["a"].closed_early == 1)
        record = await gateway.exchange()
        assert record["exchange"]["error_code"] == "client_gone"
        assert record["exchange"]["status"] == (200 if phase == "in mid-stream" else 499)
        assert record["attempts"][0]["result"] == "client_gone"
        _, health = await gateway.get("/health")
        assert health["targets"]["a"]["in_flight"] == 0

    with_gateway()(test)


def test_a_stream_without_done_but_with_a_finish_reason_is_complete(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [stream(chunk("x"), chunk(finish_reason="length"), usage_chunk(3, 1))]
        _, _, raw = await gateway.post(STREAM)
        assert raw == chunk("x") + chunk(finish_reason="length")
        record = await gateway.exchange()
        assert (record["exchange"]["finish_reason"], record["exchange"]["error_code"]) == ("length", None)

    with_gateway()(test)


def test_held_back_frames_are_bounded(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        pings = [chunk("") for _ in range(100)]
        gateway.fakes["a"].script = [stream(*pings, chunk("x"), chunk(finish_reason="stop"), DONE)]
        _, _, raw = await gateway.post(STREAM)
        assert raw.count(b"data: ") == 103

    with_gateway()(test)


ALIVE = "version: 1\ndefaults: {candidates: [a], fallback: [b], explore: 0, keepalive_s: 0.1}\n"


def test_comments_keep_a_slow_stream_alive_and_failover_goes_on_behind_them(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [stream(ROLE, 0.35, cut=True)]
        status, headers, raw = await gateway.post(STREAM)
        assert (status, headers.get("x-sparkgate-target")) == (200, None)
        alive, _, rest = raw.partition(b"data: ")
        assert alive.count(b": keep-alive\n\n") >= 2
        assert b"data: " + rest == b"".join(GOOD_STREAM[:4]) + DONE
        assert (await gateway.exchange())["exchange"]["target"] == "b"

    with_gateway(ALIVE, ("a", "b"))(test)


def test_a_failure_behind_comments_is_an_error_event(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [stream(ROLE, 0.35, cut=True)]
        status, _, raw = await gateway.post(STREAM)
        assert status == 200
        assert json.loads(raw.rpartition(b"data: ")[2])["error"]["code"] == "cut_off"
        row = (await gateway.exchange())["exchange"]
        assert (row["status"], row["error_code"]) == (200, "cut_off")

    with_gateway("version: 1\ndefaults: {keepalive_s: 0.1, retries: {max: 0}}\n")(test)


def test_an_error_right_behind_the_first_token_ends_the_stream_and_nothing_before_it_is_lost(
    with_gateway: Prepare,
) -> None:
    async def test(gateway: Gateway) -> None:
        said = b'data: {"error": {"message": "out of memory", "type": "server_error"}}\n\n'
        gateway.fakes["a"].script = [stream(ROLE + chunk("Hel") + chunk("lo") + said + chunk("never"))]
        status, _, raw = await gateway.post(STREAM)
        assert (status, raw) == (200, ROLE + chunk("Hel") + chunk("lo") + said)
        row = (await gateway.exchange())["exchange"]
        assert (row["error_code"], row["output_tokens"]) == ("upstream_error", 2)

    with_gateway()(test)


def test_a_first_token_teaches_while_its_stream_goes_on(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [stream(*GOOD_STREAM[:2], 30.0)]
        url, headers = gateway.url + CHAT, gateway.headers
        async with gateway.session.post(url, json=STREAM, headers=headers) as answer:
            await answer.content.readuntil(b"Hel")
            await asyncio.sleep(2 * FRESH_S)  # what is known of a target is read anew so often
            await gateway.post(STREAM)
            (second,) = gateway.exchanges()
        await eventually(lambda: len(gateway.exchanges()) == 2)
        first = gateway.exchanges()[1]
        predicted = [
            record["exchange"]["decision"]["candidates"][0]["prediction"]["ttft_s"]
            for record in (first, second)
        ]
        assert predicted[1] < predicted[0]

    with_gateway()(test)
