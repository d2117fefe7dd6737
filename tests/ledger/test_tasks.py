"""Tasks: what they cost and how they ended, in rows, sums and the view; whatever the order in which that was said."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, text

from gateway.ledger import tasks
from gateway.ledger.batch import write
from gateway.ledger.database import create_engine
from gateway.ledger.drain import Drain
from gateway.ledger.records import Attempt, Exchange, Usage, outcome_record, shadow_record, utc, uuid7
from gateway.ledger.rollups import OTHER, WORKFLOWS, Workflows
from gateway.ledger.spool import Spool
from tests.conftest import PostgresServer
from tests.ledger.conftest import NOON, carried
from tests.ledger.test_joining import asked, exchange_of

MIB = 1024**2
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def shared_engine(postgres: PostgresServer) -> Iterator[Engine]:
    url = postgres.create()
    engine = create_engine(url)
    yield engine
    engine.dispose()
    postgres.drop(url)


def tried(
    target: str, cost_nusd: int | None, result: str = "ok", tokens: tuple[int, int] = (0, 0)
) -> Attempt:
    usage = Usage(*tokens)
    attempt = Attempt(target, "m", NOON, id=uuid7(NOON), usage=usage, cost_nusd=cost_nusd, total_s=1.0)
    attempt.result = result  # type: ignore[assignment]
    return attempt


def call(at: float, *attempts: Attempt, task: str | None = "t", **changes: Any) -> Exchange:
    for attempt in attempts:
        attempt.started_at, attempt.id = at, uuid7(at)
    plain: dict[str, Any] = {"verdict": "completed", "status": 200, "shape": "agent_loop", "total_s": 1.0}
    return Exchange(
        "alice",
        "/v1/chat/completions",
        False,
        at,
        id=uuid7(at),
        task_id=task,
        attempts=list(attempts),
        **(plain | changes),
    )


def said(at: float, status: str, task: str = "t", workflow: str | None = None) -> dict[str, Any]:
    record = outcome_record("alice", task, status, None, workflow)
    record["outcome"] |= {"reported_at": utc(at).isoformat(), "id": str(uuid7(at))}
    return record


def store(engine: Engine, *records: Exchange | dict[str, Any]) -> None:
    with engine.begin() as connection:
        write(connection, [carried(r) if isinstance(r, Exchange) else r for r in records])


def rows(engine: Engine, query: str, **values: Any) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(text(query), values).mappings()]


def one(engine: Engine, task: str = "t") -> dict[str, Any]:
    (row,) = rows(engine, "SELECT * FROM tasks WHERE task_id = :task", task=task)
    return row


def sums(engine: Engine) -> list[tuple[Any, ...]]:
    """(shape, target, status, tasks, calls, attempts, nano-dollars, unpriced), zeros left out."""
    query = """
    SELECT shape, target, status, sum(tasks)::int, sum(calls)::int, sum(attempts)::int, (sum(cost_usd) * 1e9)::bigint,
        sum(unpriced)::int
    FROM task_sums GROUP BY 1, 2, 3 HAVING sum(tasks) <> 0 OR sum(calls) <> 0 OR sum(cost_usd) <> 0 ORDER BY 1, 2, 3
    """
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(query))]


def test_the_worked_example_of_the_docs(engine: Engine, tmp_path: Path) -> None:
    """A task of three calls, one retried, one hedged; it failed, and was completed on the second try."""
    spool = Spool(tmp_path, "worker-0", 64 * MIB)
    retried = call(
        NOON,
        tried("flash", 312_000, "bad_response", (1000, 10)),
        tried("engine", 27_778, "ok", (1000, 200)),
        workflow="fix a bug",
        verdict=None,
    )
    hedged = call(
        NOON + 10,
        tried("claude", 4_500_000, "hedge_lost", (1500, 0)),
        tried("flash", 810_000, "ok", (1500, 300)),
    )
    spool.append(retried.record())
    spool.append(hedged.record())
    spool.append(said(NOON + 20, "failed"))
    spool.append(call(NOON + 30, tried("claude", 12_000_000, "ok", (2000, 400))).record())
    spool.append(said(NOON + 40, "completed"))
    spool.append(
        call(NOON + 50, tried("flash", 360_001), task="u", workflow="fix a bug", verdict="failed").record()
    )
    on_trial = tried("spare", 99_000_000)
    on_trial.id = uuid7(NOON)
    spool.append(shadow_record(on_trial, retried.id, 2))
    spool.close()
    Drain(engine, tmp_path).step()

    task = one(engine)
    assert (task["status"], task["workflow"], task["calls"], task["attempts"]) == (
        "completed",
        "fix a bug",
        3,
        5,
    )
    assert task["cost_usd"] == Decimal("0.017649778")  # 312,000 + 27,778 + 4,500,000 + 810,000 + 12,000,000
    assert task["unpriced"] == 0
    assert task["spent"] == {
        "flash": [2, 1_122_000, 0],
        "engine": [1, 27_778, 0],
        "claude": [2, 16_500_000, 0],
    }
    assert (task["shape"], task["target"]) == ("agent_loop", "flash")
    (view,) = rows(engine, "SELECT * FROM cost_per_completed_task")
    assert view["usd_per_completed_task"] == view["cost_usd"] == Decimal("0.018009779")  # + 360,001
    assert (view["day"].isoformat(), view["workflow"], view["target"]) == ("2026-11-21", "fix a bug", "flash")
    counts = [
        view[name] for name in ("tasks", "completed", "failed", "abandoned", "open", "calls", "attempts")
    ]
    assert counts == [2, 1, 1, 0, 0, 4, 6]
    costs = """
    SELECT status, target, attempts, (cost_usd * 1e9)::bigint AS nusd FROM task_costs WHERE attempts <> 0 ORDER BY 1, 2
    """
    assert [tuple(row.values()) for row in rows(engine, costs)] == [
        ("completed", "claude", 2, 16_500_000),
        ("completed", "engine", 1, 27_778),
        ("completed", "flash", 2, 1_122_000),
        ("failed", "flash", 1, 360_001),
    ]


def test_what_no_task_completed_has_no_cost_per_completed_task(engine: Engine) -> None:
    store(engine, call(NOON, tried("flash", 5), verdict="failed"), call(NOON, tried("flash", None), task="u"))
    store(engine, said(NOON + 5, "failed", "u"))
    (view,) = rows(engine, "SELECT * FROM cost_per_completed_task")
    assert (view["usd_per_completed_task"], view["cost_usd"], view["unpriced"]) == (None, Decimal("5e-9"), 1)


def test_the_call_that_ended_last_decides_whatever_comes_last(engine: Engine) -> None:
    store(engine, call(NOON + 10, verdict="completed"))
    store(engine, call(NOON, tried("first", 1), verdict="failed", shape="short_chat"))
    task = one(engine)
    assert (task["status"], task["shape"], task["target"]) == ("completed", "short_chat", "first")
    assert task["first_seen_at"] == datetime.fromtimestamp(NOON, UTC)
    assert task["last_at"] == datetime.fromtimestamp(NOON + 11, UTC)
    assert sums(engine) == [("short_chat", "first", "completed", 1, 2, 1, 1, 0)]
    store(engine, call(NOON + 20, verdict=None))
    assert (one(engine)["status"], sums(engine)[0][2]) == ("open", "open")


def test_the_newest_outcome_outweighs_verdicts_and_earlier_ones(engine: Engine) -> None:
    store(engine, call(NOON, verdict="completed"), said(NOON + 9, "failed"))
    assert one(engine)["status"] == "failed"
    store(engine, said(NOON + 5, "abandoned"))
    assert one(engine)["status"] == "failed"
    store(engine, call(NOON + 20, verdict="completed"), said(NOON + 30, "completed"))
    assert one(engine)["status"] == "completed"
    assert [row["status"] for row in rows(engine, "SELECT status FROM outcomes ORDER BY reported_at")] == [
        *("abandoned", "failed", "completed")
    ]


def test_an_outcome_may_come_before_the_first_call(engine: Engine) -> None:
    store(engine, said(NOON, "failed", workflow="tickets"))
    assert (one(engine)["status"], one(engine)["calls"], sums(engine)) == ("failed", 0, [])
    store(engine, call(NOON + 60, tried("a", 7), verdict="completed"))
    task = one(engine)
    assert (task["status"], task["workflow"], task["calls"]) == ("failed", "tickets", 1)
    assert task["first_seen_at"] == datetime.fromtimestamp(NOON + 60, UTC)
    assert sums(engine) == [("agent_loop", "a", "failed", 1, 1, 1, 7, 0)]


def test_a_call_that_ends_its_own_task_has_no_row_until_something_joins_it(engine: Engine) -> None:
    first = exchange_of(NOON, asked("a"), attempts=[tried("x", 10)], shape="short_chat")
    store(engine, first)
    assert rows(engine, "SELECT * FROM tasks") == []
    assert sums(engine) == [("short_chat", "x", "completed", 1, 1, 1, 10, 0)]
    store(engine, exchange_of(NOON + 5, asked("a", "b", "c"), attempts=[tried("y", 5)], verdict="failed"))
    task = one(engine, first.request_id)
    assert (task["calls"], task["cost_usd"], task["status"]) == (2, Decimal("15e-9"), "failed")
    assert (task["shape"], task["target"]) == ("short_chat", "x")
    assert sums(engine) == [("short_chat", "x", "failed", 1, 2, 2, 15, 0)]


def test_an_outcome_may_name_any_call_of_a_task(engine: Engine) -> None:
    calls = [
        exchange_of(NOON, asked("a"), attempts=[tried("x", 10)]),
        exchange_of(NOON + 5, asked("a", "b", "c"), attempts=[tried("x", 20)]),
        exchange_of(NOON + 9, asked("alone"), attempts=[tried("x", 40)]),
    ]
    store(engine, *calls)
    store(
        engine,
        said(NOON + 20, "failed", calls[1].request_id),
        said(NOON + 20, "abandoned", calls[2].request_id),
    )
    assert one(engine, calls[0].request_id)["status"] == "failed"
    alone = one(engine, calls[2].request_id)
    assert (alone["status"], alone["calls"], alone["cost_usd"]) == ("abandoned", 1, Decimal("40e-9"))
    assert sums(engine) == [("", "x", "abandoned", 1, 1, 1, 40, 0), ("", "x", "failed", 1, 2, 2, 30, 0)]
    theirs = outcome_record("bob", calls[0].request_id, "completed", None, None)
    store(engine, theirs)
    assert rows(engine, "SELECT status FROM tasks WHERE caller = 'alice' AND calls = 2") == [
        {"status": "failed"}
    ]


def test_an_outcome_that_names_a_call_to_come_finds_it(engine: Engine) -> None:
    late = exchange_of(NOON, asked("a"), attempts=[tried("x", 10)])
    store(engine, said(NOON + 2, "failed", late.request_id))
    store(engine, late)
    assert sums(engine) == [("", "x", "failed", 1, 1, 1, 10, 0)]


def test_an_outcome_that_names_a_later_call_to_come_finds_its_task_within_a_sweep(engine: Engine) -> None:
    first = exchange_of(NOON, asked("a"), attempts=[tried("x", 10)])
    later = exchange_of(NOON + 5, asked("a", "b", "c"), attempts=[tried("x", 20)])
    store(engine, first)
    store(engine, said(NOON + 9, "failed", later.request_id))
    store(engine, later)
    with engine.begin() as connection:
        tasks.reunite(connection, datetime.fromtimestamp(NOON + 60, UTC), Workflows())
    assert rows(engine, "SELECT task_id, status, calls FROM tasks") == [
        {"task_id": first.request_id, "status": "failed", "calls": 2}
    ]
    assert rows(engine, "SELECT task_id FROM outcomes") == [{"task_id": first.request_id}]
    assert sums(engine) == [("", "x", "failed", 1, 2, 2, 30, 0)]


def test_a_call_joins_the_task_that_others_named_after_it_before_it_came(engine: Engine) -> None:
    first = exchange_of(NOON, asked("a"), attempts=[tried("x", 10)], shape="short_chat")
    store(engine, call(NOON + 5, tried("y", 5), task=first.request_id))
    store(engine, first)
    assert (one(engine, first.request_id)["calls"], one(engine, first.request_id)["target"]) == (2, "x")
    assert sums(engine) == [("short_chat", "x", "completed", 1, 2, 2, 15, 0)]


def test_an_outcome_written_beside_its_call_by_another_drain_finds_it_within_a_sweep(engine: Engine) -> None:
    store(engine, call(NOON - 60, tried("", 0)))  # makes the partitions of the day, for which all wait
    exchange = exchange_of(NOON, asked("a"), attempts=[tried("x", 10)])
    with engine.connect() as one_drain, one_drain.begin() as unfinished:
        write(one_drain, [carried(exchange)])
        store(engine, said(NOON + 2, "failed", exchange.request_id))
        unfinished.commit()
    assert [row[1:3] for row in sums(engine)] == [("x", "completed"), ("", "completed")]
    now = datetime.fromtimestamp(NOON + 60, UTC)
    for _ in range(2):
        with engine.begin() as connection:
            tasks.reunite(connection, now, Workflows())
        assert sums(engine)[0] == ("", "x", "failed", 1, 1, 1, 10, 0)


def test_silent_tasks_are_abandoned_until_a_call_comes(engine: Engine) -> None:
    patient = call(NOON, tried("x", 3), task="patient", verdict=None, open_for_s=7200.0)
    store(engine, call(NOON, tried("x", 2), verdict=None, open_for_s=60.0), patient)
    store(engine, call(NOON, task="done"))

    def sweep(after_s: float) -> int:
        with engine.begin() as connection:
            return tasks.abandon_silent(connection, datetime.fromtimestamp(NOON + after_s, UTC))

    assert [sweep(60.5), sweep(62), sweep(62)] == [0, 1, 0]
    assert [one(engine, t)["status"] for t in ("t", "patient", "done")] == ["abandoned", "open", "completed"]
    assert ("agent_loop", "x", "abandoned", 1, 1, 1, 2, 0) in sums(engine)
    store(engine, call(NOON + 300, verdict=None))
    assert one(engine)["status"] == "open"
    assert [sweep(4000), one(engine)["status"]] == [1, "abandoned"]  # an hour, where the record does not say
    store(engine, said(NOON + 9000, "completed"))
    assert one(engine)["status"] == "completed"


def test_workflows_beyond_a_hundred_an_hour_are_counted_as_one(engine: Engine) -> None:
    many = [call(NOON, tried("x", 1), task=f"t{i:03}", workflow=f"w{i}") for i in range(WORKFLOWS + 5)]
    alone = [exchange_of(NOON, asked(f"{i}"), workflow=f"x{i}", attempts=[tried("x", 1)]) for i in range(3)]
    workflows = Workflows()
    for exchanges in (many, alone):
        with engine.begin() as connection:
            write(connection, [carried(exchange) for exchange in exchanges], workflows)
    others = (
        "SELECT status, sum(tasks)::int AS n FROM task_sums WHERE workflow = :other GROUP BY 1 ORDER BY 1"
    )
    assert rows(engine, others, other=OTHER) == [{"status": "completed", "n": 8}]
    assert one(engine, "t104")["workflow"] == "w104"
    with engine.begin() as connection:  # a drain that has just started
        ended = [said(NOON + 9, "failed", task) for task in ("t104", *(call.request_id for call in alone))]
        write(connection, ended, Workflows())
    assert rows(engine, others, other=OTHER) == [
        {"status": "completed", "n": 4},
        {"status": "failed", "n": 4},
    ]


RECOMPUTED = """
WITH called AS (
    SELECT caller, task_id, count(*) AS calls, sum(attempts) AS attempts FROM exchanges GROUP BY 1, 2
), paid AS (
    SELECT caller, task_id, coalesce(sum(try.cost_usd), 0) AS cost_usd, count(*) - count(try.cost_usd) AS unpriced
    FROM exchanges JOIN attempts try ON try.exchange_id = exchanges.id GROUP BY 1, 2
), newest AS (
    SELECT DISTINCT ON (caller, task_id) caller, task_id, status FROM outcomes
    ORDER BY caller, task_id, reported_at DESC, id DESC
), first AS (
    SELECT DISTINCT ON (exchanges.caller, exchanges.task_id) exchanges.caller, exchanges.task_id, exchanges.shape,
        try.target, date_bin('1 minute', exchanges.started_at, 'epoch') AS at
    FROM exchanges JOIN attempts try ON try.exchange_id = exchanges.id AND try.ordinal = 0
    ORDER BY exchanges.caller, exchanges.task_id, exchanges.started_at
), last AS (
    SELECT DISTINCT ON (caller, task_id) caller, task_id, verdict FROM exchanges
    ORDER BY caller, task_id, started_at + make_interval(secs => total_s) DESC
)
SELECT at, shape, target, coalesce(newest.status, verdict, 'open') AS status, count(*)::int AS tasks,
    sum(calls)::int AS calls, sum(attempts)::int AS attempts, sum(cost_usd) AS cost_usd, sum(unpriced)::int AS unpriced
