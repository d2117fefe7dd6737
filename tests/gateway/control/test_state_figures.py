"""What a scrape of a running gateway says beside the calls it has served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import error
from tests.gateway.conftest import HELLO, Gateway, Run, eventually

Prepare = Callable[..., Run]
Samples = dict[tuple[str, ...], float]


async def scrape(gateway: Gateway) -> Samples:
    """By name without `sparkgate_`, and values of labels in the order of their names."""
    _, raw = await gateway.get("/metrics")
    return {
        (
            sample.name.removeprefix("sparkgate_"),
            *(sample.labels[name] for name in sorted(sample.labels)),
        ): sample.value
        for family in text_string_to_metric_families(raw.decode())
        for sample in family.samples
    }


async def until(gateway: Gateway, is_so: Callable[[Samples], bool]) -> Samples:
    """The first scrape of which it is so."""
    end = time.monotonic() + 20.0
    while not is_so(found := await scrape(gateway)):
        assert time.monotonic() < end, "no scrape ever said so"
        await asyncio.sleep(0.05)
    return found


def test_a_target_that_fails_is_shed_and_the_others_are_not(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        before = await scrape(gateway)
        assert (before["breaker_state", "a"], before["target_usable", "a"]) == (0, 1)
        gateway.fakes["a"].script = [error(500)] * 9
        for _ in range(3):
            await gateway.post(HELLO)
        found = await scrape(gateway)
        assert (found["breaker_state", "a"], found["target_usable", "a"]) == (2, 0)
        assert (found["breaker_state", "b"], found["target_usable", "b"]) == (0, 1)
        assert found["target_in_flight", "a"] == 0
        assert found["further_attempts_total", "fallback", "b"] >= 1

    with_gateway("version: 1\ndefaults: {candidates: [a], fallback: [b], explore: 0}\n", ("a", "b"))(test)


def test_an_engine_that_does_not_answer_is_down(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        await until(gateway, lambda found: found["engine_up", "engine"] == 0)
        await until(gateway, lambda found: found["target_usable", "engine"] == 0)

    with_gateway(engine={"enabled": True}, engine_port=1)(test)


def test_a_refused_policy_shows_until_it_is_mended(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        good = gateway.policy_file.read_text()
        assert (await scrape(gateway))["policy_refused",] == 0
        gateway.policy_file.write_text("version: 1\nnonsense: true\n")
        await until(gateway, lambda found: found["policy_refused",] == 1)
        gateway.policy_file.write_text(good + "# mended\n")
        await until(gateway, lambda found: found["policy_refused",] == 0)

    with_gateway()(test)


def test_calls_that_were_turned_away_are_counted_by_why(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        await gateway.post({"model": "auto"})
        await gateway.post(HELLO, Authorization="Bearer wrong")
        found = await scrape(gateway)
        assert (found["refusals_total", "invalid_request"], found["refusals_total", "invalid_api_key"]) == (
            1,
            1,
        )

    with_gateway()(test)


def test_records_that_wait_for_the_drain_have_a_size_and_an_age(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        await gateway.post(HELLO)
        await eventually(lambda: bool(list(gateway.data_dir.glob("spool/*.ready"))))
        found = await until(gateway, lambda found: found["spool_oldest_seconds",] > 0)
        assert found["spool_bytes",] > 0
        assert found["spool_segments",] >= 1
        assert found["spool_limit_bytes",] == 1024 * 1024**2
        assert found["records_lost_total",] == 0

    with_gateway()(test)


def test_latencies_have_the_conventions_names_too(with_gateway: Prepare) -> None:
    async def test(gateway: Gateway) -> None:
        await gateway.post({**HELLO, "stream": True})
        _, raw = await gateway.get("/metrics")
        families = {family.name: family for family in text_string_to_metric_families(raw.decode())}
        ours = families["sparkgate_ttft_seconds"]
        theirs = families["gen_ai_server_time_to_first_token_seconds"]
        assert [sample.value for sample in theirs.samples] == [sample.value for sample in ours.samples]
        assert {key: value for key, value in theirs.samples[0].labels.items() if key != "le"} == {
            "gen_ai_operation_name": "chat",
            "gen_ai_provider_name": "openai",
            "gen_ai_request_model": "a-model",
            "sparkgate_target": "a",
            "sparkgate_shape": "short_chat",
        }

    with_gateway()(test)
