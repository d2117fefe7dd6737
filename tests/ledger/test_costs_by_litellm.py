"""litellm's own cost functions as an oracle, on every model of its list that our endpoints can serve.

Where the two disagree, it is said here why, and who is right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from gateway.ledger.listed_tariff import tariff_of
from gateway.ledger.meters import Meters
from gateway.ledger.records import Usage

SERVED = {"chat", "completion", "responses", "embedding"}
NIGHT = datetime(2026, 11, 18, 23, 0, tzinfo=UTC)  # a Wednesday, off-peak for DeepSeek's list
DAY = datetime(2026, 11, 18, 8, 0, tzinfo=UTC)
HOUR = {"cache_write_1h_tokens": 200}
USAGES = {
    "plain": Usage(1000, 200),
    "cached": Usage(1000, 200, cached_tokens=600),
    "cache write": Usage(1000, 200, cached_tokens=100, cache_write_tokens=300),
    "cache write of an hour": Usage(1000, 200, cache_write_tokens=300, apart=HOUR),
    "reasoning": Usage(1000, 200, reasoning_tokens=150),
    "at a threshold": Usage(200_000, 2000, cached_tokens=100_000),
    "long": Usage(300_001, 2000, cached_tokens=100_000),
    "longest": Usage(600_001, 2000, cached_tokens=100_000, cache_write_tokens=1000),
}
TIERS = {None: USAGES, "flex": USAGES, "priority": USAGES}
# of the providers' models, which say something else than the list
KNOWN = {
    "bedrock": "litellm charges the output alone of models whose input is paid by the second: ours is unknown",
    "deepseek": "litellm reads another entry of that name, by which cache writes are free; DeepSeek tells of none",
    "fireworks_ai": "litellm does not look at the service tier, for which the list has prices",
    "gemini": "litellm reads another entry of that name, a free one",
    "perplexity": "litellm does not look at the listed fee of a request, nor at the listed price of cached tokens",
}


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    """With its list as published: other tests of this process have it register models of their own in it.
    Imported here only, for that takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        import litellm

        patch.setattr(litellm, "suppress_debug_info", True)
        patch.setattr(
            litellm, "model_cost", litellm.litellm_core_utils.get_model_cost_map.get_model_cost_map(url="")
        )
        litellm.utils._invalidate_model_cost_lowercase_map()
        yield litellm
    litellm.utils._invalidate_model_cost_lowercase_map()


def theirs(litellm: Any, usage: Usage, **more: Any) -> Any:
    """A `Usage` as litellm has it after reading an answer."""
    types = litellm.types.utils
    hour = (usage.apart or {}).get("cache_write_1h_tokens", 0)
    written = usage.cache_write_tokens
    times = types.CacheCreationTokenDetails(
        ephemeral_5m_input_tokens=written - hour, ephemeral_1h_input_tokens=hour
    )
    into = types.PromptTokensDetailsWrapper(
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=written,
        cache_creation_token_details=times if hour else None,
    )
    out_of = types.CompletionTokensDetailsWrapper(reasoning_tokens=usage.reasoning_tokens)
    return litellm.Usage(
        prompt_tokens=usage.input_tokens,
        completion_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        prompt_tokens_details=into,
        completion_tokens_details=out_of if usage.reasoning_tokens else None,
        **more,
    )


def served(litellm: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, entry in litellm.model_cost.items():
        if entry.get("mode") in SERVED and "off_peak_pricing" not in entry:
            yield key, entry


def agree(ours: int | None, usd: float) -> bool:
    """To half a nano-dollar, or what floating point leaves of a large sum. Where the list has no price of tokens, ours
    is unknown and litellm's is 0."""
    return usd == 0 if ours is None else abs(ours - usd * 1e9) <= max(0.501, 1e-9 * ours)


def test_costs_are_litellms_own(litellm: Any) -> None:
    num_compared, apart = 0, defaultdict(set)
    for key, entry in served(litellm):
        tariff = tariff_of(entry)
        meters = None if tariff is None else Meters(tariff)
        tiers = {None} if tariff is None else {None, *(tier for tier, _ in tariff.tiers if tier in TIERS)}
        for service_tier in tiers:
            for name, usage in USAGES.items():
                if entry["mode"] == "embedding":
                    usage = Usage(usage.input_tokens, 0, usage.cached_tokens)
                costs = litellm.cost_per_token(
                    model=key,
                    custom_llm_provider=entry["litellm_provider"],
                    usage_object=theirs(litellm, usage),
                    service_tier=service_tier,
                )
                ours = None if meters is None else meters.nusd(usage, service_tier, 0.0)
                num_compared += 1
                if not agree(ours, sum(costs)):
                    apart[entry["litellm_provider"]].add((key, service_tier, name, ours, sum(costs)))
    assert num_compared > 20_000
    unexpected = {
        provider: sorted(found, key=str)[:5] for provider, found in apart.items() if provider not in KNOWN
    }
    assert not unexpected
    assert {provider: len({key for key, *_ in found}) for provider, found in apart.items()} == {
        "bedrock": 7,
        "deepseek": 1,
        "fireworks_ai": 44,
        "gemini": 1,
        "perplexity": 59,
    }


def test_costs_of_batches_are_litellms_own(litellm: Any) -> None:
    num_compared = 0
    for key, entry in served(litellm):
        tariff = tariff_of(entry)
        if tariff is None or not {"input_cost_per_token_batches", "output_cost_per_token_batches"} <= set(
            entry
        ):
            continue
        for usage in (
            USAGES["plain"],
            USAGES["long"] if "cache_read_input_token_cost_batches" in entry else None,
        ):
            if usage is None:
                continue
            costs = litellm.cost_calculator.batch_cost_calculator(
                usage=theirs(litellm, usage), model=key, custom_llm_provider=entry["litellm_provider"]
            )
            num_compared += 1
            assert agree(Meters(tariff).nusd(usage, "batch", 0.0), sum(costs)), (key, costs)
    assert num_compared > 300


@pytest.mark.parametrize("at", [NIGHT, DAY])
def test_costs_off_peak_are_litellms_own(litellm: Any, at: datetime) -> None:
    calculate = litellm.litellm_core_utils.llm_cost_calc.utils.generic_cost_per_token
    found = {key: entry for key, entry in litellm.model_cost.items() if "off_peak_pricing" in entry}
    assert len(found) >= 10
    for key, entry in found.items():
        tariff = tariff_of(entry)
        assert tariff is not None
        for usage in USAGES.values():
            costs = calculate(
                key,
                theirs(litellm, usage),
                entry["litellm_provider"],
                current_time=at,
                model_info=entry,
            )
            assert agree(Meters(tariff).nusd(usage, None, at.timestamp()), sum(costs)), (key, usage, costs)


@pytest.mark.parametrize(
    ("told", "service_tier"),
    [
        ({"speed": "fast"}, "fast"),
        ({"inference_geo": "us"}, "us"),
        ({"speed": "fast", "inference_geo": "us"}, "fast us"),
    ],
)
def test_anthropics_factors_are_litellms_own(litellm: Any, told: dict[str, str], service_tier: str) -> None:
    model = next(
        key for key, it in served(litellm) if {"us", "fast"} <= set(it.get("provider_specific_entry") or {})
    )
    tariff, usage = tariff_of(litellm.model_cost[model]), USAGES["cache write of an hour"]
    assert tariff is not None
    costs = litellm.cost_per_token(
        model=model, custom_llm_provider="anthropic", usage_object=theirs(litellm, usage, **told)
    )
    assert agree(Meters(tariff).nusd(usage, service_tier, 0.0), sum(costs))
