"""Calls that name no task join the task of the call that they go on from, in whatever order their records come."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from gateway.dispatch.threads import Threads
from gateway.ledger import joining
from gateway.ledger.batch import write
from gateway.ledger.database import create_engine
from gateway.ledger.drain import Drain
from gateway.ledger.records import Exchange, uuid7
from gateway.ledger.spool import Spool
from tests.conftest import PostgresServer
from tests.ledger.conftest import NOON, carried

MakeExchange = Callable[..., Exchange]
Message = dict[str, str]
THREADS = Threads(b"salt")
MIB = 1024**2


@pytest.fixture(scope="module")
def shared_engine(postgres: PostgresServer) -> Iterator[Engine]:
    """For properties: every example takes callers of its own."""
    url = postgres.create()
    engine = create_engine(url)
    yield engine
    engine.dispose()
    postgres.drop(url)


def exchange_of(
    at: float, history: list[Message], caller: str = "alice", lasts_s: float = 0.4, **changes: Any
) -> Exchange:
    thread = THREADS.of(caller, history, None)
    plain: dict[str, Any] = {"status": 200, "verdict": "completed", "total_s": lasts_s, "thread": thread}
    return Exchange(caller, "/v1/chat/completions", False, at, id=uuid7(at), **(plain | changes))


def asked(*said: str) -> list[Message]:
    """Messages of a conversation, turn about; the first is the user's."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(said)]


def store(engine: Engine, *exchanges: Exchange) -> list[str]:
    """In one batch. Returns their tasks."""
    with engine.begin() as connection:
        write(connection, [carried(exchange) for exchange in exchanges])
    return tasks_of(engine, *exchanges)


def tasks_of(engine: Engine, *exchanges: Exchange) -> list[str]:
    with engine.connect() as connection:
        found: dict[Any, str] = {
            row.id: row.task_id for row in connection.execute(text("SELECT id, task_id FROM exchanges"))
        }
    return [found[exchange.id] for exchange in exchanges]


def test_a_conversation_is_one_task_named_after_its_first_call(engine: Engine) -> None:
    calls = [
        exchange_of(NOON, asked("a")),
        exchange_of(NOON + 1, asked("a", "b", "c")),
        exchange_of(NOON + 2, asked("a", "b", "c", "d", "e")),
    ]
    assert store(engine, calls[0]) == [calls[0].request_id]
    assert store(engine, *calls[1:]) == [calls[0].request_id] * 2


def test_conversations_that_begin_alike_stay_apart(engine: Engine) -> None:
    one, two = exchange_of(NOON, asked("hello")), exchange_of(NOON + 1, asked("hello"))
    later = [exchange_of(NOON + 2, asked("hello", "a", "b")), exchange_of(NOON + 3, asked("hello", "c", "d"))]
    found = store(engine, one, two, *later)
    assert found[:2] == [one.request_id, two.request_id]
    assert sorted(found[2:]) == sorted(found[:2])


def test_the_same_conversation_twice_is_two_tasks(engine: Engine) -> None:
    """Deterministic answers: every call of the second one equals one of the first."""
    script = [asked("a"), asked("a", "b", "c"), asked("a", "b", "c", "d", "e")]
    first = store(engine, *(exchange_of(NOON + i, history) for i, history in enumerate(script)))
    second = store(engine, *(exchange_of(NOON + 10 + i, history) for i, history in enumerate(script)))
    assert (len(set(first)), len(set(second)), len(set(first + second))) == (1, 1, 2)


def test_parallel_and_repeated_steps_belong_to_their_task(engine: Engine) -> None:
    opening = exchange_of(NOON, asked("a"))
    parallel = [exchange_of(NOON + 1, asked("a", "b", "c")), exchange_of(NOON + 1, asked("a", "b", "d"))]
    again = exchange_of(NOON + 5, asked("a", "b", "c"))
    deeper = exchange_of(NOON + 9, asked("a", "b", "c", "x", "y"))
    assert set(store(engine, opening, *parallel, again, deeper)) == {opening.request_id}


def test_another_answer_to_a_place_that_is_taken_is_no_branch_of_it(engine: Engine) -> None:
    """Its beginning was not seen: it went elsewhere, or long ago."""
    first, second = exchange_of(NOON, asked("a")), exchange_of(NOON + 1, asked("a", "b", "c"))
    stranger = exchange_of(NOON + 2, asked("a", "other", "c"))
    assert store(engine, first, second, stranger)[2] == stranger.request_id


