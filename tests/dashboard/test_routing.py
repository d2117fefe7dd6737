from __future__ import annotations

import time
from datetime import UTC, datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard import queries as ledger_queries
from dashboard import sample
from dashboard.charts import Axis
from dashboard.routing import charts, queries
from gateway.ledger.records import Exchange
from tests.dashboard import traffic


def whole(reader: Engine, start: datetime) -> sample.Sample:
    return sample.of_span(reader, start, datetime.now(UTC), None)


def told(made: Exchange, **changes: object) -> Exchange:
    assert isinstance(made.decision, dict)
    made.decision.update(changes)
    return made


def test_every_kind_of_choice_is_named(reader: Engine, writer: Engine, start: datetime) -> None:
    at = time.time() - 60
    both = traffic.decision("short_chat", traffic.ENGINE)["candidates"]
    missing = both[1] | {"slo_misses": ["ttft_p95_s"]}
    fallback = both[0] | {"role": "fallback"}
    refused = traffic.refused(at, 400, "bad_request")
    refused.decision = None
    traffic.write(
        writer,
        [
            traffic.exchange(at),
            traffic.exchange(at, explored=True),
            told(traffic.exchange(at), candidates=both[:1]),
            told(traffic.exchange(at), candidates=[both[0], missing]),
            told(traffic.exchange(at), candidates=[fallback]),
            told(traffic.exchange(at), reason="the model name pins engine", candidates=both[:1]),
            told(traffic.exchange(at), candidates=[]),
            refused,
        ],
    )
    rows = queries.why(reader, whole(reader, start))
    assert set(rows["why"]) == {
        "best score",
        "explored",
        "only candidate that could serve",
        "meets the SLO, the next would not",
        "fallback: no candidate could serve",
        "named by the caller",
        "no target could serve",
        "refused before routing",
    }
    assert rows["calls"].tolist() == [1] * 8


def test_a_call_that_another_target_answered_has_moved(
    reader: Engine, writer: Engine, start: datetime
) -> None:
    at = time.time() - 60
    rescued = traffic.rescued(at)
    rescued.decision = traffic.decision("short_chat", traffic.FLASH)
    traffic.write(writer, [rescued, traffic.exchange(at, target=traffic.FLASH)])
    rows = queries.why(reader, whole(reader, start))
    assert rows[["chosen", "calls", "moved"]].to_numpy().tolist() == [[traffic.FLASH, 2, 1]]


def test_rejections_of_one_kind_are_counted_together(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    rows = queries.rejections(reader, whole(reader, start), 60)
    expected: dict[str, int] = {}
    for made in written:
        assert isinstance(made.decision, dict)
        for it in made.decision["rejections"]:
            expected[it["target"]] = expected.get(it["target"], 0) + 1
    assert rows.groupby("target")["calls"].sum().to_dict() == expected
    assert set(rows["kind"]) == {
        "breaker open: … failures in a row, probed in … s",
        "shedding after failures, for … s more",
    }
    made_in = queries.decisions(reader, whole(reader, start), 60)
    assert made_in["calls"].sum() == len(written)


def test_attempts_are_counted_by_their_end(reader: Engine, start: datetime, written: list[Exchange]) -> None:
    rows = queries.ends(reader, start, 60, None)
    tries = [attempt for made in written for attempt in made.attempts]
    counts = {name: sum(it.result == name for it in tries) for name in {it.result for it in tries}}
    assert rows.groupby("result")["attempts"].sum().to_dict() == counts
    assert {"ok", "timeout_first_token", "http_error", "hedge_lost"} == set(counts)
    further = rows[rows["is_further"].astype(bool)]
    assert further["attempts"].sum() == sum(len(made.attempts) - 1 for made in written)
    assert {charts.result_kind(result) for result in counts} == {"ok", "timeout", "error", "hedge lost"}


def test_calls_of_several_attempts_are_found(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    found = ledger_queries.newest_exchanges(reader, start, None, 100, min_attempts=2)
    assert set(found["id"]) == {made.id for made in written if len(made.attempts) > 1}


def test_a_policy_that_came_into_force_is_drawn(reader: Engine, writer: Engine, start: datetime) -> None:
    traffic.configure(writer)
    traffic.publish(writer, traffic.POLICY_ERROR)
    versions = queries.policies_since(reader, start)
    assert versions["hash"].tolist() == [traffic.POLICY_HASH]
    times = pd.date_range("2026-11-22 10:00", periods=2, freq="1min")
    axis = Axis(times, "minute", "UTC", datetime(2026, 11, 22, 10, 1))
    resting = pd.DataFrame({"at": times[:1], "target": ["a"], "calls": [3]})
    decisions = pd.DataFrame({"at": times, "calls": [4, 10]})
    drawn = charts.passed_over(resting, decisions, versions.assign(at=times[1]), axis, {"a": "#111111"})
    assert list(drawn.data[0].y) == [75, 0]
    assert [note.text for note in drawn.layout.annotations] == [f"policy {traffic.POLICY_HASH[:7]}"]
