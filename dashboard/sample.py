"""A bounded sample of exchanges, for questions that only whole rows answer.

Up to `WHOLE` calls of a span are all taken; of more, the first few of each of many equal slices of the span. So
a question costs the same over an hour and over a month: some hundred short walks along the primary key, each
inside one day's partition. In: a span. Out: SQL to build on, its parameters, and what to call the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Engine

from dashboard.database import read

WHOLE = 10_000
_SLICES = 250


@dataclass(frozen=True, slots=True)
class Sample:
    """Which calls `CTE` gives: `per_slice` of each slice from `start` to `end`, of one shape or all."""

    start: datetime
    end: datetime
    slices: int
    per_slice: int
    shape: str | None

    @property
    def is_whole(self) -> bool:
        return self.slices == 1

    @property
    def parameters(self) -> dict[str, Any]:
        slice_s = (self.end - self.start).total_seconds() / self.slices
        return {
            "start": self.start,
            "slices": self.slices,
            "slice_s": slice_s,
            "per_slice": self.per_slice,
            "shape": self.shape,
        }

    @property
    def words(self) -> str:
        return "all calls" if self.is_whole else "a sample of calls spread evenly over the span"


# Columns of `exchanges`, as the table `sampled`.
CTE = """sampled AS MATERIALIZED (
    SELECT e.* FROM generate_series(0, :slices - 1) AS slice(number)
    CROSS JOIN LATERAL (
        SELECT CAST(:start AS timestamptz) + number * make_interval(secs => :slice_s) AS begins
    ) AS slice_start
    CROSS JOIN LATERAL (
        SELECT id, started_at, caller, endpoint, shape, target, stream, status, error_code, ttft_s, total_s,
               input_tokens, output_tokens, cost_usd, decision
        FROM exchanges
        WHERE id >= uuid_floor(begins) AND id < uuid_floor(begins + make_interval(secs => :slice_s))
        ORDER BY id LIMIT :per_slice
    ) AS e
    WHERE CAST(:shape AS text) IS NULL OR shape = :shape
)"""


def of_span(engine: Engine, start: datetime, end: datetime, shape: str | None) -> Sample:
    """Counts no further than it must to know whether all calls can be taken."""
    counted = read(
        engine,
        """SELECT count(*) AS calls FROM (
               SELECT FROM exchanges WHERE id >= uuid_floor(:start) AND id < uuid_floor(:end) LIMIT :limit
           ) AS counted""",
        start=start,
        end=end,
        limit=WHOLE + 1,
    )
    if int(counted["calls"].iloc[0]) <= WHOLE:
        return Sample(start, end, 1, WHOLE, shape)
    return Sample(start, end, _SLICES, WHOLE // _SLICES, shape)
