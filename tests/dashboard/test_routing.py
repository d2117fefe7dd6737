from __future__ import annotations

import re
import time
from datetime import datetime

import pandas as pd
from sqlalchemy import Engine

from dashboard import rows as single
from dashboard.charts import Axis
from dashboard.routing import charts, queries
from dashboard.routing.page import RESTING
from gateway.ledger.records import Exchange
from router.catalog import Target
from router.eligibility import inability, unwell
from router.fleet import EngineState, Fleet
from tests.dashboard import traffic
from tests.router.calls import query, seen


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
    rows = queries.why(reader, start, None)
    assert set(rows["why"]) == {
        "score",
        "explored",
        "only",
        "slo",
        "fallback",
        "pinned",
        "none",
        "refused",
    }
    assert rows["calls"].tolist() == [1] * 8


def test_a_call_that_another_target_answered_has_moved(
    reader: Engine, writer: Engine, start: datetime
) -> None:
    at = time.time() - 60
    rescued = traffic.rescued(at)
    rescued.decision = traffic.decision("short_chat", traffic.FLASH)
    traffic.write(writer, [rescued, traffic.exchange(at, target=traffic.FLASH)])
    rows = queries.why(reader, start, None)
    assert rows[["chosen", "calls", "moved"]].to_numpy().tolist() == [[traffic.FLASH, 2, 1]]


def test_rejections_of_one_kind_are_counted_together(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    rows = queries.rejections(reader, start, 60, None)
    expected: dict[str, int] = {}
    for made in written:
        assert isinstance(made.decision, dict)
        for it in made.decision["rejections"]:
            expected[it["target"]] = expected.get(it["target"], 0) + 1
    assert rows.groupby("target")["calls"].sum().to_dict() == expected
    assert set(rows["kind"]) == {"shedding after failures, for … s more"}
    made_in = queries.decisions(reader, start, 60, None)
    assert made_in["calls"].sum() == len(written)


def test_resting_targets_are_told_from_unable_ones_by_the_routers_own_words() -> None:
    fleet, now = Fleet(), 1000.0
    fleet.set_engine("draining", EngineState(0, 0, 8, draining=True), now)
    fleet.set_engine("gone", EngineState(0, 0, 8), now)
    fleet.set_engine("gone", None, now)
    seen(fleet, "shed", now, times=5, result="connect_error")
    resting = [unwell(fleet.health(name), now + 1.5) for name in ("draining", "gone", "shed")]
    fleet.start("shed")
    resting.append(unwell(fleet.health("shed"), now + 60))  # its pause is over, and a call tests it
    asked = query(has_tools=True, input_tokens=900)
    unable = [
        inability(asked, target, fleet.health("a"))
        for target in (
            Target("a", "openai", "m", disabled_reason="its key is missing"),
            Target("a", "openai", "m", endpoints=frozenset()),
            Target("a", "openai", "m", has_tools=False),
            Target("a", "openai", "m", context_tokens=800),
        )
    ]
    assert [bool(reason and re.match(RESTING, reason)) for reason in resting] == [True] * 4, resting
    assert [bool(reason and not re.match(RESTING, reason)) for reason in unable] == [True] * 4, unable


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
    found = single.newest(reader, start, None, 100, several=True)
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
