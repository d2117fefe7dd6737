"""Costs are exact, worked out here by hand, and unknown when a price they need is."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.deployment import EngineSettings, EngineTarget, LitellmTarget, OpenAITarget, Prices
from gateway.ledger.costs import Price, cost_nusd, engine_cost_nusd, price_for
from gateway.ledger.price_map import PriceMap, litellm_prices
from gateway.ledger.records import Usage, usd

LISTED = PriceMap(
    {
        "deepseek/flash": {
            "litellm_provider": "deepseek",
            "input_cost_per_token": 1.4e-07,
            "cache_read_input_token_cost": 2.8e-08,
            "output_cost_per_token": 2.8e-07,
        },
        "openrouter/deepseek/flash": {"litellm_provider": "openrouter", "input_cost_per_token": 3e-07},
        "gpt-x": {
            "litellm_provider": "openai",
            "input_cost_per_token": 1.25e-06,
            "input_cost_per_token_above_200k_tokens": 2.5e-06,
            "output_cost_per_token": 1e-05,
        },
        "x/grok": {"litellm_provider": "xai"},
        "xai/grok": {"litellm_provider": "xai", "input_cost_per_token": 2e-06},
        "free": {"litellm_provider": "charity", "input_cost_per_token": 0.0, "output_cost_per_token": 0.0},
        "sample_spec": "not an entry",
    },
    "9.9",
)
ENGINE = EngineSettings()


def openai(model: str, base_url: str = "http://127.0.0.1:1", **prices: float) -> OpenAITarget:
    return OpenAITarget(kind="openai", name="t", base_url=base_url, model=model, prices=Prices(**prices))


def price(**usd_per_mtok: str) -> Price:
    names = {f"{name}_usd_per_mtok": Decimal(value) for name, value in usd_per_mtok.items()}
    return Price("t", "m", "config", **names)  # type: ignore[arg-type]


def test_the_worked_example_of_token_costs() -> None:
    usage = Usage(input_tokens=1000, output_tokens=200, cached_tokens=600)
    cost = cost_nusd(price(input="0.14", cached="0.028", output="0.28"), usage)
    assert cost == 128_800  # 400 * 140 + 600 * 28 + 200 * 280
    assert usd(cost) == "0.000128800"


def test_cache_writes_have_their_own_price_and_reasoning_is_output() -> None:
    usage = Usage(
        1_000_000, 1_000_000, cached_tokens=250_000, cache_write_tokens=250_000, reasoning_tokens=900_000
    )
    cost = cost_nusd(price(input="3", cached="0.3", cache_write="3.75", output="15"), usage)
    assert cost == 17_512_500_000  # 0.5 * 3 + 0.25 * 0.3 + 0.25 * 3.75 + 15 dollars


@pytest.mark.parametrize(
    ("usage", "known"),
    [
        (Usage(10, 0), True),
        (Usage(10, 1), False),  # no output price
        (Usage(10, 0, cached_tokens=1), False),
        (Usage(10, 0, cache_write_tokens=1), False),
        (Usage(0, 0), True),
    ],
)
def test_a_missing_price_makes_a_cost_unknown_only_if_it_is_needed(usage: Usage, known: bool) -> None:
    assert (cost_nusd(price(input="1"), usage) is not None) == known


def test_no_price_or_no_usage_is_an_unknown_cost() -> None:
    assert cost_nusd(None, Usage(1, 1)) is None
    assert cost_nusd(price(input="1"), None) is None


def test_a_zero_price_is_a_price() -> None:
    found = price_for(openai("free"), ENGINE, LISTED)
    assert cost_nusd(found, Usage(5, 5)) == 0


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=20))
def test_costs_of_whole_nano_dollar_prices_add_up_exactly(counts: list[tuple[int, int]]) -> None:
    per_token = price(input="0.003", output="0.015")  # 3 and 15 nano-dollars a token
    together = Usage(sum(a for a, _ in counts), sum(b for _, b in counts))
    apart = [cost_nusd(per_token, Usage(a, b)) for a, b in counts]
    assert cost_nusd(per_token, together) == sum(cost for cost in apart if cost is not None)


def test_the_worked_example_of_engine_costs() -> None:
    assert engine_cost_nusd(Decimal("0.20"), prefill_s=0.36, decode_s=14.4, max_batch=16) == 70_000


def test_a_full_batch_for_an_hour_costs_the_hour() -> None:
    hour = [engine_cost_nusd(Decimal(25), prefill_s=0.0, decode_s=3600.0, max_batch=8) for _ in range(8)]
    assert sum(hour) == 25 * 10**9


def test_listed_prices_are_per_million_exactly() -> None:
    found = price_for(openai("deepseek/flash"), ENGINE, LISTED)
    assert found is not None
    assert (found.input_usd_per_mtok, found.cached_usd_per_mtok) == (Decimal("0.14"), Decimal("0.028"))
    assert found.cache_write_usd_per_mtok is None
    assert found.source == "litellm 9.9"


@pytest.mark.parametrize(
    ("model", "base_url", "input_usd"),
    [
        ("flash", "https://api.deepseek.com/v1", "0.14"),
        ("deepseek/flash", "https://openrouter.ai/api/v1", "0.3"),  # not DeepSeek's own price
        ("deepseek/flash", "http://127.0.0.1:8000/v1", "0.14"),
        ("openai/gpt-x", "http://proxy.corp/v1", "1.25"),
        ("gpt-x", "https://api.openai.com/v1", "1.25"),
        ("grok", "https://api.x.ai/v1", "2"),
        ("flash", "http://127.0.0.1/v1", None),
        ("hosted_vllm/gpt-x", "http://127.0.0.1/v1", None),  # another provider's model of that name
        ("gpt-x", "https://api.deepseek.com/v1", None),
        ("sample_spec", "http://127.0.0.1/v1", None),
    ],
)
def test_a_model_is_found_by_name_and_by_whom_it_is_bought_from(
    model: str, base_url: str, input_usd: str | None
) -> None:
    found = price_for(openai(model, base_url), ENGINE, LISTED)
    assert (found.input_usd_per_mtok if found else None) == (Decimal(input_usd) if input_usd else None)


def test_configured_prices_win_key_by_key() -> None:
    found = price_for(openai("gpt-x", input_usd_per_mtok=9.0), ENGINE, LISTED)
    assert found is not None
    assert (found.input_usd_per_mtok, found.output_usd_per_mtok) == (Decimal(9), Decimal(10))
    assert found.source == "config + litellm 9.9"
    alone = price_for(openai("nobody-knows", input_usd_per_mtok=9.0), ENGINE, LISTED)
    assert alone is not None
    assert (alone.source, alone.output_usd_per_mtok) == ("config", None)


def test_above_a_listed_tier_a_cost_is_unknown_unless_the_price_is_configured() -> None:
    listed = price_for(openai("gpt-x"), ENGINE, LISTED)
    given = price_for(openai("gpt-x", input_usd_per_mtok=2.5), ENGINE, LISTED)
    assert cost_nusd(listed, Usage(200_000, 0)) == 250_000_000
    assert cost_nusd(listed, Usage(200_001, 0)) is None
    assert cost_nusd(given, Usage(400_000, 0)) == 1_000_000_000


def test_an_engine_is_paid_by_the_hour() -> None:
    plain = EngineTarget(kind="engine", name="e", url="http://127.0.0.1:1")
    own = plain.model_copy(update={"cost_per_hour_usd": 2.5, "model": "m"})
    of_plain, of_own = price_for(plain, ENGINE), price_for(own, ENGINE)
    assert of_plain is not None
    assert of_own is not None
    assert (of_plain.usd_per_hour, of_plain.model) == (Decimal("0.2"), ENGINE.model)
    assert (of_own.usd_per_hour, of_own.model) == (Decimal("2.5"), "m")
    assert price_for(plain, EngineSettings(cost_per_hour_usd=None)) is None


def test_a_price_keeps_its_id_until_it_changes() -> None:
    assert price(input="1").id == price(input="1.000").id
    assert price(input="1").id != price(input="1.1").id
    assert price(input="1").id != price(output="1").id
    assert price(input="1").record()["price"]["input_usd_per_mtok"] == "1.000000000"


def test_the_installed_list_is_read_without_importing_litellm() -> None:
    code = (
        "import sys; from gateway.ledger.price_map import litellm_prices; "
        "found = litellm_prices().find('gpt-4o'); assert found and found.input_usd_per_mtok > 0; "
        "assert 'litellm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_installed_list_knows_models_with_and_without_their_provider() -> None:
    bare, prefixed = (
        litellm_prices().find("claude-opus-4-8"),
        litellm_prices().find("anthropic/claude-opus-4-8"),
    )
    assert bare is not None
    assert bare == prefixed
    target = LitellmTarget(kind="litellm", name="claude", model="anthropic/claude-opus-4-8")
    found = price_for(target, ENGINE)
    assert found is not None
    assert found.input_usd_per_mtok == bare.input_usd_per_mtok
    deepseek = price_for(openai("deepseek-v4-flash", "https://api.deepseek.com/v1"), ENGINE)
    assert deepseek is not None
    assert deepseek.output_usd_per_mtok is not None
