"""Replays of recorded calls under other policies, from a real ledger whose calls come of a known truth."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load_policy
from gateway.control.replay_run import replay
from gateway.ledger.database import create_async_engine
from gateway.ledger.records import Exchange
from router.policy import Policy
from tests.gateway.control.recorded_traffic import P95, Truth, catalog_of, record, traffic

TRUTHS = {"fast": Truth(0.2, 1.0, 0.002), "slow": Truth(0.6, 3.0, 0.001)}
EXPLORING = "version: 1\ndefaults: {objective: completion_p95, explore: 0.3}\n"
MIXED = "version: 1\ndefaults: {objective: completion_p95, candidates: [fast, {target: slow, weight: 0.2}]}\n"
ONLY = "version: 1\nshapes:\n  support: {objective: completion_p95, candidates: [%s]}\n"
DAY = timedelta(days=1)


def policy_of(text: str) -> Policy:
    return load_policy(text, "policy.yaml", None)


def replayed(
    database_url: str, policy: Policy, truths: Mapping[str, Truth] = TRUTHS, limit: int = 100_000
) -> dict[str, Any]:
    async def run() -> dict[str, Any]:
        database = create_async_engine(database_url)
        now = datetime.now(UTC)
        try:
            return await replay(database, catalog_of(truths), policy, now - DAY, now, limit)
        finally:
            await database.dispose()

    return asyncio.run(run())


def store_version(database_url: str, text: str) -> None:
    from gateway.control.policy_versions import publish

    async def run() -> None:
        database = create_async_engine(database_url)
        await publish(database, "api", "policy.yaml", text, tuple(TRUTHS))
        await database.dispose()

    asyncio.run(run())


def an_hour_ago(calls: int, policy: Policy, **given: Any) -> list[Exchange]:
    return traffic(policy, given.pop("truths", TRUTHS), calls, start_s=time.time() - 3600, **given)


def figure(report: Mapping[str, Any], side: str, name: str) -> float:
    value = report[side][name]["value"]
    assert isinstance(value, float)
    return value


def test_the_same_policy_moves_nearly_nothing_and_its_figures_are_the_recorded_ones(
    clean_database_url: str, tmp_path: Path
) -> None:
    policy = policy_of(EXPLORING)
    store_version(clean_database_url, EXPLORING)
    calls = an_hour_ago(600, policy)
    record(clean_database_url, tmp_path, calls)
    found = replayed(clean_database_url, policy)
    assert found["recorded_calls"] == found["all"]["calls"] == 600
    assert found["all"]["moved"] <= 6
    assert found["reproduced_share"] >= 0.99
    (support,) = found["shapes"]
    times = sorted(exchange.total_s for exchange in calls)
    assert figure(support, "old", "completion_p95_s") == times[math.ceil(0.95 * 600) - 1]
    assert figure(support, "old", "completion_p50_s") == times[299]
    mean_usd = sum(exchange.cost_nusd() or 0 for exchange in calls) / 600e9
    assert figure(support, "old", "cost_usd") == pytest.approx(mean_usd)
    for name in ("completion_p95_s", "ttft_p50_s", "cost_usd"):
        assert figure(support, "new", name) == pytest.approx(figure(support, "old", name), rel=0.05)


@pytest.mark.parametrize("tasks", [False, True], ids=["by chance", "by task"])
def test_weighted_targets_get_the_calls_that_they_got(
    clean_database_url: str, tmp_path: Path, tasks: bool
) -> None:
    store_version(clean_database_url, MIXED)
    record(clean_database_url, tmp_path, an_hour_ago(200, policy_of(MIXED), tasks=tasks))
    found = replayed(clean_database_url, policy_of(MIXED))
    assert (found["reproduced_share"], found["all"]["moved"]) == (1.0, 0)


def test_a_policy_that_bans_the_slow_target_predicts_the_tail_of_the_fast_one(
    clean_database_url: str, tmp_path: Path
) -> None:
    record(clean_database_url, tmp_path, an_hour_ago(800, policy_of(MIXED)))
    found = replayed(clean_database_url, policy_of(ONLY % "fast"))
    (support,) = found["shapes"]
    moves = {(old, new): calls for old, new, calls in support["moves"]}
    assert set(moves) == {("fast", "fast"), ("slow", "fast")}
    assert support["moved"] == moves["slow", "fast"] > 20
    assert support["unknown"] == 0
    predicted = support["new"]["completion_p95_s"]
    assert predicted["low"] < TRUTHS["fast"].quantile_s(P95) < predicted["high"]
    assert figure(support, "old", "completion_p95_s") > predicted["high"]


def test_calls_that_would_go_where_nothing_was_recorded_are_counted_and_never_guessed(
    clean_database_url: str, tmp_path: Path
) -> None:
    record(clean_database_url, tmp_path, an_hour_ago(60, policy_of(ONLY % "slow")))
    found = replayed(clean_database_url, policy_of(ONLY % "fast"))
    assert (found["all"]["moved"], found["all"]["unknown"]) == (60, 60)
    assert set(found["all"]["new"].values()) == set(found["all"]["old"].values()) == {None}
    assert any(
        note.startswith("60 calls would go where no such call was recorded") for note in found["notes"]
    )


def test_only_the_newest_calls_are_read_and_the_report_says_so(
    clean_database_url: str, tmp_path: Path
) -> None:
    calls = an_hour_ago(300, policy_of(EXPLORING))
    record(clean_database_url, tmp_path, calls)
    found = replayed(clean_database_url, policy_of(EXPLORING), limit=100)
    assert found["all"]["calls"] == 100
    newest = sorted(exchange.total_s for exchange in calls[-100:])
    assert figure(found["all"], "old", "completion_p50_s") == newest[49]
    assert any("--limit" in note for note in found["notes"])


def test_an_empty_ledger_is_a_report_too(clean_database_url: str) -> None:
    found = replayed(clean_database_url, policy_of(EXPLORING))
    assert (found["recorded_calls"], found["all"]["calls"], found["shapes"]) == (0, 0, [])
    assert found["reproduced_share"] is None


def test_failures_that_move_are_replaced_and_those_that_stay_remain(
    clean_database_url: str, tmp_path: Path
) -> None:
    truths = TRUTHS | {"slow": Truth(0.6, 3.0, failure_rate=0.5)}
    record(clean_database_url, tmp_path, an_hour_ago(400, policy_of(EXPLORING), truths=truths))
    away = replayed(clean_database_url, policy_of(ONLY % "fast"))["all"]
    assert figure(away, "old", "failure_rate") > 0.0
    assert figure(away, "new", "failure_rate") == 0.0
    towards = replayed(clean_database_url, policy_of(ONLY % "slow"))["all"]
    assert towards["new"]["failure_rate"]["low"] < 0.5 < towards["new"]["failure_rate"]["high"]


def test_shorter_deadlines_count_as_timeouts(clean_database_url: str, tmp_path: Path) -> None:
    calls = an_hour_ago(200, policy_of(ONLY % "slow"))
    record(clean_database_url, tmp_path, calls)
    found = replayed(clean_database_url, policy_of(ONLY % "slow" + "defaults: {timeouts: {total_s: 3}}\n"))
    late = sum(exchange.total_s > 3 for exchange in calls)
    assert figure(found["all"], "new", "timeout_rate") == late / 200
    assert figure(found["all"], "new", "completion_p95_s") == 3.0
    assert figure(found["all"], "old", "timeout_rate") == 0.0
    assert any(note.startswith(f"{late} calls would have run into a deadline") for note in found["notes"])


def test_cost_per_completed_task_follows_the_targets_that_complete_them(
    clean_database_url: str, tmp_path: Path
) -> None:
    calls = an_hour_ago(400, policy_of(EXPLORING), tasks=True, seed=3)
    last = {exchange.task_id or "": exchange.attempts[-1].target for exchange in calls}
    record(clean_database_url, tmp_path, calls, [task for task, target in last.items() if target == "fast"])
    recorded = replayed(clean_database_url, policy_of(EXPLORING))["all"]
    total_usd = sum(exchange.cost_nusd() or 0 for exchange in calls) * 1e-9
    per_task_usd = total_usd / sum(target == "fast" for target in last.values())
    assert figure(recorded, "old", "cost_per_completed_task_usd") == pytest.approx(per_task_usd)
    banned = replayed(clean_database_url, policy_of(ONLY % "fast"))["all"]
    predicted = banned["new"]["cost_per_completed_task_usd"]
    mean_usd = TRUTHS["fast"].cost_usd * math.exp(0.5**2 / 2)  # of a log-normal
    assert predicted["low"] < mean_usd < predicted["high"]
    nothing = replayed(clean_database_url, policy_of(ONLY % "slow"))["all"]
    assert nothing["new"]["cost_per_completed_task_usd"] is None  # slow completes no task
