"""Costs are exact, worked out here by hand, and unknown when a price they need is."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.deployment import (
    Deployment,
    EngineSettings,
    EngineTarget,
    LitellmTarget,
    OpenAITarget,
    Prices,
)
from gateway.ledger.costs import Price, engine_cost_nusd, price_for, unknown_price
from gateway.ledger.meters import Meters
from gateway.ledger.price_map import PriceMap, litellm_prices
from gateway.ledger.records import Usage, usd
from gateway.ledger.tariff import STANDARD, Rates, Step, Tariff

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
        "tiers": {
            "litellm_provider": "openai",
            "input_cost_per_token": 2e-06,
            "input_cost_per_token_above_100k_tokens": 4e-06,
            "input_cost_per_token_flex": 1e-06,
            "input_cost_per_token_above_100k_tokens_priority": 9e-06,
            "input_cost_per_token_priority": 5e-06,
            "output_cost_per_token": 8e-06,
            "output_cost_per_token_flex": 4e-06,
            "output_cost_per_reasoning_token": 1.6e-05,
            "cache_creation_input_token_cost": 2.5e-06,
            "cache_creation_input_token_cost_above_1hr": 3e-06,
            "input_cost_per_audio_token": 7e-06,
            "input_cost_per_request": 0.005,
            "search_context_cost_per_query": {"low": 0.01, "medium": 0.01, "high": 0.01},
            "provider_specific_entry": {"us": 1.1},
            "regional_processing_uplift_multiplier_eu": 1.1,
        },
        "by-size": {
            "litellm_provider": "perplexity",
            "input_cost_per_token": 1e-06,
            "output_cost_per_token": 1e-06,
            "search_context_cost_per_query": {"low": 0.005, "high": 0.012},
        },
        "ladder": {
            "litellm_provider": "dashscope",
            "tiered_pricing": [
                {"range": [0, 1000.0], "input_cost_per_token": 1e-06, "output_cost_per_token": 2e-06},
                {"range": [1000.0, 9000.0], "input_cost_per_token": 3e-06, "output_cost_per_token": 4e-06},
            ],
        },
        "by-night": {
            "litellm_provider": "deepseek",
            "input_cost_per_token": 4e-07,
            "output_cost_per_token": 8e-07,
            "off_peak_pricing": {
                "input_cost_per_token": 1e-07,
                "windows": [{"hours_utc": ["22:30-02:00"], "weekdays": [1, 2, 3, 4, 5]}],
            },
        },
        "by-second": {
            "litellm_provider": "bedrock",
            "input_cost_per_second": 0.001,
            "input_cost_per_token": 0.0,
        },
        "odd": {
            "litellm_provider": "odd",
            "input_cost_per_token": 1e-06,
            "output_cost_per_token": 1e-06,
            "off_peak_pricing": {"windows": [{"from": "midnight"}]},
        },
        "sample_spec": "not an entry",
    },
    "9.9",
)
ENGINE = EngineSettings()
NOON = "2026-11-18T12:00+00:00"  # a Wednesday


def openai(model: str, base_url: str = "http://127.0.0.1:1", **prices: Any) -> OpenAITarget:
    return OpenAITarget(
        kind="openai", name="t", base_url=base_url, model=model, prices=Prices.model_validate(prices)
    )


def price(**usd_per_mtok: str) -> Price:
    rates = Rates(**{name: Decimal(value) for name, value in usd_per_mtok.items()})
    return Price("t", "m", "config", Tariff(((STANDARD, (Step(0, rates),)),)))


def standard(found: Price | None) -> Rates:
    assert found is not None
    return found.tariff.standard


def charged(found: Price | None, usage: Usage, service_tier: str | None = None, at: str = NOON) -> int | None:
    assert found is not None
    return Meters(found.tariff).nusd(usage, service_tier, datetime.fromisoformat(at).timestamp())


def test_the_worked_example_of_token_costs() -> None:
    usage = Usage(input_tokens=1000, output_tokens=200, cached_tokens=600)
    cost = charged(price(input="0.14", cached="0.028", output="0.28"), usage)
    assert cost == 128_800  # 400 * 140 + 600 * 28 + 200 * 280
    assert usd(cost) == "0.000128800"


def test_cache_writes_have_their_own_price_and_reasoning_is_output() -> None:
    usage = Usage(
        1_000_000, 1_000_000, cached_tokens=250_000, cache_write_tokens=250_000, reasoning_tokens=900_000
    )
    cost = charged(price(input="3", cached="0.3", cache_write="3.75", output="15"), usage)
    assert cost == 17_512_500_000  # 0.5 * 3 + 0.25 * 0.3 + 0.25 * 3.75 + 15 dollars


@pytest.mark.parametrize(
    ("usage", "known"),
    [
        (Usage(10, 0), True),
        (Usage(10, 1), False),  # no output price
        (Usage(10, 0, reasoning_tokens=1), True),  # of no output there is no part
        (Usage(10, 0, apart={"web_searches": 1}), False),
        (Usage(0, 0), True),
    ],
)
def test_a_missing_price_makes_a_cost_unknown_only_if_it_is_needed(usage: Usage, known: bool) -> None:
    assert (charged(price(input="1"), usage) is not None) == known


def test_a_part_without_a_price_of_its_own_costs_what_the_whole_does() -> None:
    usage = Usage(10, 10, 2, 3, 4, {"cache_write_1h_tokens": 1, "audio_input_tokens": 1})
    assert charged(price(input="1", output="2"), usage) == 30_000
    longer = price(input="1", output="2", cache_write="5")
    assert charged(longer, usage) == 30_000 + 3 * 4_000  # the hour's write at the other writes' price


def test_a_zero_price_is_a_price() -> None:
    found = price_for(openai("free"), ENGINE, LISTED)
    assert charged(found, Usage(5, 5)) == 0


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=20))
def test_costs_of_whole_nano_dollar_prices_add_up_exactly(counts: list[tuple[int, int]]) -> None:
    per_token = price(input="0.003", output="0.015")  # 3 and 15 nano-dollars a token
    together = Usage(sum(a for a, _ in counts), sum(b for _, b in counts))
    apart = [charged(per_token, Usage(a, b)) for a, b in counts]
    assert charged(per_token, together) == sum(cost for cost in apart if cost is not None)


def test_the_worked_example_of_engine_costs() -> None:
    assert engine_cost_nusd(Decimal("0.20"), prefill_s=0.36, decode_s=14.4, max_batch=16) == 70_000


def test_a_full_batch_for_an_hour_costs_the_hour() -> None:
    hour = [engine_cost_nusd(Decimal(25), prefill_s=0.0, decode_s=3600.0, max_batch=8) for _ in range(8)]
    assert sum(hour) == 25 * 10**9


def test_listed_prices_are_per_million_exactly() -> None:
    found = price_for(openai("deepseek/flash"), ENGINE, LISTED)
    assert standard(found) == Rates(Decimal("0.14"), Decimal("0.028"), output=Decimal("0.28"))
    assert found is not None
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
    assert (found and standard(found).input) == (Decimal(input_usd) if input_usd else None)


def test_configured_prices_win_key_by_key() -> None:
    found = price_for(openai("gpt-x", input_usd_per_mtok=9.0), ENGINE, LISTED)
    assert (standard(found).input, standard(found).output) == (Decimal(9), Decimal(10))
    assert found is not None
    assert found.source == "config + litellm 9.9"
    alone = price_for(openai("nobody-knows", input_usd_per_mtok=9.0), ENGINE, LISTED)
    assert alone is not None
    assert (alone.source, standard(alone).output) == ("config", None)


def test_above_a_threshold_all_tokens_cost_more_unless_the_price_is_configured() -> None:
    listed = price_for(openai("gpt-x"), ENGINE, LISTED)
    given = price_for(openai("gpt-x", input_usd_per_mtok=2.5), ENGINE, LISTED)
    assert charged(listed, Usage(200_000, 1)) == 200_000 * 1_250 + 10_000
    assert charged(listed, Usage(200_001, 1)) == 200_001 * 2_500 + 10_000
    assert charged(given, Usage(100_000, 0)) == 250_000_000
    assert charged(given, Usage(400_000, 0)) == 1_000_000_000


def test_steps_of_a_ladder_begin_after_their_thresholds() -> None:
    found = price_for(openai("ladder"), ENGINE, LISTED)
    assert charged(found, Usage(1000, 1)) == 1000 * 1_000 + 2_000
    assert charged(found, Usage(1001, 1)) == 1001 * 3_000 + 4_000


@pytest.mark.parametrize(
    ("service_tier", "input_tokens", "nusd"),
    [
        (None, 1000, 1000 * 2_000 + 8_000),
        ("flex", 1000, 1000 * 1_000 + 4_000),
        ("priority", 1000, 1000 * 5_000 + 8_000),  # what a tier does not list is as usual
        ("priority", 100_001, 100_001 * 9_000 + 8_000),
        ("flex", 100_001, 100_001 * 4_000 + 4_000),  # no price of its own for long inputs
        ("us", 1000, (1000 * 2_000 + 8_000) * 11 // 10),
        ("flex us", 1000, (1000 * 1_000 + 4_000) * 11 // 10),
        ("scale", 1000, None),  # nobody knows what that costs here
    ],
)
def test_a_service_tier_has_prices_of_its_own(
    service_tier: str | None, input_tokens: int, nusd: int | None
) -> None:
    found = price_for(openai("tiers"), ENGINE, LISTED)
    cost = charged(found, Usage(input_tokens, 1), service_tier)
    assert cost == (None if nusd is None else nusd + 5_000_000)  # and a fee for each request


def test_fees_and_parts_of_their_own_price_are_added() -> None:
    found = price_for(openai("tiers"), ENGINE, LISTED)
    apart = {"cache_write_1h_tokens": 10, "audio_input_tokens": 5, "web_searches": 2}
    usage = Usage(100, 50, cache_write_tokens=30, reasoning_tokens=20, apart=apart)
    tokens = 65 * 2_000 + 5 * 7_000 + 20 * 2_500 + 10 * 3_000 + 30 * 8_000 + 20 * 16_000
    assert charged(found, usage) == tokens + 5_000_000 + 2 * 10_000_000


def test_a_fee_that_depends_on_what_no_answer_tells_is_unknown() -> None:
    found = price_for(openai("by-size"), ENGINE, LISTED)
    assert charged(found, Usage(1, 1)) == 2_000
    assert charged(found, Usage(1, 1, apart={"web_searches": 1})) is None


def test_a_region_that_costs_more_is_known_by_the_address() -> None:
    found = price_for(openai("tiers", "https://eu.api.openai.com/v1"), ENGINE, LISTED)
    assert standard(found).input == Decimal("2.2")


@pytest.mark.parametrize(
    ("at", "input_nusd"),
    [
        ("2026-11-18T22:29:59+00:00", 400),
        ("2026-11-18T22:30:00+00:00", 100),
        ("2026-11-19T01:59:59+00:00", 100),
        ("2026-11-19T02:00:00+00:00", 400),
        ("2026-11-21T23:00:00+00:00", 400),  # a Saturday
    ],
)
def test_off_peak_hours_have_prices_of_their_own(at: str, input_nusd: int) -> None:
    found = price_for(openai("by-night"), ENGINE, LISTED)
    assert charged(found, Usage(10, 1), at=at) == 10 * input_nusd + 800


def test_a_price_of_another_unit_is_no_price_of_tokens() -> None:
    assert price_for(openai("by-second"), ENGINE, LISTED) is None


def test_an_entry_that_cannot_be_read_is_an_unknown_price(caplog: pytest.LogCaptureFixture) -> None:
    assert price_for(openai("odd"), ENGINE, LISTED) is None
    assert "litellm's prices of odd cannot be read: KeyError" in caplog.text


def test_steps_tiers_and_fees_can_be_configured() -> None:
    prices: dict[str, Any] = {
        "input_usd_per_mtok": 1.0,
        "output_usd_per_mtok": 2.0,
        "above": [{"input_tokens": 100, "input_usd_per_mtok": 3.0}],
        "service_tiers": {"Flex": {"input_usd_per_mtok": 0.5}},
        "usd_per_request": 0.001,
    }
    found = price_for(openai("gpt-x", **prices), ENGINE, LISTED)
    assert charged(found, Usage(100, 1)) == 100 * 1_000 + 2_000 + 1_000_000
    assert charged(found, Usage(101, 1)) == 101 * 3_000 + 2_000 + 1_000_000
    assert charged(found, Usage(101, 1), "flex") == 101 * 500 + 2_000 + 1_000_000
    assert charged(found, Usage(100, 1), "priority") == charged(found, Usage(100, 1))  # both prices are given


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=20),
    st.tuples(st.integers(1, 10**9), st.integers(1, 10**9)),
)
def test_costs_of_parts_differ_from_the_whole_by_half_a_nano_dollar_each(
    counts: list[tuple[int, int]], rates: tuple[int, int]
) -> None:
    """Prices below a nano-dollar a token included: these have nine digits below a micro-dollar per million."""
    tiny = [str(Decimal(rate).scaleb(-9)) for rate in rates]
    parts = [charged(price(input=tiny[0], output=tiny[1]), Usage(a, b)) for a, b in counts]
    whole = sum(a for a, _ in counts), sum(b for _, b in counts)
    exact = Decimal(whole[0] * rates[0] + whole[1] * rates[1]).scaleb(-6)
    assert all(part is not None for part in parts)
    assert abs(sum(part or 0 for part in parts) - exact) <= Decimal(len(parts)) / 2


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 999))
def test_a_cost_never_falls_with_more_tokens(input_tokens: int, output_tokens: int, more: int) -> None:
    found = price_for(openai("tiers"), ENGINE, LISTED)
    less = charged(found, Usage(input_tokens, output_tokens))
    assert less is not None
    assert less >= 5_000_000
    assert (charged(found, Usage(input_tokens + more, output_tokens)) or 0) > less
    assert (charged(found, Usage(input_tokens, output_tokens + more)) or 0) > less


@given(st.data())
def test_parts_of_a_usage_cost_as_much_in_any_cut(data: st.DataObject) -> None:
    """What is cached, written, audio or reasoning changes nothing where all rates of a side are equal."""
    whole, out = data.draw(st.integers(0, 1000)), data.draw(st.integers(0, 1000))
    cached = data.draw(st.integers(0, whole))
    written = data.draw(st.integers(0, whole - cached))
    names = ("cache_write_1h_tokens", "audio_input_tokens", "image_output_tokens")
    apart = {name: data.draw(st.integers(1, 2000)) for name in names}
    usage = Usage(whole, out, cached, written, data.draw(st.integers(0, 2000)), apart)
    plain = price(input="0.3", output="1.7")
    assert charged(plain, usage) == charged(plain, Usage(whole, out)) == whole * 300 + out * 1700


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
    row = price(input="1").record()["price"]
    assert (row["input_usd_per_mtok"], row["rates"]) == ("1.000000000", None)


def test_a_price_shows_all_of_its_conditions() -> None:
    found = price_for(openai("tiers"), ENGINE, LISTED)
    assert found is not None
    rates = orjson.loads(orjson.dumps(found.record()))["price"]["rates"]
    assert list(rates["tiers"]) == ["standard", "flex", "priority"]
    assert [step["above_input_tokens"] for step in rates["tiers"]["standard"]] == [0, 100_000]
    assert (rates["usd_per_request"], rates["factors"]) == ("0.005", {"us": "1.1"})
    dearer = price_for(openai("tiers", usd_per_request=0.006), ENGINE, LISTED)
    assert dearer is not None
    assert dearer.id != found.id


def test_targets_of_unknown_cost_are_named() -> None:
    assert unknown_price(price_for(openai("nobody-knows"), ENGINE, LISTED)) is not None
    half = unknown_price(price_for(openai("nobody-knows", input_usd_per_mtok=1.0), ENGINE, LISTED))
    assert half is not None
    assert "output" in half
    assert unknown_price(price_for(openai("gpt-x"), ENGINE, LISTED)) is None
    engine = EngineTarget(kind="engine", name="e", url="http://127.0.0.1:1")
    assert unknown_price(price_for(engine, ENGINE)) is None


def test_the_installed_list_is_read_without_importing_litellm() -> None:
    code = (
        "import sys; from gateway.ledger.price_map import litellm_prices; "
        "found = litellm_prices().find('gpt-4o'); assert found and found.tariff.standard.input > 0; "
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
    assert found.tariff == bare.tariff
    assert standard(price_for(openai("deepseek-v4-flash", "https://api.deepseek.com/v1"), ENGINE)).output


def test_the_prices_of_the_docs_are_right_and_charged_as_they_say() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "cost.md").read_text()
    example = re.search(r"```yaml\n(.*?)```", docs, re.DOTALL)
    assert example is not None
    (target,) = Deployment.model_validate(yaml.safe_load(example[1])).targets
    found = price_for(target, ENGINE, LISTED)
    assert charged(found, Usage(200_000, 1, cached_tokens=100_000)) == 100_000 * 3_300 + 15_000
    assert (
        charged(found, Usage(200_001, 1, cached_tokens=100_000)) == 100_001 * 6_000 + 100_000 * 300 + 22_500
    )
    assert (
        charged(found, Usage(100, 1, apart={"web_searches": 2}), "flex") == 100 * 1_500 + 7_500 + 20_000_000
    )
