from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from sqlalchemy import Engine, insert

from dashboard.engines import charts, queries, yields
from dashboard.engines import tables as engine_tables
from gateway.ledger import tables
from gateway.upstreams.server_metrics import Reading
from gateway.upstreams.server_pace import Pace
from tests.dashboard import traffic


@pytest.fixture
def minute() -> datetime:
    return datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=5)


def sampled(writer: Engine, *rows: dict[str, object]) -> None:
    with writer.begin() as connection:
        connection.execute(insert(tables.engine_samples), list(rows))


def test_load_is_averaged_over_each_time(reader: Engine, writer: Engine, minute: datetime) -> None:
    sampled(
        writer,
        *(traffic.engine_sample(minute + timedelta(seconds=20 * n), running=n) for n in (0, 1, 2, 3)),
    )
    rows = queries.load(reader, traffic.ENGINE, minute, 60)
    assert rows["running"].tolist() == [1.0, 3.0]
    assert rows["minutes_up"].tolist() == [1, 1]
    assert rows["samples"].tolist() == [3, 1]


def test_the_last_state_of_each_time_is_read(reader: Engine, writer: Engine, minute: datetime) -> None:
    early, late = (traffic.engine_sample(minute + timedelta(seconds=s)) for s in (5, 55))
    late["state"] = late["state"] | {"step_s": {"verify": 0.5, "draft": None}}
    sampled(writer, early, late)
    rows = queries.states(reader, traffic.ENGINE, minute, minute + timedelta(minutes=3), 60)
    assert rows["step_s"].tolist() == [{"verify": 0.5, "draft": None}]
    over_time = yields.over_time(rows, "step_s")
    assert over_time["verify"].tolist() == [0.5]
    assert "draft" not in over_time


def test_latencies_fall_into_the_band_of_their_minute(
    reader: Engine, writer: Engine, minute: datetime
) -> None:
    sampled(
        writer,
        traffic.engine_sample(minute + timedelta(seconds=10), running=1),
        traffic.engine_sample(minute + timedelta(seconds=70), running=6),
    )
    calm, busy = minute.timestamp() + 20, minute.timestamp() + 80
    made = [traffic.exchange(calm, ttft_s=0.1) for _ in range(3)]
    made += [traffic.exchange(busy, ttft_s=2.0) for _ in range(2)]
    made += [traffic.exchange(busy, ttft_s=9.0, target=traffic.FLASH)]
    traffic.write(writer, made)
    buckets = queries.by_concurrency(reader, traffic.ENGINE, minute)
    speculation = traffic.engine_sample(minute)["state"]["speculation"]
    bands = yields.concurrency(buckets, speculation, queries.CONCURRENCIES).set_index("band")
    assert bands["ttft_n"].to_dict() == {"1": 3, "5-8": 2}
    assert bands.loc["1", "ttft_p95_s"] == pytest.approx(0.1, rel=0.01)
    assert bands.loc["5-8", "ttft_p95_s"] == pytest.approx(2.0, rel=0.01)
    assert bands.loc["1", "accepted_length"] == 2.374
    figure = charts.tails(bands.reset_index(), queries.CONCURRENCIES)
    assert list(figure.data[0].x) == ["1", "5-8"]


def test_a_servers_samples_show_what_it_tells_and_nothing_else(
    reader: Engine, writer: Engine, minute: datetime
) -> None:
    told = Reading(running=3, waiting=0, kv_used=0.25, drafts=100, drafted=400, accepted=300)
    sampled(writer, traffic.engine_sample(minute) | {"state": Pace("vllm", 64).look(told, 0.0)})
    rows = queries.states(reader, traffic.ENGINE, minute, minute + timedelta(minutes=1), 60)
    speculation = yields.newest(rows, "speculation")
    assert (speculation["accepted_length"], speculation["waste"]) == (4.0, 0.25)
    assert yields.by_band(speculation).empty
    assert yields.over_time(rows, "step_s").empty
    row = engine_tables.top_row(
        queries.load(reader, traffic.ENGINE, minute, 60), speculation, rows["drafter"].iloc[-1], None
    )
    assert "drafts from vllm" in row.text


def test_only_sampled_targets_are_engines(reader: Engine, writer: Engine, minute: datetime) -> None:
    traffic.configure(writer)
    assert queries.sampled_engines(reader, minute) == [traffic.ENGINE]
    assert queries.sampled_engines(reader, datetime.now(UTC) + timedelta(hours=1)) == []


def test_a_million_tokens_cost_the_minutes_up_by_the_tokens_made() -> None:
    at = pd.to_datetime(["2026-11-22 10:00", "2026-11-22 10:02"])
    load = pd.DataFrame({"at": at, "minutes_up": [2, 2], "decode_tokens_per_s": [100.0, 0.0]})
    tokens = pd.DataFrame({"at": at[:1], "output_tokens": [6000]})
    costs = yields.usd_per_mtok(load, tokens, 0.3)
    assert costs["used"].iloc[0] == pytest.approx(0.3 * (2 / 60) / 6000 * 1e6)
    assert costs["decoding"].iloc[0] == pytest.approx(0.3 / 360_000 * 1e6)
    assert costs.iloc[1].isna().all()


def test_bands_of_speculation_are_listed_and_none_is_no_failure() -> None:
    state = traffic.engine_sample(datetime.now(UTC))["state"]
    rows = yields.by_band(state["speculation"])
    assert rows["dimension"].tolist() == ["concurrency", "concurrency", "shape"]
    assert yields.by_band({}).empty
    assert yields.newest(pd.DataFrame({"speculation": [None]}), "speculation") == {}
