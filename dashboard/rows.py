"""Single calls: the one module that reads `exchanges` and `attempts`. What can be summed is read from sums instead.

Both tables are partitioned by day on their UUIDv7 key. Every statement here is bounded on both sides within one UTC
day, so that it reads one partition, by an index. A question about several days is several statements, and `call_sums`
says which times are worth asking about. Out: DataFrames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pandas as pd
from sqlalchemy import Engine

from dashboard.database import read, read_each

WHOLE = 10_000  # calls
_SLICES = 250
_LATE = timedelta(seconds=1)  # a call's key is made so much later than it began, at most
_LONGEST = timedelta(minutes=15)  # from a call's end until the last of its attempts on trial begins
_DAY = timedelta(days=1)

_BUSY = """
SELECT at, max(span_s) AS span_s, CAST(sum(CASE WHEN :several THEN retried ELSE calls END) AS bigint) AS calls
FROM call_sums
WHERE at >= :start AND (CAST(:shape AS text) IS NULL OR shape = :shape) AND (NOT :several OR retried > 0)
GROUP BY at ORDER BY at DESC LIMIT :limit
"""

_NEWEST = """
SELECT id, started_at, caller, model_asked, shape, shape_source, target, status, stream, attempts, ttft_s,
       total_s, tokens_per_s, output_tokens, CAST(cost_usd AS float8) AS cost_usd, error_code, timed_out,
       decision ->> 'reason' AS reason, CAST(decision ->> 'explored' AS boolean) AS explored
FROM exchanges
WHERE id >= uuid_floor(:lower) AND id < uuid_floor(:upper)
  AND (CAST(:shape AS text) IS NULL OR shape = :shape) AND (NOT :several OR attempts > 1)