def test_an_unanswered_call_that_is_made_again_is_the_same_task_for_a_minute(engine: Engine) -> None:
    failed = exchange_of(NOON, asked("a"), status=502, error_code="upstream_error", verdict="failed")
    again = exchange_of(NOON + 2, asked("a"))
    goes_on = exchange_of(NOON + 4, asked("a", "b", "c"))
    assert set(store(engine, failed, again, goes_on)) == {failed.request_id}
    broke_off = exchange_of(NOON + 50, asked("b"), error_code="cut_off", verdict="failed")
    assert set(store(engine, broke_off, exchange_of(NOON + 52, asked("b")))) == {broke_off.request_id}
    later = exchange_of(NOON + 100, asked("a"))
    assert store(engine, later) == [later.request_id]
    lost = exchange_of(NOON + 200, asked("z"), status=502, verdict="failed")
    too_late = exchange_of(NOON + 270, asked("z"))
    assert store(engine, lost, too_late) == [lost.request_id, too_late.request_id]


def test_callers_never_share_a_task(engine: Engine) -> None:
    mine, yours = exchange_of(NOON, asked("a")), exchange_of(NOON + 1, asked("a", "b", "c"), caller="bob")
    assert store(engine, mine, yours) == [mine.request_id, yours.request_id]


def test_what_is_cut_or_edited_far_back_is_found_by_the_rest(engine: Engine) -> None:
    turns = [str(i) for i in range(12)]
    calls = [exchange_of(NOON + i, asked(*turns[: 2 * i + 1])) for i in range(6)]
    task = set(store(engine, *calls))
    cut = [*turns[:5], "a tool's result, made shorter", *turns[6:], "next"]
    assert set(store(engine, exchange_of(NOON + 9, asked(*cut)))) == task == {calls[0].request_id}


def test_a_call_without_messages_is_its_own_task(engine: Engine) -> None:
    embedding = exchange_of(NOON, [])
    assert embedding.thread is None
    assert store(engine, embedding) == [embedding.request_id]


def test_a_task_that_the_caller_names_stands(engine: Engine) -> None:
    named = exchange_of(NOON, [], task_id="mine")
    assert store(engine, named) == ["mine"]


def test_a_beginning_that_comes_late_joins_what_went_on_from_it(engine: Engine) -> None:
    first, second = exchange_of(NOON, asked("a")), exchange_of(NOON + 1, asked("a", "b", "c"))
    third = exchange_of(NOON + 2, asked("a", "b", "c", "d", "e"))
    assert store(engine, third) == [third.request_id]
    assert store(engine, second) == [third.request_id]
    assert store(engine, first) == [third.request_id]
    fourth = exchange_of(NOON + 3, asked("a", "b", "c", "d", "e", "f", "g"))
    assert store(engine, fourth) == [third.request_id]
    another = exchange_of(NOON + 60, asked("a"))
    assert store(engine, another) == [another.request_id]


def test_calls_that_share_their_examples_are_tasks_of_their_own(engine: Engine) -> None:
    calls = [exchange_of(NOON + i, asked("an example", "its answer", f"case {i}")) for i in range(3)]
    assert len(set(store(engine, *calls))) == 3
    again = [exchange_of(NOON + 9 + i, asked("an example", "its answer", "case 0")) for i in range(3)]
    assert len(set(store(engine, *calls, *again))) == 6
    goes_on = exchange_of(NOON + 20, asked("an example", "its answer", "case 2", "its end", "thanks"))
    assert store(engine, goes_on) == [calls[2].request_id]


def test_of_many_calls_alike_a_few_are_remembered(engine: Engine) -> None:
    calls = [exchange_of(NOON + i, asked("ping")) for i in range(3 * joining.MOST)]
    store(engine, *calls[: joining.MOST])
    store(engine, *calls[joining.MOST :])
    with engine.connect() as connection:
        places = connection.scalars(text("SELECT task_id FROM task_prefixes")).all()
    assert sorted(places) == sorted(call.request_id for call in calls[-joining.MOST :])


def test_a_batch_that_comes_twice_changes_nothing(engine: Engine) -> None:
    calls = [exchange_of(NOON, asked("a")), exchange_of(NOON + 1, asked("a", "b", "c"))]
    tables = ("task_prefixes", "tasks", "task_sums", "task_costs")

    def state() -> list[Any]:
        with engine.connect() as connection:
            return [
                connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2")).all() for table in tables
            ]

    store(engine, *calls)
    once = state()
    store(engine, *calls)
    assert state() == once


