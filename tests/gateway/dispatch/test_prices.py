"""What an attempt is charged depends on what its answer tells, and is kept with the price it was reckoned by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes import GOOD_BODY, ROLE, body, chunk, stream
from tests.gateway.conftest import HELLO, Gateway, Run

Prepare = Callable[..., Run]
POLICY = "version: 1\n"
PRICES = {
    "input_usd_per_mtok": 1000,
    "output_usd_per_mtok": 2000,
    "service_tiers": {"flex": {"input_usd_per_mtok": 500, "output_usd_per_mtok": 1000}},
    "usd_per_web_search": 0.5,
}
SEARCHED = {"prompt_tokens": 7, "completion_tokens": 2, "server_tool_use": {"web_search_requests": 2}}


@pytest.mark.parametrize(
    ("said", "usd", "kept"),
    [
        ({"service_tier": "default"}, 0.011, (None, None)),
        ({"service_tier": "flex"}, 0.0055, ("flex", None)),
        (
            {"usage": SEARCHED | {"prompt_tokens_details": {"cached_tokens": 0}}},
            1.011,
            (None, {"web_searches": 2}),
        ),
    ],
)
def test_the_answer_decides_the_price(
    with_gateway: Prepare, said: dict[str, Any], usd: float, kept: tuple[Any, Any]
) -> None:
    async def test(gateway: Gateway) -> None:
        gateway.fakes["a"].script = [body(GOOD_BODY | said)]
        await gateway.post(HELLO)
        (attempt,) = (await gateway.exchange())["attempts"]
        assert float(attempt["cost_usd"]) == usd
        assert (attempt.get("service_tier"), attempt.get("billed_apart")) == kept
        (price,) = [record["price"] for record in gateway.records() if record["kind"] == "price"]
        assert attempt["price_id"] == price["id"]

    with_gateway(POLICY, ("a",), limits={"a": {"prices": PRICES}})(test)


def test_a_stream_that_breaks_off_is_charged_by_its_service_tier(with_gateway: Prepare) -> None:
    """HELLO is estimated at some input tokens; two events of output carry about a token each."""

    async def test(gateway: Gateway) -> None:
        events = [chunk("Hel", service_tier="flex"), chunk("lo", service_tier="flex")]
        gateway.fakes["a"].script = [stream(ROLE, *events, cut=True)]
        await gateway.post(HELLO | {"stream": True})
        (attempt,) = (await gateway.exchange())["attempts"]
        assert (attempt["result"], attempt["is_estimated"], attempt["service_tier"]) == (
            "cut_off",
            True,
            "flex",
        )
        tokens = attempt["input_tokens"] * 500 + attempt["output_tokens"] * 1000
        assert round(float(attempt["cost_usd"]) * 1e6) == tokens

    with_gateway(POLICY, ("a",), limits={"a": {"prices": PRICES}})(test)


def test_health_names_targets_whose_costs_are_unknown(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        _, health = await gateway.get("/health")
        assert "cost_unknown" not in health["targets"]["a"]
        assert "no price is known" in health["targets"]["b"]["cost_unknown"]
        assert health["status"] == "ok"

    with_gateway(POLICY, ("a", "b"), limits={"a": {"prices": PRICES}})(test)
