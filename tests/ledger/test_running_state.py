"""`targets` says what the configuration says, `engine_samples` what engines said; maintenance keeps them small."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.config.deployment import Deployment
from gateway.ledger.batch import write
from gateway.ledger.database import create_async_engine
from gateway.ledger.engine_samples import record_engine_sample
from gateway.ledger.maintain import maintain
from gateway.ledger.records import Exchange, uuid7
from gateway.ledger.tables import latency_histograms
from gateway.ledger.targets import replace_targets
from tests.ledger.conftest import carried

MakeExchange = Callable[..., Exchange]
NOW = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)


def commit(url: str, work: Callable[[AsyncConnection], Awaitable[Any]]) -> None:
    async def run() -> None:
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await work(connection)
        await engine.dispose()

    asyncio.run(run())


def rows(engine: Engine, query: str) -> list[Any]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_targets_are_replaced_by_the_running_configuration(clean_database_url: str, engine: Engine) -> None:
    claude = {
        "kind": "litellm",
        "name": "claude",
        "model": "anthropic/claude-opus-4-8",
        "api_key": "sk-secret",
    }
    fast = {"kind": "openai", "name": "fast", "base_url": "https://fast.example/v1", "model": "f"}
    before = Deployment.model_validate({"targets": [claude, fast]})
    commit(clean_database_url, lambda connection: replace_targets(connection, before, {"claude": "no key"}))
    query = "SELECT name, kind, model, url, disabled_reason, usd_per_hour::float FROM targets ORDER BY name"
    assert rows(engine, query) == [
        ("claude", "litellm", "anthropic/claude-opus-4-8", None, "no key", None),
        ("engine", "engine", "smollm2-135m-instruct", "http://127.0.0.1:8090", None, 0.2),
        ("fast", "openai", "f", "https://fast.example/v1", None, None),
    ]
    after = Deployment.model_validate({"targets": [fast], "engine": {"enabled": False}})
    commit(clean_database_url, lambda connection: replace_targets(connection, after))
    assert [row[0] for row in rows(engine, query)] == ["fast"]


def test_an_engine_sample_keeps_the_figures_and_the_whole_answer(
    clean_database_url: str, engine: Engine
) -> None:
    state = {
        "running": 3,
        "waiting": 0,
        "kv_used_fraction": 0.25,
        "prefill_tokens_per_s": "n/a",
        "speculation": {"accepted_length": 2.25},
    }
    for _ in range(2):
        commit(clean_database_url, lambda connection: record_engine_sample(connection, "engine", state, NOW))
    query = (
        "SELECT running, kv_used_fraction, prefill_tokens_per_s, accepted_length, state FROM engine_samples"
    )
    assert rows(engine, query) == [(3, 0.25, None, 2.25, state)]


@pytest.mark.parametrize("speculation", [None, {}, {"accepted_length": None}, "off"])
def test_a_sample_of_an_engine_without_rounds_has_no_accepted_length(
    clean_database_url: str, engine: Engine, speculation: object
) -> None:
    state = {"running": 0, "speculation": speculation}
    commit(clean_database_url, lambda connection: record_engine_sample(connection, "engine", state, NOW))
    assert rows(engine, "SELECT running, accepted_length FROM engine_samples") == [(0, None)]


def add_histogram(engine: Engine, minute: datetime, counts: dict[int, int], target: str = "engine") -> None:
    row = {"batch_id": uuid7(), "minute": minute, "target": target, "shape": "general", "metric": "ttft_s"}
    with engine.begin() as connection:
        counted = {"k": list(counts), "n": list(counts.values())}
        connection.execute(insert(latency_histograms).values(row | counted))


def spans(engine: Engine) -> list[tuple[datetime, int, dict[int, int]]]:
    query = "SELECT minute, span_s, k, n FROM latency_histograms ORDER BY minute, target"
    return [(minute, span_s, dict(zip(k, n, strict=True))) for minute, span_s, k, n in rows(engine, query)]


def test_old_histograms_are_merged_to_hours_then_days(engine: Engine) -> None:
    hour, day = (
        NOW.replace(hour=3, minute=0) - timedelta(days=5),
        NOW.replace(hour=0, minute=0) - timedelta(days=70),
    )
    add_histogram(engine, hour, {1: 2, 5: 1})
    add_histogram(engine, hour + timedelta(minutes=59), {5: 3, 9: 1})
    add_histogram(engine, hour + timedelta(minutes=60), {7: 1})
    for at in (0, 5, 23):
        add_histogram(engine, day + timedelta(hours=at), {4: 1, at: 1})
    recent = NOW - timedelta(hours=48) + timedelta(minutes=1)
    add_histogram(engine, recent, {2: 1})
    before = sum((Counter(counts) for _, _, counts in spans(engine)), Counter())
    with engine.begin() as connection:
        done = maintain(connection, NOW, retention_days=90)
    assert done.histograms == {60: 7, 900: 7, 3600: 5, 86_400: 1}
    assert spans(engine) == [
        (day, 86_400, {0: 1, 4: 3, 5: 1, 23: 1}),
        (hour, 3600, {1: 2, 5: 4, 9: 1}),
        (hour + timedelta(hours=1), 3600, {7: 1}),
        (recent - timedelta(minutes=1), 900, {2: 1}),
    ]
    assert sum((Counter(counts) for _, _, counts in spans(engine)), Counter()) == before
    with engine.begin() as connection:
        again = maintain(connection, NOW, retention_days=90)
    assert set(again.histograms.values()) == {0}
    assert (again.made, again.dropped) == ([], [])


def test_maintenance_makes_the_next_days_and_drops_those_past_retention(
    engine: Engine, make_exchange: MakeExchange
) -> None:
    old = make_exchange((NOW - timedelta(days=31)).timestamp())
    kept = make_exchange((NOW - timedelta(days=30)).timestamp())
    with engine.begin() as connection:
        write(connection, [carried(old), carried(kept)])
        done = maintain(connection, NOW, retention_days=30)
    assert done.dropped == ["exchanges_20261022", "attempts_20261022"]
    assert [name for name in done.made if name.startswith("exchanges")] == [
        "exchanges_20261122",
        "exchanges_20261123",
        "exchanges_20261124",
    ]
    assert rows(engine, "SELECT id FROM exchanges") == [(kept.id,)]
