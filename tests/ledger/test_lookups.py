"""Exchanges and tasks read back whole, and only by their own caller."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.ledger import lookups
from gateway.ledger.batch import write
from gateway.ledger.database import create_async_engine
from gateway.ledger.records import Attempt, Exchange, Usage, outcome_record, uuid7
from tests.ledger.conftest import carried

MakeExchange = Callable[..., Exchange]
Ask = Callable[[Callable[[AsyncEngine], Awaitable[Any]]], Any]


@pytest.fixture
def ask(clean_database_url: str) -> Ask:
    """Runs one asynchronous lookup on the test's database."""

    def ask(lookup: Callable[[AsyncEngine], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            engine = create_async_engine(clean_database_url)
            try:
                return await lookup(engine)
            finally:
                await engine.dispose()

        return asyncio.run(run())

    return ask


def store(engine: Engine, *records: dict[str, Any]) -> None:
    with engine.begin() as connection:
        write(connection, records)


def failed_over(make_exchange: MakeExchange, **changes: object) -> Exchange:
    exchange = make_exchange(**changes)
    first = Attempt(
        target="flaky",
        model="m",
        started_at=exchange.started_at,
        id=uuid7(exchange.started_at),
        result="connect_error",
    )
    exchange.attempts.insert(0, first)
    return exchange


def test_an_exchange_comes_with_its_decision_and_attempts_in_order(
    engine: Engine, ask: Ask, make_exchange: MakeExchange
) -> None:
    exchange = failed_over(make_exchange, decision={"candidates": ["flaky", "engine"]})
    store(engine, carried(exchange), carried(make_exchange()))
    found = ask(lambda database: lookups.exchange(database, exchange.id, "alice"))
    assert orjson.loads(orjson.dumps(found)) == found
    assert found["request_id"] == exchange.request_id
    assert found["decision"] == {"candidates": ["flaky", "engine"]}
    assert [(a["ordinal"], a["target"], a["result"]) for a in found["attempts"]] == [
        (0, "flaky", "connect_error"),
        (1, "engine", "ok"),
    ]
    assert found["attempt_count"] == 2
    assert found["started_at"] == "2026-11-21T12:00:00+00:00"
    assert found["cost_usd"] is None  # of the first attempt it is unknown
    assert found["attempts"][1]["cost_usd"] == 0.0000015


def test_an_exchange_is_seen_by_its_caller_and_the_administrator(
    engine: Engine, ask: Ask, make_exchange: MakeExchange
) -> None:
    exchange = make_exchange()
    store(engine, carried(exchange))

    def is_seen_by(caller: str | None) -> bool:
        return ask(lambda database: lookups.exchange(database, exchange.id, caller)) is not None

    assert [is_seen_by(caller) for caller in ("alice", "bob", None)] == [True, False, True]
    assert ask(lambda database: lookups.exchange(database, uuid7(), None)) is None


def test_a_task_counts_all_its_attempts_and_the_last_outcome_wins(
    engine: Engine, ask: Ask, make_exchange: MakeExchange
) -> None:
    exchanges = [make_exchange(task_id="t", workflow="tickets"), failed_over(make_exchange, task_id="t")]
    exchanges[1].attempts[0].cost_nusd, exchanges[1].attempts[0].usage = 2_000_000, Usage(9, 9)
    unknown = make_exchange(task_id="t")
    unknown.attempts[0].cost_nusd = None
    records = [carried(exchange) for exchange in (*exchanges, unknown)]
    records += [carried(make_exchange(caller="bob", task_id="t")), carried(make_exchange(task_id="other"))]
    first = outcome_record("alice", "t", "failed", None, None)
    second = outcome_record("alice", "t", "completed", 0.5, None)
    second["outcome"]["reported_at"] = "2099-01-01T00:00:00+00:00"
    store(engine, *records, second, first)
    found = ask(lambda database: lookups.task(database, "alice", "t"))
    assert orjson.loads(orjson.dumps(found)) == found
    assert (found["caller"], found["task_id"], found["workflow"]) == ("alice", "t", "tickets")
    assert (found["exchanges"], found["attempts"]) == (3, 4)
    assert found["cost_usd"] == pytest.approx(0.0000015 * 2 + 0.002)
    assert found["attempts_of_unknown_cost"] == 1
    assert (found["input_tokens"], found["output_tokens"]) == (60, 33)
    assert (found["status"], found["score"]) == ("completed", 0.5)
    assert [outcome["status"] for outcome in found["outcomes"]] == ["failed", "completed"]
    assert sorted(found["request_ids"]) == sorted(e.request_id for e in (*exchanges, unknown))


def test_a_task_that_is_one_call_is_found_by_its_request_id(
    engine: Engine, ask: Ask, make_exchange: MakeExchange
) -> None:
    alone = failed_over(make_exchange, verdict="completed", workflow="tickets")
    alone.attempts[0].cost_nusd = None
    store(engine, carried(alone))
    found = ask(lambda database: lookups.task(database, "alice", alone.request_id))
    assert orjson.loads(orjson.dumps(found)) == found
    assert (found["task_id"], found["status"], found["workflow"]) == (
        alone.request_id,
        "completed",
        "tickets",
    )
    assert (found["exchanges"], found["attempts"], found["request_ids"]) == (1, 2, [alone.request_id])
    assert (found["cost_usd"], found["attempts_of_unknown_cost"]) == (0.0000015, 1)
    assert found["cost_by_target"] == {"engine": 0.0000015, "flaky": 0.0}
    assert (found["shape"], found["target"], found["outcomes"]) == ("short_chat", "flaky", [])
    assert ask(lambda database: lookups.task(database, "bob", alone.request_id)) is None
    store(engine, outcome_record("alice", alone.request_id, "failed", None, None))
    reported = ask(lambda database: lookups.task(database, "alice", alone.request_id))
    assert set(reported) == set(found)
    same = set(found) - {"status", "outcome", "outcome_at", "outcomes"}
    assert {name: reported[name] for name in same} == {name: found[name] for name in same}
    assert reported["status"] == "failed"


def test_the_request_id_of_any_call_names_its_task(
    engine: Engine, ask: Ask, make_exchange: MakeExchange
) -> None:
    long_ago = 1_600_000_000.0
    exchange = make_exchange(long_ago, task_id="t")
    store(engine, carried(exchange))
    found = ask(lambda database: lookups.task(database, "alice", exchange.request_id))
    assert (found["task_id"], found["request_ids"]) == ("t", [exchange.request_id])
    assert found["status"] == "abandoned"  # though no drain has marked it yet


def test_a_task_known_by_its_outcome_only_has_no_exchanges(engine: Engine, ask: Ask) -> None:
    store(engine, outcome_record("alice", "t", "abandoned", None, "tickets"))
    found = ask(lambda database: lookups.task(database, None, "t"))
    assert (found["exchanges"], found["attempts"], found["cost_usd"]) == (0, 0, 0.0)
    assert (found["status"], found["workflow"], found["request_ids"]) == ("abandoned", "tickets", [])
    assert ask(lambda database: lookups.task(database, "bob", "t")) is None
    assert ask(lambda database: lookups.task(database, "alice", "unknown")) is None


def test_recent_tasks_are_newest_first_and_filtered(
    engine: Engine, ask: Ask, make_exchange: MakeExchange
) -> None:
    at = make_exchange().started_at
    store(
        engine,
        carried(make_exchange(at, task_id="old", workflow="tickets")),
        carried(make_exchange(at + 90_000, task_id="new")),
        carried(make_exchange(at + 100, task_id="theirs", caller="bob", workflow="tickets")),
        outcome_record("alice", "old", "completed", None, None),
    )

    def ids(caller: str | None, **filters: Any) -> list[str]:
        found = ask(lambda database: lookups.recent_tasks(database, caller, **filters))
        return [task["task_id"] for task in found]

    assert ids(None) == ["new", "theirs", "old"]
    assert ids("alice") == ["new", "old"]
    assert ids(None, workflow="tickets") == ["theirs", "old"]
    assert ids(None, limit=1) == ["new"]
    (old,) = [
        t for t in ask(lambda database: lookups.recent_tasks(database, "alice")) if t["task_id"] == "old"
    ]
    assert (old["status"], old["exchanges"], old["cost_usd"]) == ("completed", 1, 0.0000015)