FROM called JOIN paid USING (caller, task_id) JOIN first USING (caller, task_id) JOIN last USING (caller, task_id)
LEFT JOIN newest USING (caller, task_id) WHERE caller = :caller
GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
"""
SUMMED = """
SELECT at, shape, target, status, sum(tasks)::int AS tasks, sum(calls)::int AS calls, sum(attempts)::int AS attempts,
    sum(cost_usd) AS cost_usd, sum(unpriced)::int AS unpriced
FROM task_sums WHERE workflow = :caller GROUP BY 1, 2, 3, 4
HAVING sum(tasks) <> 0 OR sum(calls) <> 0 OR sum(attempts) <> 0 OR sum(cost_usd) <> 0 ORDER BY 1, 2, 3, 4
"""


def some_records(chance: Random, caller: str) -> list[Exchange | dict[str, Any]]:
    """Calls of a few tasks and of none, and outcomes; each caller has a workflow of its own name."""
    records: list[Exchange | dict[str, Any]] = []
    for i in range(chance.randint(1, 12)):
        at = NOON + chance.uniform(0, 300) + i * 1e-3
        targets = [chance.choice("xyz") for _ in range(chance.randint(1, 3))]
        attempts = [tried(target, chance.choice([None, chance.randint(0, 10**7)])) for target in targets]
        verdict = chance.choice(["completed", "failed", None])
        exchange = call(at, *attempts, task=chance.choice([None, "a", "b"]), verdict=verdict)
        exchange.caller = exchange.workflow = caller
        exchange.shape = chance.choice(["short_chat", "support"])
        records.append(exchange)
        if chance.random() < 0.4:
            task = exchange.task_id or exchange.request_id
            records.append(said(at + chance.uniform(-5, 60), chance.choice(["completed", "failed"]), task))
            records[-1]["outcome"]["caller"] = caller  # type: ignore[index]
    return records


@settings(max_examples=25)
@given(st.integers())
def test_sums_are_what_the_rows_come_to(shared_engine: Engine, seed: int) -> None:
    """In any order and batches, some of which come twice."""
    chance = Random(seed)
    caller = str(uuid7())
    records = some_records(chance, caller)
    chance.shuffle(records)
    while records:
        some = records[: chance.randint(1, 5)]
        del records[: len(some)]
        for _ in range(chance.choice([1, 1, 2])):
            store(shared_engine, *some)
    assert rows(shared_engine, SUMMED, caller=caller) == rows(shared_engine, RECOMPUTED, caller=caller)
    costs = """
    SELECT target, sum(attempts)::int AS attempts, sum(cost_usd) AS cost_usd, sum(unpriced)::int AS unpriced
    FROM task_costs WHERE workflow = :caller GROUP BY 1 ORDER BY 1
    """
    paid = """
    SELECT try.target, count(*)::int AS attempts, coalesce(sum(try.cost_usd), 0) AS cost_usd,
        (count(*) - count(try.cost_usd))::int AS unpriced
    FROM exchanges JOIN attempts try ON try.exchange_id = exchanges.id WHERE caller = :caller GROUP BY 1 ORDER BY 1
    """
    assert rows(shared_engine, costs, caller=caller) == rows(shared_engine, paid, caller=caller)


def test_drains_that_write_at_once_neither_lose_nor_block_each_other(engine: Engine) -> None:
    """Two connections, the same tasks in other orders."""
    batches = [
        [call(NOON + i + worker / 10, tried("x", 1), task=f"t{i % 7}", verdict=None) for i in range(50)]
        for worker in range(2)
    ]
    store(engine, call(NOON - 60, tried("x", 0), task="first", shape="general"))  # makes the day's partitions
    failures: list[BaseException] = []

    def drain(calls: Sequence[Exchange]) -> None:
        try:
            for i in range(0, len(calls), 5):
                store(engine, *calls[i : i + 5])
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=drain, args=[calls]) for calls in (batches[0], list(reversed(batches[1])))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []
    assert sums(engine)[0] == ("agent_loop", "x", "open", 7, 100, 100, 100, 0)


def test_a_row_that_another_drain_made_meanwhile_is_locked_before_those_made_here(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One drain makes `a` as it sees no `b`; others make `b`, and lock it on the way to `a`."""

    def open_call(task: str, minute: int) -> Exchange:
        return call(NOON + 60 * minute, tried("x", 1), task=task, verdict=None)

    store(engine, open_call("first", -1))  # makes the day's partitions
    really_insert, has_locked_b, has_made_a = tasks._insert, threading.Event(), threading.Event()
    other = threading.Thread(target=store, args=[engine, open_call("a", 2), open_call("b", 3)], name="other")

    def insert(connection: Connection, made: Sequence[tasks.Task]) -> int:
        if threading.current_thread() is other:
            has_locked_b.set()
            assert has_made_a.wait(60)
            return really_insert(connection, made)
        if not has_made_a.is_set() and len(made) == 2:
            store(engine, open_call("b", 1))
            other.start()
            assert has_locked_b.wait(60)
        inserted = really_insert(connection, made)
        if other.ident is not None:
            has_made_a.set()
        return inserted

    monkeypatch.setattr(tasks, "_insert", insert)
    store(engine, open_call("a", 4), open_call("b", 5))
    other.join(60)
    assert rows(engine, "SELECT task_id, calls FROM tasks WHERE task_id <> 'first' ORDER BY 1") == [
        {"task_id": "a", "calls": 2},
        {"task_id": "b", "calls": 3},
    ]
    assert sum(found[3] for found in sums(engine)) == 3


def test_tasks_are_found_by_indexes_alone(engine: Engine) -> None:
    queries: dict[str, Callable[[Connection], str]] = {
        "tasks_silent_until_idx": lambda _: (
            "SELECT 1 FROM tasks WHERE status = 'open' AND silent_until < now()"
        ),
        "tasks_without_calls_idx": lambda _: "SELECT 1 FROM tasks WHERE calls = 0 AND task_id LIKE 'req\\_%'",
        "tasks_workflow_first_seen_at_idx": lambda _: (
            "SELECT 1 FROM tasks WHERE workflow = 'w' ORDER BY first_seen_at DESC LIMIT 9"
        ),
        "task_sums_pkey": lambda _: "SELECT sum(tasks) FROM task_sums WHERE at >= now()",
        "task_costs_pkey": lambda _: "SELECT sum(attempts) FROM task_costs WHERE at >= now()",
    }
    with engine.connect() as connection:
        connection.execute(text("SET enable_seqscan = off"))
        for index, query in queries.items():
            plan = "\n".join(connection.scalars(text(f"EXPLAIN {query(connection)}")))
            assert index in plan
