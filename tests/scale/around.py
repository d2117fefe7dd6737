"""What the ledger keeps beside calls: targets, prices, policies, engines, benchmark runs."""

from __future__ import annotations

from datetime import datetime, timedelta

import orjson
from sqlalchemy import Connection, insert, text

from gateway.ledger import tables
from gateway.ledger.maintain import SAMPLES_KEPT
from gateway.ledger.records import uuid7
from tests.dashboard.traffic import POLICY_YAML, engine_sample
from tests.scale import world

_POLICY_EVERY = timedelta(days=2)
_BENCH_EVERY = timedelta(hours=12)
_SAMPLED = ("engine", "gpu-pool")

# A busy engine by day, an idle one by night.
_SAMPLES = """
INSERT INTO engine_samples (target, sampled_at, running, waiting, kv_used_fraction, prefill_tokens_per_s,
    decode_tokens_per_s, state, accepted_length)
SELECT target, at, running, running / 5, 0.03 * running, 760 + 40 * pg_temp.chance(number, 1),
       20.0 * running, CAST(:state AS jsonb) || jsonb_build_object('running', running),
       2.1 + 0.5 * pg_temp.chance(number, 2)
FROM generate_series(CAST(:start AS timestamptz), CAST(:end AS timestamptz), '10 seconds') AS at
CROSS JOIN unnest(CAST(:targets AS text[])) AS target
CROSS JOIN LATERAL (SELECT CAST(extract(epoch FROM at) AS bigint) AS number) AS second
CROSS JOIN LATERAL (
    SELECT CAST(12 * (1 - cos(2 * pi() * number / 86400)) * pg_temp.chance(number, 3) AS int) AS running
) AS load
"""


_ENGINE_HOURS = """
INSERT INTO engine_hours (hour, target, place, up_s, usd, counted_until)
SELECT hour, name, 'here', up_s, round(usd_per_hour * CAST(up_s AS numeric) / 3600, 9),
       hour + make_interval(secs => up_s)
FROM targets
CROSS JOIN generate_series(date_trunc('hour', CAST(:start AS timestamptz)), CAST(:end AS timestamptz), '1 hour') AS hour
CROSS JOIN LATERAL (
    SELECT CAST(extract(epoch FROM least(hour + interval '1 hour', :end) - hour) AS float8) AS up_s
) AS up
WHERE usd_per_hour IS NOT NULL AND up_s > 0
"""


def write(connection: Connection, start: datetime, end: datetime) -> None:
    known = [
        {"name": it.name, "kind": it.kind, "model": it.model, "usd_per_hour": it.usd_per_hour}
        for it in world.PLACES
    ]
    connection.execute(insert(tables.targets), known)
    priced = [
        {
            "id": f"price-{it.name}",
            "target": it.name,
            "model": it.model,
            "source": "config",
            "input_usd_per_mtok": it.input_usd,
            "output_usd_per_mtok": it.output_usd,
            "usd_per_hour": it.usd_per_hour,
            "first_seen_at": start,
        }
        for it in world.PLACES
    ]
    connection.execute(insert(tables.prices), priced)
    versions = [
        {
            "id": uuid7(at.timestamp()),
            "hash": world.POLICY_HASH,
            "yaml": POLICY_YAML,
            "source": "file:host:policy.yaml",
            "published_at": at,
        }
        for at in _times(start, end, _POLICY_EVERY)
    ]
    connection.execute(insert(tables.policies), versions)
    connection.execute(
        text(_SAMPLES),
        {
            "start": max(start, end - SAMPLES_KEPT),
            "end": end,
            "targets": list(_SAMPLED),
            "state": orjson.dumps(engine_sample(end)["state"]).decode(),
        },
    )
    connection.execute(text(_ENGINE_HOURS), {"start": start, "end": end})
    runs = [_run(number, at) for number, at in enumerate(_times(start, end, _BENCH_EVERY))]
    connection.execute(insert(tables.bench_runs), runs)


def _times(start: datetime, end: datetime, every: timedelta) -> list[datetime]:
    return [start + every * number for number in range((end - start) // every + 1)]


def _run(number: int, at: datetime) -> dict[str, object]:
    """A run of `bench gateway`, now and then a third slower."""
    rate = 2000.0 + 10 * (number % 3) - (700 if number % 19 == 18 else 0)
    figures = [
        {"contestant": name, "calls_per_s": rate * part, "cpu_us_per_call": 1e6 / rate / part, "rss_mb": 96.0}
        for name, part in (("sparkgate", 1.0), ("bare ASGI", 2.6))
    ]
    return {
        "id": uuid7(at.timestamp()),
        "kind": "gateway",
        "started_at": at,
        "settings": {"machine": {"processor": "a", "cores": 2}},
        "results": {"figures": figures, "readings": [], "interrupted": False},
    }
