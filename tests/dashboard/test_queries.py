from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import InternalError

from dashboard import queries, rows
from dashboard.database import LedgerUnavailable, connect
from dashboard.quantiles import quantiles
from dashboard.summary import summarise, summarise_by, summarise_tasks, tries_by_target
from gateway.ledger import batch
from gateway.ledger.records import Exchange, outcome_record, shadow_record
from gateway.ledger.segments import decode_line, encode_line
from tests.dashboard import traffic

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

BUCKET_S = 60


def test_counts_and_costs_equal_those_of_the_exchanges(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    found = queries.traffic(reader, start, BUCKET_S)
    assert found["calls"].sum() == 300
    assert found["errors"].sum() == sum(made.error_code is not None for made in written)
    assert found["timeouts"].sum() == sum(made.timed_out is not None for made in written)
    costs = sum(float(made.record()["exchange"]["cost_usd"]) for made in written)
    assert found["cost_usd"].sum() == pytest.approx(costs)
    by_target = found.groupby("target")["calls"].sum().to_dict()
    assert by_target == {
        name: sum(made.attempts[-1].target == name for made in written) for name in traffic.MODELS
    }


def test_every_bucket_of_time_holds_the_calls_that_began_in_it(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    counted = queries.traffic(reader, start, BUCKET_S).groupby("at")["calls"].sum()
    minutes = [int(made.started_at // 60 * 60) for made in written]
    expected = {datetime.fromtimestamp(minute, UTC): minutes.count(minute) for minute in set(minutes)}
    assert {at.to_pydatetime(): int(calls) for at, calls in counted.items()} == expected


def test_percentiles_equal_numpys_to_one_percent(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    buckets = queries.latency_buckets(reader, start)
    found = summarise(queries.traffic(reader, start, BUCKET_S), buckets)
    ttfts = [made.ttft_s for made in written if made.ttft_s is not None]
    speeds = [row["tokens_per_s"] for made in written if (row := made.record()["exchange"])["ttft_s"]]
    whole = [made.total_s for made in written if made.status == 200]
    assert found.ttft.n == len(ttfts)
    assert found.ttft.p50 == pytest.approx(np.percentile(ttfts, 50, method="inverted_cdf"), rel=0.01)
    assert found.ttft.p95 == pytest.approx(np.percentile(ttfts, 95, method="inverted_cdf"), rel=0.01)
    assert found.total.p95 == pytest.approx(np.percentile(whole, 95, method="inverted_cdf"), rel=0.01)
    median = 1 / np.percentile(1 / np.array(speeds), 50, method="inverted_cdf")
    assert found.tokens_per_s == pytest.approx(median, rel=0.01)


def test_quantiles_over_time_are_those_of_the_buckets(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    hour = start.replace(minute=0) - timedelta(hours=1)
    found = queries.latencies(reader, hour, 10_800).set_index(["metric", "target", "at"])
    buckets = queries.latency_buckets(reader, hour)
    for metric in ("ttft_s", "total_s"):
        expected = quantiles(buckets, metric, ["target"])
        merged = found.loc[metric].groupby("target")["n"].sum()
        assert merged.to_dict() == expected["n"].to_dict()
        if len(found.loc[metric]) == len(expected):  # the span did not cross an edge
            of_target = found.loc[metric].droplevel("at")
            pd.testing.assert_frame_equal(
                of_target.sort_index(), expected, check_dtype=False, check_names=False
            )


def test_a_shape_narrows_every_figure(reader: Engine, start: datetime, written: list[Exchange]) -> None:
    chats = [made for made in written if made.shape == "short_chat"]
    counts = queries.traffic(reader, start, BUCKET_S, "short_chat")
    buckets = queries.latency_buckets(reader, start, "short_chat")
    tries = queries.attempts(reader, start, BUCKET_S, "short_chat")
    newest = rows.newest(reader, start, "short_chat", 1000)
    assert counts["calls"].sum() == len(chats) == len(newest)
    assert set(summarise_by(counts, buckets, "shape")) == {"short_chat"}
    assert tries["attempts"].sum() == sum(len(made.attempts) for made in chats)


def test_what_began_before_the_span_is_left_out(reader: Engine, writer: Engine) -> None:
    now = time.time()
    traffic.write(writer, [traffic.exchange(now - 7200), traffic.exchange(now - 60)])
    start = datetime.fromtimestamp(now - 3600, UTC).replace(second=0, microsecond=0)
    assert queries.traffic(reader, start, BUCKET_S)["calls"].sum() == 1
    assert len(rows.newest(reader, start, None, 10)) == 1
    assert queries.latency_buckets(reader, start).groupby("metric")["n"].sum().to_dict() == {
        "ttft_s": 1,
        "tpot_s": 1,
        "total_s": 1,
    }


def test_a_late_target_is_counted_though_another_answered(
    reader: Engine, writer: Engine, start: datetime
) -> None:
    traffic.write(writer, [traffic.rescued(time.time() - 60)])
    tries = tries_by_target(queries.attempts(reader, start, BUCKET_S))
    assert (tries[traffic.FLASH].failed, tries[traffic.FLASH].timeouts) == (1, 1)
    assert (tries[traffic.ENGINE].failed, tries[traffic.ENGINE].timeouts) == (0, 0)


def test_shadows_are_counted_apart(reader: Engine, writer: Engine, start: datetime) -> None:
    made, on_trial = traffic.exchange(time.time() - 60), traffic.exchange(time.time() - 50).attempts[0]
    traffic.write(writer, [made])
    line = encode_line(shadow_record(on_trial, made.id, 1)).rstrip(b"\n")
    with writer.begin() as connection:
        batch.write(connection, [record for record in [decode_line(line)] if record is not None])
    assert queries.attempts(reader, start, BUCKET_S)["attempts"].sum() == 1
    shadows = queries.shadows(reader, start, BUCKET_S, made.shape)
    assert (shadows["target"].tolist(), shadows["attempts"].tolist()) == ([on_trial.target], [1])
    tried = rows.attempts(reader, made.id, datetime.fromtimestamp(made.started_at, UTC), made.total_s)
    assert tried["role"].isna().tolist() == [True, False]


def test_unknown_costs_are_counted_and_not_summed(reader: Engine, writer: Engine, start: datetime) -> None:
    now = time.time()
    made = [traffic.exchange(now - 60, cost_nusd=cost) for cost in (None, 250_000, None)]
    traffic.write(writer, made)
    found = summarise(queries.traffic(reader, start, BUCKET_S), queries.latency_buckets(reader, start))
    assert found.unpriced == 2
    assert found.cost_usd == pytest.approx(0.00025)


def test_cost_per_completed_task_counts_failures_and_abandoned_tasks(
    reader: Engine, writer: Engine, start: datetime
) -> None:
    now = time.time()
    tasks = {"a": "completed", "b": "failed", "c": "completed", "d": "abandoned"}
    traffic.write(
        writer,
        [traffic.exchange(now - 60, task_id=name, cost_nusd=1_000_000) for name in [*tasks, "a", "open"]],
    )
    with writer.begin() as connection:
        ends = [*tasks.items(), ("d", "completed"), ("d", "abandoned")]  # the last of a task wins
        for name, end in ends:
            batch.write(connection, [outcome_record("helpdesk", name, end, None, "triage")])
    row = queries.tasks_by_workflow(reader, start).iloc[0]
    assert (row["workflow"], row["tasks"], row["completed"], row["open"]) == ("triage", 5, 2, 1)
    found = summarise_tasks(queries.tasks_by_workflow(reader, start))
    assert found.cost_per_completed_usd == pytest.approx(6 * 0.001 / 2)


def test_clients_that_left_are_no_errors(reader: Engine, writer: Engine, start: datetime) -> None:
    now = time.time()
    left = [traffic.exchange(now - 60), traffic.exchange(now - 60), traffic.exchange(now - 60)]
    left[0].status, left[0].error_code = 499, "client_gone"
    left[1].status, left[1].error_code = 200, "client_gone"
    left[2].status, left[2].error_code = 200, "upstream_failed"
    traffic.write(writer, left)
    assert queries.traffic(reader, start, BUCKET_S)["errors"].sum() == 1


def test_an_exchange_is_found_by_its_request_id_with_all_attempts(reader: Engine, writer: Engine) -> None:
    made = traffic.rescued(time.time() - 90_000)
    traffic.write(writer, [made, traffic.exchange(time.time())])
    found_id = rows.parse_request_id(made.request_id)
    assert found_id == made.id
    row = rows.exchange(reader, made.id).iloc[0]
    assert row["decision"]["reason"].startswith("engine has the lowest")
    tried = rows.attempts(reader, made.id, row["started_at"], row["total_s"])
    assert tried["result"].tolist() == ["timeout_first_token", "ok"]
    assert rows.parse_request_id("req_nonsense") is None


def test_the_newest_policy_and_the_active_one_are_told_apart(reader: Engine, writer: Engine) -> None:
    traffic.configure(writer)
    traffic.publish(writer, traffic.POLICY_ERROR)
    assert queries.policies(reader)["error"].iloc[0] == traffic.POLICY_ERROR
    assert queries.active_policy(reader)["hash"].tolist() == [traffic.POLICY_HASH]


def test_an_empty_ledger_answers_every_question(reader: Engine, start: datetime) -> None:
    assert queries.last_call_at(reader) is None
    found = summarise(queries.traffic(reader, start, BUCKET_S), queries.latency_buckets(reader, start))
    assert (found.calls, found.ttft.n, found.cost_usd) == (0, 0, None)
    assert queries.latencies(reader, start, BUCKET_S).empty
    assert rows.newest(reader, start, None, 10).empty
    assert queries.tasks_by_workflow(reader, start).empty
    assert queries.known_shapes(reader, start) == []


def test_the_connection_cannot_write(reader: Engine) -> None:
    with reader.connect() as connection, pytest.raises(InternalError, match="read-only transaction"):
        connection.execute(text("DELETE FROM exchanges"))


def test_a_database_that_is_away_is_said_so() -> None:
    engine = connect("postgresql+psycopg://nobody@/none?host=/nonexistent")
    with pytest.raises(LedgerUnavailable, match="does not answer"):
        queries.targets(engine)


def test_a_database_without_tables_names_the_command(postgres: PostgresServer) -> None:
    url = postgres.create(migrated=False)
    engine = connect(url)
    with pytest.raises(LedgerUnavailable) as caught:
        queries.targets(engine)
    assert "sparkgate db upgrade" in caught.value.hint
    engine.dispose()
    postgres.drop(url)