def test_places_are_forgotten(engine: Engine) -> None:
    store(engine, exchange_of(NOON, asked("a")))
    with engine.begin() as connection:
        ended = connection.execute(text("SELECT at FROM task_prefixes")).scalar_one()
        joining.forget(connection, ended + joining.KEPT)
        assert connection.execute(text("SELECT count(*) FROM task_prefixes")).scalar_one() == 1
        joining.forget(connection, ended + joining.KEPT * 1.01)
        assert connection.execute(text("SELECT count(*) FROM task_prefixes")).scalar_one() == 0


def test_places_are_found_by_their_key_alone(engine: Engine) -> None:
    query = "SELECT * FROM task_prefixes WHERE hash = ANY (string_to_array('a,b', ','))"
    with engine.connect() as connection:
        connection.execute(text("SET enable_seqscan = off"))
        plan = "\n".join(connection.scalars(text(f"EXPLAIN {query}")))
    assert "task_prefixes_pkey" in plan


@dataclass(slots=True)
class Talk:
    """One conversation as a client leads it: every call brings all before it along."""

    caller: str
    said: list[str]
    calls: list[Exchange] = field(default_factory=list)
    ended: float = NOON

    def call(self, pause_s: float, lasts_s: float) -> None:
        at = self.ended + pause_s
        self.calls.append(exchange_of(at, asked(*self.said), self.caller, lasts_s))
        self.ended = at + lasts_s
        self.said += [f"answer {len(self.calls)} to {id(self)}", f"question {len(self.calls)}"]


EXAMPLES = itertools.count()


def talks_of(chance: Random, openings: list[str]) -> list[Talk]:
    """Conversations of one to five calls, at any pace, that begin so; two callers that no other example has."""
    example = next(EXAMPLES)
    talks = []
    for opening in openings:
        caller = f"{chance.choice(['ann', 'bob'])} {example}"
        talks.append(Talk(caller, [opening], ended=NOON + chance.uniform(0, 3)))
        for _ in range(chance.randint(1, 5)):
            talks[-1].call(chance.uniform(0.01, 3), chance.uniform(0.01, 2))
    return talks


def by_end(talks: list[Talk]) -> list[Exchange]:
    return sorted((c for talk in talks for c in talk.calls), key=lambda c: c.started_at + c.total_s)


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers())
def test_every_conversation_is_one_task_whichever_worker_is_behind(
    shared_engine: Engine, how_many: int, seed: int
) -> None:
    """Two workers' records come in batches of any size, each worker's own in the order in which they ended."""
    chance = Random(seed)
    talks = talks_of(chance, [f"question {i}" for i in range(how_many)])
    workers: tuple[list[Exchange], list[Exchange]] = ([], [])
    for call in by_end(talks):
        chance.choice(workers).append(call)
    while any(workers):
        taken = [worker[: chance.randint(0, 4)] for worker in workers]
        for worker, some in zip(workers, taken, strict=True):
            del worker[: len(some)]
        store(shared_engine, *itertools.chain(*taken))
    owners: defaultdict[tuple[str, str], list[Talk]] = defaultdict(list)
    for talk in talks:
        (task,) = set(tasks_of(shared_engine, *talk.calls))
        owners[talk.caller, task].append(talk)
    assert all(len(owned) == 1 for owned in owners.values())


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers())
def test_conversations_that_begin_alike_are_as_many_tasks(
    shared_engine: Engine, how_many: int, seed: int
) -> None:
    """Which of several equal first calls was whose nobody can tell; what follows stays together."""
    chance = Random(seed)
    talks = talks_of(chance, ["the same question"] * how_many)
    calls = by_end(talks)
    while calls:
        size = chance.randint(1, 5)
        store(shared_engine, *calls[:size])
        del calls[:size]
    for caller in {talk.caller for talk in talks}:
        mine = [talk for talk in talks if talk.caller == caller]
        firsts = tasks_of(shared_engine, *(talk.calls[0] for talk in mine))
        later = [set(tasks_of(shared_engine, *talk.calls[1:])) for talk in mine if talk.calls[1:]]
        assert len(set(firsts)) == len(mine)
        assert all(len(tasks) == 1 for tasks in later)
        assert len(set().union(*later)) == len(later)
        assert set().union(*later) <= set(firsts)


def test_two_workers_spools_make_one_task(engine: Engine, tmp_path: Path) -> None:
    spools = [Spool(tmp_path, f"worker-{i}", 64 * MIB) for i in range(2)]
    calls = [exchange_of(NOON + i, asked(*map(str, range(2 * i + 1)))) for i in range(6)]
    for i, call in enumerate(calls):
        spools[i % 2].append(call.record())
    for spool in reversed(spools):
        spool.close()
        Drain(engine, tmp_path).step()
    assert len(set(tasks_of(engine, *calls))) == 1
