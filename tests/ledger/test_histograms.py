"""Quantiles that SQL reads from the ledger's histograms, of what several workers recorded and several drains wrote."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import Engine, text

from gateway.ledger.batch import write
from gateway.ledger.compaction import (
    DAY,
    FINE_KEPT,
    FRESH,
    HISTOGRAM_LEVELS,
    HOUR,
    HOURS_KEPT,
    MINUTE,
    compact_histograms,
    compact_sums,
)
from gateway.ledger.drain import Drain
from gateway.ledger.records import Exchange, uuid7
from gateway.ledger.spool import Spool
from tests.ledger.conftest import NOON, carried
from tests.ledger.test_rollups import TABLES

MakeExchange = Callable[..., Exchange]
WORKERS = 4
OF_A_WORKER = 500  # samples of each distribution
AT = datetime.fromtimestamp(NOON, UTC)
DISTRIBUTIONS: dict[str, Callable[[Random], float]] = {
    "lognormal": lambda random: random.lognormvariate(0.0, 0.8),
    "bimodal": lambda random: random.gauss(0.2, 0.02) if random.random() < 0.93 else random.gauss(9.0, 0.5),
    "heavy-tailed": lambda random: 0.1 * random.paretovariate(1.1),
}
# The nearest rank: the first bucket up to which there are at least that many; 2γ^k/(1+γ) stands for its values.
_QUANTILE = """
SELECT shape, min(2 * power(1.02::float8, k) / 2.02) FROM (
    SELECT shape, bucket.k, sum(sum(bucket.n)) OVER (PARTITION BY shape ORDER BY bucket.k) AS seen,
        sum(sum(bucket.n)) OVER (PARTITION BY shape) AS total
    FROM latency_histograms, unnest(k, n) AS bucket (k, n) WHERE metric = 'total_s' GROUP BY shape, bucket.k
) AS counted WHERE seen >= ceil(:q * total) GROUP BY shape
"""


def exact(samples: list[float], q: float) -> float:
    return sorted(samples)[math.ceil(q * len(samples)) - 1]


def record(worker: int, directory: Path) -> dict[str, list[float]]:
    """One worker's calls, over half an hour."""
    random = Random(worker)
    spool = Spool(directory, f"w{worker}", 1 << 30, segment_bytes=300_000)
    samples: dict[str, list[float]] = {name: [] for name in DISTRIBUTIONS}
    for number in range(OF_A_WORKER):
        for name, draw in DISTRIBUTIONS.items():
            at, seconds = NOON + number * 1.5, draw(random)
            samples[name].append(seconds)
            call = Exchange("app", "/v1/chat/completions", False, at, id=uuid7(at), shape=name, status=200)
            row = call.record()
            row["exchange"] |= {"target": f"target-{worker % 3}", "total_s": seconds}
            spool.append(row)
    spool.close()
    return samples


def drain_all(drain: Drain) -> None:
    while drain.step():
        pass


def rows(engine: Engine, query: str, **values: object) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(text(query), values))


def assert_quantiles(engine: Engine, samples: dict[str, list[float]]) -> None:
    for q in (0.5, 0.95, 0.99):
        read = dict(tuple(row) for row in rows(engine, _QUANTILE, q=q))
        assert read == {name: pytest.approx(exact(of_name, q), rel=0.01) for name, of_name in samples.items()}


