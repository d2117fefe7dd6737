from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from dashboard import rows as single
from dashboard.advice import queries, sentences
from tests.dashboard import traffic


def test_the_slowest_and_the_costliest_come_first(reader: Engine, writer: Engine, start: datetime) -> None:
    at = time.time() - 60
    quick = [traffic.exchange(at, tokens=2, cost_nusd=900_000) for _ in range(20)]
    slow = [traffic.exchange(at, target=traffic.CLAUDE, ttft_s=8.0, cost_nusd=100_000) for _ in range(20)]
    few = [traffic.exchange(at, target=traffic.FLASH, ttft_s=50.0, cost_nusd=None) for _ in range(19)]
    traffic.write(writer, [*quick, *slow, *few])
    sample = single.sample(reader, start, datetime.now(UTC), None)
    slowest = [line.text for line in sentences.slowest(sample.calls)]
    assert [traffic.CLAUDE in slowest[0], traffic.ENGINE in slowest[1], len(slowest)] == [True, True, 2]
    costliest = [line.text for line in sentences.costliest(queries.costs(reader, start, None))]
    assert "90.0 % of the cost" in costliest[0]
    assert "10.0 % of the cost" in costliest[1]


def test_long_unstreamed_calls_are_named(reader: Engine, writer: Engine, start: datetime) -> None:
    at = time.time() - 60
    made = [traffic.exchange(at, tokens=tokens) for tokens in (301, 900, 300, 500)]
    for each in made[:3]:
        each.stream = False
    traffic.write(writer, made)
    rows = queries.unstreamed(reader, start, None)
    assert rows["calls"].tolist() == [2]
    assert rows["waited_s"].tolist() == [pytest.approx((made[0].total_s + made[1].total_s) / 2)]
    said = sentences.unstreamed(rows)[0].text
    assert "calls without a workflow on /v1/chat/completions" in said
    assert "2 unstreamed calls of more than 300" in said


def test_a_shape_whose_newest_decision_had_one_target_has_no_fallback(
    reader: Engine, writer: Engine, start: datetime
) -> None:
    at = time.time() - 60
    alone = traffic.exchange(at, shape="support", target=traffic.CLAUDE)
    again = traffic.exchange(at - 60, shape="agent_loop")
    pinned = traffic.exchange(at, shape="classification")
    for made in (alone, again, pinned):
        assert isinstance(made.decision, dict)
        made.decision["candidates"] = made.decision["candidates"][:1]
    assert isinstance(pinned.decision, dict)
    pinned.decision["reason"] = "the model name pins engine"
    traffic.write(writer, [alone, again, pinned, traffic.exchange(at, shape="agent_loop")])
    choices = single.newest_choices(reader, start, 100)
    said = [line.text for line in sentences.without_fallback(choices, None)]
    assert len(said) == 1
    assert "support" in said[0]
    assert "only claude can serve it now" in said[0]
    assert sentences.without_fallback(choices, "agent_loop") == []
