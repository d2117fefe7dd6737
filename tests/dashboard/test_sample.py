from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text

from dashboard import sample
from dashboard.database import read
from gateway.ledger.records import Exchange
from tests.dashboard import traffic

COUNT = f"WITH {sample.CTE} SELECT count(*) AS calls, count(DISTINCT id) AS ids FROM sampled"


def counted(reader: Engine, chosen: sample.Sample) -> tuple[int, int]:
    row = read(reader, COUNT, **chosen.parameters).iloc[0]
    return int(row["calls"]), int(row["ids"])


def test_a_small_span_is_taken_whole(reader: Engine, start: datetime, written: list[Exchange]) -> None:
    chosen = sample.of_span(reader, start, datetime.now(UTC), None)
    assert chosen.is_whole
    assert counted(reader, chosen) == (300, 300)


def test_slices_take_so_many_calls_each_and_none_twice(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    end = start + timedelta(minutes=16)
    per_slice = 2
    slice_s = (end - start).total_seconds() / 40
    counts = [0] * 40
    for made in written:
        counts[int((made.started_at - start.timestamp()) // slice_s)] += 1
    chosen = sample.Sample(start, end, 40, per_slice, None)
    expected = sum(min(count, per_slice) for count in counts)
    assert 0 < expected < len(written)
    assert counted(reader, chosen) == (expected, expected)


def test_a_sample_reads_no_days_outside_its_span(reader: Engine, writer: Engine) -> None:
    now = time.time()
    traffic.write(writer, [traffic.exchange(now - days * 86_400 - 60) for days in (0, 2, 5)])
    end = datetime.fromtimestamp(now, UTC)
    chosen = sample.Sample(end - timedelta(minutes=10), end, 10, 5, None)
    with reader.connect() as connection:
        plan = "\n".join(connection.scalars(text(f"EXPLAIN ANALYZE {COUNT}"), chosen.parameters))
    today, before = (
        f"exchanges_{datetime.fromtimestamp(now - age - 60, UTC):%Y%m%d}" for age in (0, 2 * 86_400)
    )
    assert f"on {today} exchanges" in plan
    reached = [line for line in plan.splitlines() if before in line and "never executed" not in line]
    assert reached == []
