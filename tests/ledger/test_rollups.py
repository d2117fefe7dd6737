"""Sums that the drain adds to equal the rows they are of, however these came: counted in Python and in SQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, text

from gateway.ledger.batch import write
from gateway.ledger.compaction import QUARTER, SUM_LEVELS, compact_sums
from gateway.ledger.inserts import insert
from gateway.ledger.records import Attempt, Exchange, Usage, shadow_record, uuid7
from gateway.ledger.rollups import OTHER, WORKFLOWS, Sums, Workflows, choice
from gateway.ledger.segments import decode_line, encode_line
from gateway.ledger.tables import attempt_sums, call_sums, choice_sums, rejection_sums
from tests.ledger.conftest import NOON, carried

MakeExchange = Callable[..., Exchange]
TABLES = (call_sums, attempt_sums, choice_sums, rejection_sums)
ROLES = ("candidate", "fallback", "explore", "sticky", "weighted")
TARGETS = ("engine", "cloud", "spare")
FIRST_LEVEL = [(QUARTER, SUM_LEVELS[0][1])]
LATER = datetime.fromtimestamp(NOON + 86_400, UTC)


def a_decision(random: Random) -> dict[str, Any] | None:
    named = random.sample(TARGETS, random.randrange(4))
    misses = [[], ["p95"]]
    candidates = [
        {"target": target, "role": random.choice(ROLES), "slo_misses": random.choice(misses)}
        for target in named
    ]
    reasons = ("the model name pins it", "under its load it would miss the SLO", "it has the best score")
    passed = [
        {"target": target, "reason": f"shedding after failures, for {random.random() * 99:.1f} s more"}
        for target in TARGETS
        if target not in named
    ]
    decision = {"reason": random.choice(reasons), "explored": random.random() < 0.1}
    return random.choice([None, decision | {"candidates": candidates, "rejections": passed}, {"draw": 0.5}])


def a_call(random: Random) -> tuple[Exchange, list[dict[str, Any]]]:
    """Of half a day, with what may be absent absent at times; and the shadow records made beside it."""
    at = NOON + random.random() * 43_200
    attempts = [an_attempt(random, at) for _ in range(random.randrange(4))]
    exchange = Exchange(
        caller=random.choice(["app", "site"]),
        endpoint=random.choice(["/v1/chat/completions", "/v1/messages"]),
        stream=random.random() < 0.5,
        started_at=at,
        id=uuid7(at),
        workflow=random.choice([None, "tickets", "mail"]),
        shape=random.choice([None, "support", "general"]),
        decision=a_decision(random),
        status=random.choice([200, 200, 200, 429, 499, 504]),
        ttft_s=random.choice([None, 0.3]),
        total_s=random.randrange(1, 4096) / 1024,  # sums of such are exact in any order
        error_code=random.choice([None, None, "client_gone", "cut_off"]),
        timed_out=random.choice([None, None, "total"]),
        cache=random.choice([None, None, "hit"]),
        saved_nusd=random.choice([None, 7]),
        attempts=attempts,
    )
    shadows = [an_attempt(random, at) for _ in range(random.random() < 0.2)]
    return exchange, [
        read_back(shadow_record(shadow, exchange.id, len(attempts) + i)) for i, shadow in enumerate(shadows)
    ]


def an_attempt(random: Random, at: float) -> Attempt:
    input_tokens, output_tokens, cached, written, reasoning = (random.randrange(1000) for _ in range(5))
    usage = Usage(input_tokens, output_tokens, cached, written, reasoning)
    return Attempt(
        random.choice(TARGETS),
        "m",
        at,
        id=uuid7(at),
        result=random.choice(["ok", "timeout_total", "hedge_lost"]),
        total_s=random.randrange(1, 4096) / 1024,
        usage=random.choice([usage, None]),
        cost_nusd=random.choice([None, 0, random.randrange(10**12)]),
    )


def read_back(record: dict[str, Any]) -> dict[str, Any]:
    found = decode_line(encode_line(record)[:-1])
    assert found is not None
    return found


def rows_of(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Without `example`, which is one of several."""
    found = {}
    with engine.connect() as connection:
        for table in TABLES:
            columns = ", ".join(column.name for column in table.columns if column.name != "example")
            key = ", ".join(column.name for column in table.primary_key)
            query = text(f"SELECT {columns} FROM {table.name} ORDER BY {key}")
            found[table.name] = [tuple(row) for row in connection.execute(query)]
    return found