ORDER BY id DESC LIMIT :limit
"""

_CHOICES = """
SELECT shape, decision ->> 'reason' AS reason, decision -> 'candidates' AS candidates
FROM exchanges WHERE id >= uuid_floor(:lower) AND id < uuid_floor(:upper) AND decision IS NOT NULL
ORDER BY id DESC LIMIT :limit
"""


def newest(
    engine: Engine, start: datetime, shape: str | None, limit: int, *, several: bool = False
) -> pd.DataFrame:
    """The newest calls, newest first, each with the sentence that says why its target was chosen.

    `several`: those of more than one attempt.
    """
    return _newest(engine, _NEWEST, start, limit, shape, several)


def newest_choices(engine: Engine, start: datetime, limit: int) -> pd.DataFrame:
    """Columns shape, reason, candidates (as the decision has them): of the newest calls that were routed."""
    return _newest(engine, _CHOICES, start, limit, None, False)


def _newest(
    engine: Engine, sql: str, start: datetime, limit: int, shape: str | None, several: bool
) -> pd.DataFrame:
    asked = {"shape": shape, "several": several, "limit": limit}
    busy = read(engine, _BUSY, start=start, **asked)
    times = list(_stretches(busy, limit)) or [(start, start)]
    each = [{"lower": lower, "upper": upper} | asked for lower, upper in times]
    return read_each(engine, sql, each, most=limit).head(limit)


def _stretches(busy: pd.DataFrame, limit: int) -> Iterator[tuple[datetime, datetime]]:
    """Times that hold the newest `limit` calls, newest first: spans of one day that touch are one stretch."""
    spans = list(busy.itertuples())
    while spans and limit > 0:
        last = spans.pop(0)
        start, limit = last.at, limit - last.calls
        while spans and limit > 0 and _end(spans[0]) == start and spans[0].at.date() == start.date():
            start, limit = spans[0].at, limit - spans.pop(0).calls
        yield start, _in_day(start, _end(last) + _LATE)


def _end(span: Any) -> datetime:
    end: datetime = span.at + timedelta(seconds=int(span.span_s))
    return end


def _in_day(start: datetime, end: datetime) -> datetime:
    """`end`, or the end of the UTC day of `start`."""
    return min(end, start.replace(hour=0, minute=0, second=0, microsecond=0) + _DAY)


def _days(start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    while start < end:
        yield start, (until := _in_day(start, end))
        start = until


@dataclass(frozen=True, slots=True)
class Sample:
    """Calls of a span: all, or where there are more than `WHOLE` the first few of each of many equal slices of it.

    `calls` has the columns endpoint, target, shape, stream, status, error_code, ttft_s, total_s, input_tokens,
    output_tokens.
    """

    calls: pd.DataFrame
    is_whole: bool

    @property
    def words(self) -> str:
        return "all calls" if self.is_whole else "a sample of calls spread evenly over the span"


_SAMPLE = """
SELECT e.* FROM generate_series(0, :slices - 1) AS slice(number)
CROSS JOIN LATERAL (
    SELECT CAST(:lower AS timestamptz) + number * make_interval(secs => :slice_s) AS begins
) AS slice_start
CROSS JOIN LATERAL (
    SELECT endpoint, target, shape, stream, status, error_code, ttft_s, total_s, input_tokens, output_tokens
    FROM exchanges
    WHERE id >= uuid_floor(:lower) AND id < uuid_floor(:upper)
      AND id >= uuid_floor(begins) AND id < uuid_floor(begins + make_interval(secs => :slice_s))
    ORDER BY id LIMIT :per_slice
) AS e
WHERE CAST(:shape AS text) IS NULL OR shape = :shape
"""


def sample(engine: Engine, start: datetime, end: datetime, shape: str | None) -> Sample:
    """The calls of a span, or so many of them that they tell of it; of one shape, or all."""
    calls = read(
        engine, "SELECT coalesce(sum(calls), 0) AS calls FROM call_sums WHERE at >= :start", start=start
    )
    is_whole = int(calls["calls"].iloc[0]) <= WHOLE
    slice_s = (end - start).total_seconds() / _SLICES
    each = []
    for lower, upper in _days(start, end):
        length_s = (upper - lower).total_seconds()
        slices = 1 if is_whole else max(1, round(length_s / slice_s))
        per_slice = WHOLE if is_whole else WHOLE // _SLICES
        each.append(
            {
                "lower": lower,
                "upper": upper,
                "slices": slices,
                "slice_s": length_s / slices,
                "per_slice": per_slice,
                "shape": shape,
            }
        )
    return Sample(read_each(engine, _SAMPLE, each), is_whole)


def parse_request_id(written: str) -> UUID | None:
    """Of `X-Request-Id` (`req_` and 32 hex digits) or a plain UUID; None when it is not the id of an exchange."""
    try:
        return UUID(written.strip().removeprefix("req_"))
    except ValueError:
        return None


def exchange(engine: Engine, exchange_id: UUID) -> pd.DataFrame:
    """One row or none; the key names the partition."""
    return read(
        engine,
        """SELECT id, started_at, caller, endpoint, model_asked, task_id, workflow, shape, shape_source,
                  policy_hash, decision, target, model, status, stream, attempts, ttft_s, total_s,
                  tokens_per_s, overhead_s, input_tokens, cached_tokens, output_tokens, reasoning_tokens,
                  CAST(cost_usd AS float8) AS cost_usd, error_code, timed_out, finish_reason, response_model
           FROM exchanges WHERE id = :id""",
        id=exchange_id,
    )


_ATTEMPTS = """
SELECT ordinal, started_at, target, model, result, http_status, error_code, error_message, ttft_s, total_s,
       input_tokens, output_tokens, CAST(cost_usd AS float8) AS cost_usd, upstream_request_id, engine, role
FROM attempts WHERE exchange_id = :id AND id >= uuid_floor(:lower) AND id < uuid_floor(:upper)
ORDER BY ordinal
"""


def attempts(engine: Engine, exchange_id: UUID, started_at: datetime, total_s: float) -> pd.DataFrame:
    """All upstream tries of a call in order, hedge losers included, and shadows."""
    end = started_at + timedelta(seconds=total_s) + _LONGEST
    each = [
        {"id": exchange_id, "lower": lower, "upper": upper}
        for lower, upper in _days(started_at - 5 * _LATE, end)
    ]
    return read_each(engine, _ATTEMPTS, each)
