"""What the overview sums over a span, read together, and reused for a moment by all who look at the page.

In: a connection pool, a span, a shape. Out: `Sums`. A long span is reread less often (see `spans`), which
keeps the load on the database independent of the number of open browsers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pandas as pd
import streamlit as st
from sqlalchemy import Engine

from dashboard import queries
from dashboard.charts import Axis
from dashboard.quantiles import quantiles
from dashboard.spans import Span


@dataclass(frozen=True, slots=True)
class Sums:
    """Frames as `queries` describes them, of the time from `start` to `end`."""

    start: datetime
    end: datetime
    traffic: pd.DataFrame
    series: pd.DataFrame
    totals: pd.DataFrame
    attempts: pd.DataFrame
    shadows: pd.DataFrame
    tasks: pd.DataFrame
    engine_hours: pd.DataFrame


def of_span(ledger: Engine, span: Span, shape: str | None) -> Sums:
    return _reread(ledger, span, shape, span.tick(datetime.now(UTC)))


@st.cache_data(show_spinner=False, max_entries=32)
def _reread(_ledger: Engine, span: Span, shape: str | None, tick: int) -> Sums:
    """`tick` is part of the cache's key: a new one reads anew."""
    end = datetime.now(UTC)
    start = span.start(end)
    series, totals = queries.latency(_ledger, start, span.bucket_s, shape)
    return Sums(
        start=start,
        end=end,
        traffic=queries.traffic(_ledger, start, span.bucket_s, shape),
        series=series,
        totals=totals,
        attempts=queries.attempts(_ledger, start, span.bucket_s, shape),
        shadows=queries.shadows(_ledger, start, span.bucket_s, shape),
        tasks=queries.tasks_by_workflow(_ledger, start),
        engine_hours=queries.engine_hours(_ledger, start),
    )


@st.cache_data(show_spinner=False, ttl=30)
def known_shapes(_ledger: Engine) -> list[str]:
    return queries.known_shapes(_ledger, datetime.now(UTC) - timedelta(days=7))


def idle_costs_usd(sums: Sums, targets: pd.DataFrame) -> dict[str, float]:
    """What each priced engine cost in the hours it was seen up, less what its attempts and shadows are charged."""
    used = pd.concat([sums.attempts, sums.shadows]).groupby("target")["cost_usd"].sum()
    price = dict(zip(targets["name"], targets["usd_per_hour"], strict=True))
    return {
        row.target: max(0.0, row.hours * price[row.target] - used.get(row.target, 0.0))
        for row in sums.engine_hours.itertuples()
        if pd.notna(price.get(row.target))
    }


def time_axis(start: datetime, end: datetime, span: Span, zone: str) -> Axis:
    edges = pd.date_range(start, end, freq=pd.Timedelta(seconds=span.bucket_s))
    end = pd.Timestamp(end).tz_convert(zone).tz_localize(None).to_pydatetime()
    return Axis(edges.tz_convert(zone).tz_localize(None), span.bucket_label, zone, end)


def in_zone(times: pd.Series, zone: str) -> pd.Series:
    """Wall-clock times of the reader, which is what Plotly shows."""
    return pd.to_datetime(times, utc=True).dt.tz_convert(zone).dt.tz_localize(None)


def local(frame: pd.DataFrame, zone: str) -> pd.DataFrame:
    """The frame with its column `at` in the reader's zone."""
    return frame.assign(at=in_zone(frame["at"], zone))


def local_quantiles(sums: Sums, metric: str, zone: str) -> pd.DataFrame:
    """Indexed by (target, at): n, p50, p95, p99."""
    return quantiles(local(sums.series, zone), metric, ["target", "at"])