def test_what_the_drain_adds_is_what_the_migration_counts_in_the_rows(engine: Engine) -> None:
    random = Random(7)
    calls = [a_call(random) for _ in range(600)]
    records = [carried(exchange) for exchange, _ in calls]
    shadows = [record for _, of_call in calls for record in of_call]
    assert len(shadows) > 50
    workflows = Workflows()
    for batch in (
        records[:1],
        records[:400],
        records[300:] + shadows,
        records,
        shadows[:9],
    ):  # some come twice
        with engine.begin() as connection:
            write(connection, batch, workflows)
    with engine.begin() as connection:
        compact_sums(connection, LATER, FIRST_LEVEL)
    added = rows_of(engine)
    migration = import_module("migrations.versions.0007_sums")
    with engine.begin() as connection:
        for table in TABLES:
            connection.execute(text(f"TRUNCATE {table.name}"))
        migration.count(connection)
    assert rows_of(engine) == added
    assert sum(row[-1] for row in added["choice_sums"]) == 600


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (None, ("", "refused")),
        ({}, ("", "none")),
        ({"candidates": "x"}, ("", "none")),
        ({"candidates": [{"target": "a"}]}, ("a", "only")),
        ({"candidates": [{"target": "a"}], "explored": True}, ("a", "explored")),
        ({"candidates": [{"target": "a"}], "reason": "the model name pins a"}, ("a", "pinned")),
        ({"candidates": [{"target": "a", "role": "fallback"}], "reason": "no candidate"}, ("a", "fallback")),
        (
            {"candidates": [{"target": "a", "role": "fallback"}], "reason": "under its load b"},
            ("a", "relief"),
        ),
        ({"candidates": [{"target": "a", "role": "sticky"}, {"target": "b"}]}, ("a", "sticky")),
        ({"candidates": [{"target": "a"}, {"target": "b", "role": "fallback"}]}, ("a", "only")),
        ({"candidates": [{"target": "a"}, {"target": "b", "slo_misses": ["p95"]}]}, ("a", "slo")),
        ({"candidates": [{"target": "a"}, {"target": "b"}]}, ("a", "score")),
    ],
)
def test_why_a_target_came_first(decision: Any, expected: tuple[str, str]) -> None:
    assert choice(decision) == expected


def test_workflows_beyond_a_hundred_of_an_hour_are_one(make_exchange: MakeExchange) -> None:
    sums = Sums(Workflows())
    for hour in range(2):
        for number in range(WORKFLOWS + 20):
            record = carried(make_exchange(NOON + 3600 * hour, workflow=f"w{number}"))
            sums.add(record["exchange"], record["attempts"])
    record = carried(make_exchange(NOON, workflow="w1"))
    sums.add(record["exchange"], record["attempts"])
    calls = {(row["at"][11:13], row["workflow"]): row["calls"] for row in sums.rows()[call_sums]}
    assert len(calls) == 2 * (WORKFLOWS + 1)
    assert calls["12", OTHER] == calls["13", OTHER] == 20
    assert (calls["12", "w1"], calls["13", "w1"]) == (2, 1)


def test_a_key_bears_the_longest_names(engine: Engine, make_exchange: MakeExchange) -> None:
    record = carried(make_exchange(workflow="工" * 300, decision={"rejections": [{"reason": "理" * 4000}]}))
    sums = Sums(Workflows())
    sums.add(record["exchange"], record["attempts"])
    with engine.begin() as connection:
        for table, rows in sums.rows().items():
            insert(connection, table, rows)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT length(workflow) FROM call_sums")) == 256
        assert connection.scalar(text("SELECT length(kind) FROM rejection_sums")) == 120


def test_a_moment_of_another_zone_belongs_to_its_minute_of_utc(make_exchange: MakeExchange) -> None:
    record = carried(make_exchange())
    record["exchange"]["started_at"] = "2026-11-21T15:00:59.5+03:00"
    sums = Sums(Workflows())
    sums.add(record["exchange"], record["attempts"])
    (row,) = sums.rows()[call_sums]
    assert row["at"] == "2026-11-21T12:00+00:00"


def test_money_is_exact_to_the_nano_dollar(engine: Engine, make_exchange: MakeExchange) -> None:
    for _ in range(3):
        exchange = make_exchange()
        exchange.attempts[0].cost_nusd = 10**17 + 1
        with engine.begin() as connection:
            write(connection, [carried(exchange)])
    with engine.connect() as connection:
        assert str(connection.scalar(text("SELECT cost_usd FROM call_sums"))) == "300000000.000000003"
