"""Which failures are tried again, where, and what the client is told in the end."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.fakes import GOOD_BODY, Answer, body, error
from tests.gateway.conftest import HELLO, Gateway, Run
from tests.raw_upstream import deaf_port

Prepare = Callable[..., Run]
TWO = "version: 1\ndefaults: {candidates: [a], fallback: [b], retries: {max: 1}}\n"


def test_a_body_comes_back_as_the_upstream_wrote_it(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        status, headers, raw = await gateway.post({**HELLO, "x_new_option": 3})
        assert status == 200
        assert json.loads(raw) == GOOD_BODY
        assert int(headers["content-length"]) == len(raw)
        sent = gateway.fakes["a"].calls[0]
        assert sent == {**HELLO, "x_new_option": 3, "model": "a-model"}
        assert gateway.fakes["a"].headers[0]["authorization"] == "Bearer key-of-a"
        row = (await gateway.exchange())["exchange"]
        assert (row["ttft_s"], row["input_tokens"], row["output_tokens"]) == (None, 7, 2)

    with_gateway()(test)


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_callers_own_mistake_is_passed_on_at_once(with_gateway: Prepare, status: int) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(status, "bad_thing", "your fault")]
        got, headers, raw = await gateway.post(HELLO)
        assert (got, headers["x-sparkgate-attempts"]) == (status, "1")
        assert json.loads(raw)["error"]["message"] == "your fault"
        assert gateway.fakes["b"].calls == []

    with_gateway(TWO, ("a", "b"))(test)


def test_a_prompt_too_long_for_one_target_goes_to_the_fallback(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(400, "context_length_exceeded")]
        status, headers, _ = await gateway.post(HELLO)
        assert (status, headers["x-sparkgate-target"]) == (200, "b")

    with_gateway(TWO, ("a", "b"))(test)


def test_when_all_fail_the_client_hears_of_the_first(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(503, "overloaded", "a is full", retry_after="7")]
        gateway.fakes["b"].script = [error(500, "broken", "b is broken")]
        status, headers, raw = await gateway.post(HELLO)
        assert (status, headers["retry-after"]) == (503, "7")
        assert json.loads(raw)["error"]["message"] == "a is full"
        record = await gateway.exchange()
        assert record["exchange"]["attempts"] == 2
        assert record["exchange"]["cost_usd"] == "0.000000000"

    with_gateway(TWO, ("a", "b"))(test)


def test_the_upstreams_view_of_our_account_is_not_the_callers_401(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(401, "invalid_api_key", "bad key key-of-a")] * 3
        status, _, raw = await gateway.post(HELLO)
        assert status == 502
        assert "target 'a' failed" in json.loads(raw)["error"]["message"]

    with_gateway("version: 1\ndefaults: {retries: {max: 0}}\n")(test)


def test_a_single_target_is_tried_again_after_a_pause(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(500), error(500)]
        status, headers, _ = await gateway.post(HELLO)
        assert (status, headers["x-sparkgate-attempts"]) == (200, "3")

    with_gateway("version: 1\ndefaults: {retries: {max: 2}}\n")(test)


def test_no_complete_answer_in_time_is_a_504(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [body(GOOD_BODY, after_s=5.0)]
        status, _, raw = await gateway.post(HELLO)
        assert status == 504
        assert json.loads(raw)["error"]["code"] == "timeout_total"
        assert (await gateway.exchange())["exchange"]["timed_out"] == "total"

    policy = "version: 1\ndefaults: {candidates: [a], fallback: [b], timeouts: {total_s: 0.3}}\n"
    with_gateway(policy, ("a", "b"))(test)


def test_a_target_that_fails_always_is_set_aside_and_then_probed(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(500)] * 50
        for _ in range(20):
            status, _, _ = await gateway.post(HELLO)
            assert status == 200
        assert 3 <= len(gateway.fakes["a"].calls) <= 6
        _, health = await gateway.get("/health")
        assert "shedding" in health["targets"]["a"]["reason"] or "probing" in health["targets"]["a"]["reason"]

    with_gateway(TWO, ("a", "b"))(test)


def test_cost_is_exact_and_unknown_is_not_zero(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        await gateway.post(HELLO)
        row = (await gateway.exchange())["exchange"]
        assert row["cost_usd"] is None  # "a-model" is in no price list

    with_gateway()(test)


RETRIED = "version: 1\ndefaults: {retries: {max: 2}}\n"


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (error(503, retry_after="30"), 1),  # more patience than a call has
        (error(503, retry_after_ms="20"), 2),
        (error(503, retry_after="Thu, 01 Jan 1970 00:00:00 GMT"), 2),
        (error(503, x_should_retry="false"), 1),
        (error(400, x_should_retry="true"), 2),
        (error(400), 1),
    ],
)
def test_an_upstream_may_say_when_and_whether_to_come_again(
    with_gateway: Prepare, answer: Answer, tries: int
) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [answer]
        await gateway.post(HELLO)
        assert len(gateway.fakes["a"].calls) == tries
        keys = {headers["idempotency-key"] for headers in gateway.fakes["a"].headers}
        assert len(keys) == 1  # the same call, however often it is sent

    with_gateway(RETRIED)(test)


def test_what_one_targets_filter_refuses_is_asked_of_another_and_never_again_of_it(
    with_gateway: Prepare,
) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(400, "content_filter")] * 3
        gateway.fakes["b"].script = [error(400, "content_filter")] * 3
        status, headers, _ = await gateway.post(HELLO)
        assert (status, headers["x-sparkgate-attempts"]) == (400, "2")
        assert (len(gateway.fakes["a"].calls), len(gateway.fakes["b"].calls)) == (1, 1)

    with_gateway("version: 1\ndefaults: {candidates: [a], fallback: [b], retries: {max: 5}}\n", ("a", "b"))(
        test
    )


def test_a_prompt_too_long_is_not_sent_to_shorter_contexts(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [error(400, "context_length_exceeded")]
        status, headers, _ = await gateway.post(HELLO)
        assert (status, headers["x-sparkgate-target"]) == (200, "c")
        assert gateway.fakes["b"].calls == []

    policy = "version: 1\ndefaults: {candidates: [a], fallback: [b, c], explore: 0}\n"
    limits = {name: {"context_tokens": tokens} for name, tokens in {"a": 8000, "b": 4000, "c": 32000}.items()}
    with_gateway(policy, ("a", "b", "c"), limits=limits)(test)


def test_a_call_with_effects_outside_is_sent_once(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        searching = {"model": "auto", "input": "news?", "tools": [{"type": "web_search"}]}
        gateway.fakes["a"].script = [error(500)]
        status, headers, _ = await gateway.post(searching, "/v1/responses")
        assert (status, headers["x-sparkgate-attempts"]) == (500, "1")
        assert gateway.fakes["b"].calls == []

    limits = {name: {"endpoints": ["/v1/responses"]} for name in "ab"}
    with_gateway(TWO, ("a", "b"), limits=limits)(test)


def test_a_target_that_takes_no_connection_costs_nothing_and_another_may_be_asked(
    with_gateway: Prepare,
) -> None:
    async def test(gateway: Gateway) -> None:
        searching = {"model": "auto", "input": "news?", "tools": [{"type": "web_search"}], "stream": True}
        _, headers, _ = await gateway.post(searching, "/v1/responses")
        assert headers["x-sparkgate-attempts"] == "2"
        first, _ = (await gateway.exchange())["attempts"]
        assert (first["result"], float(first["cost_usd"])) == ("timeout_first_token", 0)
        assert len(gateway.fakes["b"].calls) == 1

    with deaf_port() as port:
        policy = TWO[:-2] + ", timeouts: {first_token_s: 0.2}}\n"
        prices = {"input_usd_per_mtok": 1000, "output_usd_per_mtok": 1000}
        limits = {name: {"endpoints": ["/v1/responses"], "prices": prices} for name in "ab"}
        limits["a"]["base_url"] = f"http://127.0.0.1:{port}"
        with_gateway(policy, ("a", "b"), limits=limits)(test)