def test_quantiles_of_four_workers_by_four_drains_are_right_to_one_per_cent(
    engine: Engine, tmp_path: Path
) -> None:
    spools = [tmp_path / str(worker) for worker in range(WORKERS)]  # of gateways on several machines
    of_worker = [record(worker, spool) for worker, spool in enumerate(spools)]
    samples = {name: [s for worker in of_worker for s in worker[name]] for name in DISTRIBUTIONS}
    drains = [Drain(engine, spool) for spool in spools]
    threads = [threading.Thread(target=drain_all, args=(drain,)) for drain in drains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(drain.exchanges for drain in drains) == WORKERS * OF_A_WORKER * len(DISTRIBUTIONS)
    ((batches,),) = rows(engine, "SELECT count(DISTINCT batch_id) FROM latency_histograms")
    assert batches >= WORKERS
    assert_quantiles(engine, samples)
    for age in (timedelta(hours=1), FINE_KEPT, HOURS_KEPT):
        with engine.begin() as connection:
            compact_histograms(connection, AT + age + timedelta(days=1))
        assert_quantiles(engine, samples)
    assert rows(engine, "SELECT DISTINCT span_s FROM latency_histograms") == [(DAY,)]


def test_a_minute_becomes_one_row_of_each_cell_also_when_some_come_late(
    engine: Engine, make_exchange: MakeExchange
) -> None:
    def arrive(*moments: float) -> None:
        with engine.begin() as connection:
            write(connection, [carried(make_exchange(moment)) for moment in moments])

    def merged(now: datetime) -> list[Any]:
        with engine.begin() as connection:
            compact_histograms(connection, now, FRESH)
        query = """
        SELECT minute, span_s, count(DISTINCT (batch_id, metric)), sum(count)
        FROM latency_histograms, unnest(n) AS count GROUP BY 1, 2 ORDER BY 1
        """
        return [tuple(row) for row in rows(engine, query)]

    for second in range(0, 120, 5):
        arrive(NOON + second)
    second_minute = AT + timedelta(minutes=1)
    early = AT + timedelta(seconds=119)
    assert merged(early) == [(AT, MINUTE, 36, 36), (second_minute, MINUTE, 36, 36)]  # too soon
    assert merged(AT + timedelta(minutes=2)) == [(AT, MINUTE, 3, 36), (second_minute, MINUTE, 36, 36)]
    arrive(NOON + 7, NOON + 8)
    now = AT + timedelta(minutes=3)
    assert merged(now) == [(AT, MINUTE, 3, 42), (second_minute, MINUTE, 3, 36)]
    assert merged(now) == [(AT, MINUTE, 3, 42), (second_minute, MINUTE, 3, 36)]


def test_what_comes_after_its_hour_was_merged_joins_the_hour(
    engine: Engine, make_exchange: MakeExchange
) -> None:
    now = AT + FINE_KEPT + timedelta(hours=2)
    for moment in (NOON, NOON + 60, NOON + 3000):
        with engine.begin() as connection:
            write(connection, [carried(make_exchange(moment))])
            compact_histograms(connection, now, HISTOGRAM_LEVELS[:3])
            compact_sums(connection, now)
    kept = rows(engine, "SELECT span_s, minute, metric, n FROM latency_histograms ORDER BY metric")
    assert kept == [(HOUR, AT, metric, [3]) for metric in ("total_s", "tpot_s", "ttft_s")]
    for table in TABLES[:3]:
        count = "attempts" if table.name == "attempt_sums" else "calls"
        assert rows(engine, f"SELECT at, span_s, {count} FROM {table.name}") == [(AT, HOUR, 3)]


def test_sums_keep_what_they_say_while_they_age(engine: Engine, make_exchange: MakeExchange) -> None:
    random = Random(3)
    records = [
        carried(make_exchange(NOON + random.random() * 86_400, workflow=random.choice(["a", "b"])))
        for _ in range(300)
    ]
    with engine.begin() as connection:
        write(connection, records)
    total = "SELECT sum(calls), sum(output_tokens), sum(cost_usd), sum(unstreamed_long_s) FROM call_sums"
    before, sizes = rows(engine, total), []
    for age in (timedelta(0), timedelta(days=1), timedelta(days=3), timedelta(days=70)):
        with engine.begin() as connection:
            compact_sums(connection, AT + age + timedelta(hours=12))
        assert rows(engine, total) == before
        sizes.append(rows(engine, "SELECT count(*) FROM call_sums")[0][0])
        query = "SELECT count(*) FROM call_sums WHERE extract(epoch FROM at)::int % span_s <> 0"
        assert rows(engine, query) == [(0,)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 4  # two days, two workflows
