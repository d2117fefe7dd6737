"""What pages read of a span, together, and reused for a moment by all who look at them.

In: a connection pool, a span, a shape. Out: `Sums`, or a sample of calls. A long span is reread less often (see
`spans`), which keeps the load on the database independent of the number of open browsers.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pandas as pd
import streamlit as st
from sqlalchemy import Engine

from dashboard import page, queries, rows
from dashboard.charts import Axis
from dashboard.spans import SPANS, Span


@dataclass(frozen=True, slots=True)
class Sums:
    """Frames as `queries` describes them, of the time from `start` to `end`."""

    start: datetime
    end: datetime
    traffic: pd.DataFrame
    latencies: pd.DataFrame
    buckets: pd.DataFrame
    attempts: pd.DataFrame
    shadows: pd.DataFrame
    tasks: pd.DataFrame
    engine_costs: pd.DataFrame


def of_span(ledger: Engine, span: Span, shape: str | None) -> Sums:
    return _reread(ledger, span, shape, span.tick(page.now()))


@st.cache_data(show_spinner=False, max_entries=32)
def _reread(_ledger: Engine, span: Span, shape: str | None, tick: int) -> Sums:
    """`tick` is part of the cache's key: a new one reads anew."""
    end = page.now()
    start = span.start(end)
    return Sums(
        start=start,
        end=end,
        traffic=queries.traffic(_ledger, start, span.bucket_s, shape),
        latencies=queries.latencies(_ledger, start, span.bucket_s, shape),
        buckets=queries.latency_buckets(_ledger, start, shape),
        attempts=queries.attempts(_ledger, start, span.bucket_s, shape),
        shadows=queries.shadows(_ledger, start, span.bucket_s, shape),
        tasks=queries.tasks_by_workflow(_ledger, start),
        engine_costs=queries.engine_costs(_ledger, start, end),
    )


@st.cache_data(show_spinner=False, max_entries=8)
def sampled(_ledger: Engine, span: Span, shape: str | None, tick: int) -> rows.Sample:
    """Of the span that ends now; `tick` is part of the cache's key: a new one reads anew."""
    end = page.now()
    return rows.sample(_ledger, span.start(end), end, shape)


@st.cache_data(show_spinner=False, ttl=30)
def known_shapes(_ledger: Engine) -> list[str]:
    """Of the last 30 days."""
    return queries.known_shapes(_ledger, SPANS["30 d"].start(page.now()))


def idle_costs_usd(
    engine_costs: pd.DataFrame, attempts: pd.DataFrame, shadows: pd.DataFrame
) -> dict[str, float]:
    """What each engine of known price cost while it was up, less what its attempts and shadows are charged."""
    used = pd.concat([attempts[["target", "cost_usd"]], shadows[["target", "cost_usd"]]])
    charged = used.groupby("target")["cost_usd"].sum()
    return {
        row.target: max(0.0, row.cost_usd - charged.get(row.target, 0.0))
        for row in engine_costs.dropna().itertuples()
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
    rows = local(sums.latencies[sums.latencies["metric"] == metric], zone)
    return rows.drop(columns="metric").set_index(["target", "at"]).sort_index()
