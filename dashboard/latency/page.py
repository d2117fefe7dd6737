"""The latency page: one metric over time and by target, then all of them by target, shape and input size."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

import pandas as pd
import streamlit as st
from sqlalchemy import Engine

from dashboard import frame, markup, page, rows, sections, sums
from dashboard import queries as ledger_queries
from dashboard.frame import View
from dashboard.latency import charts, cuts, measured, queries, tables
from dashboard.palette import colours
from dashboard.spans import Span
from dashboard.sums import local, time_axis

_REFRESH_S = 10
_ALL = "All targets"
_SHOWN_SIZES = 40


@dataclass(frozen=True, slots=True)
class _Read:
    start: datetime
    end: datetime
    over_time: pd.DataFrame
    totals: pd.DataFrame
    sizes: pd.DataFrame
    sample: rows.Sample


def latency() -> None:
    labels = {label: metric for metric, label in cuts.METRICS.items()}
    with st.container(horizontal=True, vertical_alignment="bottom", key="latency_controls"):
        label = st.segmented_control(
            "Latency", list(labels), default="TTFT", required=True, key="metric", bind="query-params"
        )
        target = st.selectbox("Target", _targets(), key="target", bind="query-params", width=200)
    frame.refreshed(
        partial(_content, labels[str(label)], None if target == _ALL else target), frame.view(), _REFRESH_S
    )


def _targets() -> list[str]:
    return [_ALL, *page.target_names()]


def _content(metric: str, target: str | None, ledger: Engine, view: View) -> None:
    read = _reread(ledger, view.span, view.shape, metric, target, view.span.tick(page.now()))
    if read.totals.empty:
        sections.nothing_yet(ledger_queries.last_call_at(ledger), view.span, view.shape, page.now())
        return
    colour = colours(ledger_queries.targets(ledger)["name"], {*read.totals["target"]})
    totals, sizes = (
        each if target is None else each[each["target"] == target] for each in (read.totals, read.sizes)
    )
    _charts(read, totals[totals["metric"] == metric], metric, view.span, colour)
    with page.panel("latency_by_shape"):
        page.show(markup.heading("By target and task shape", tables.FEW_NOTE))
        table = cuts.table(totals, ["target", "shape"])
        page.show(tables.quantiles(table, ["target", "shape"], colour, "latency-by-shape"))
        page.export(table, "latency_by_target_and_shape")
    with page.panel("latency_by_size"):
        by = ["target", "shape", "size"]
        page.show(
            markup.heading("By input size", f"of {read.sample.words}, the busiest {_SHOWN_SIZES} groups")
        )
        table = cuts.table(sizes, by)
        page.show(tables.quantiles(table.head(_SHOWN_SIZES), by, colour, "latency-by-size"))
        page.export(table.assign(size=[measured.SIZES[it] for it in table["size"]]), "latency_by_input_size")


def _charts(read: _Read, totals: pd.DataFrame, metric: str, span: Span, colour: dict[str, str]) -> None:
    label = cuts.METRICS[metric]
    if read.over_time.empty:
        page.show(markup.box("info", f"No samples of {label}", _WHY_NONE[metric]))
        return
    zone = str(page.reader_zone())
    axis, over_time = time_axis(read.start, read.end, span, zone), local(read.over_time, zone)
    edges, counts = cuts.heat(over_time, axis.buckets)
    with page.panel("latency_time"):
        page.show(markup.heading(f"{label} over time"))
        page.show(markup.legend(charts.HUES, charts.HUES, "hollow points: too few samples for that quantile"))
        page.chart(charts.quantiles(cuts.over_time(over_time), axis, label), "latency_time")
    with st.container(key="charts"):
        left, right = st.columns(2)
        with left, page.panel("latency_heat"):
            page.show(markup.heading("Where calls fell", "share of each time's calls"))
            page.chart(charts.heat(edges, counts, axis, label), "latency_heat")
        with right, page.panel("latency_distribution"):
            page.show(markup.heading("Distribution", "by target, over the whole span"))
            page.show(markup.legend(sorted({*totals["target"]}), colour))
            page.chart(charts.distribution(cuts.distribution(totals), colour, label), "latency_distribution")


_WHY_NONE = {
    "ttft_s": "Only streamed calls have a time to first token. Stream, or choose Completion.",
    "tpot_s": "Only streamed calls of two tokens or more have one. Stream, or choose Completion.",
    "total_s": "Only calls that ended well have one. Choose a longer span, or see Routing for what failed.",
}


@st.cache_data(show_spinner=False, max_entries=32)
def _reread(
    _ledger: Engine, span: Span, shape: str | None, metric: str, target: str | None, tick: int
) -> _Read:
    """`tick` is part of the cache's key: a new one reads anew."""
    end = page.now()
    start = span.start(end)
    chosen = sums.sampled(_ledger, span, shape, tick)
    return _Read(
        start=start,
        end=end,
        over_time=queries.over_time(_ledger, start, span.bucket_s, metric, shape, target),
        totals=ledger_queries.latency_buckets(_ledger, start, shape),
        sizes=measured.by_input_size(chosen.calls),
        sample=chosen,
    )
