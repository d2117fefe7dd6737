"""The benchmarks page: one figure of one kind of benchmark over time, regressions marked and listed."""

from __future__ import annotations

from functools import partial

import pandas as pd
import streamlit as st
from sqlalchemy import Engine

from dashboard import frame, markup, page
from dashboard.benchmarks import charts, queries, readings, tables
from dashboard.frame import View
from dashboard.palette import colours
from dashboard.spans import SPANS
from dashboard.sums import in_zone

_REFRESH_S = 60
_SHOWN = 20


def benchmarks() -> None:
    with st.container(horizontal=True, vertical_alignment="bottom", key="benchmark_controls"):
        kind = st.segmented_control(
            "Benchmark",
            list(readings.FIGURES),
            default="models",
            required=True,
            key="benchmark",
            bind="query-params",
        )
        labels = [figure.label for figure in readings.FIGURES[str(kind)]]
        figure = st.selectbox("Figure", labels, key="figure", bind="query-params", width=220)
    content = partial(_content, str(kind), str(figure))
    frame.refreshed(content, View(SPANS["7 d"], None, is_live=True), _REFRESH_S)


def _content(kind: str, label: str, ledger: Engine, view: View) -> None:
    runs = _runs(ledger, int(page.now().timestamp() / _REFRESH_S))
    if runs[runs["kind"] == kind].empty:
        body = markup.join(["Run ", markup.code(f"sparkgate bench {kind}"), "; its figures are kept here."])
        page.show(markup.box("info", f"No benchmark of {kind} has been kept", body))
        return
    found = readings.readings(runs[runs["kind"] == kind])
    zone = page.reader_zone()
    chosen = found[found["figure"] == label]
    worse = found[found["regression"].astype(bool)].sort_values("started_at", ascending=False)
    with page.panel("benchmark_time"):
        page.show(markup.heading(f"{label} over time", "a red cross: a regression"))
        if chosen.empty:
            page.show(markup.muted(f"No run has measured {label}."))
        else:
            colour = colours({*chosen["series"]}, [])
            page.show(markup.legend(colour, colour))
            rows = chosen.assign(at=in_zone(chosen["started_at"], str(zone)))
            page.chart(charts.over_time(rows, colour, str(zone)), "benchmark_time")
    with page.panel("benchmark_regressions"):
        note = f"more than {100 * readings.LIMIT:.0f} % worse than comparable runs before"
        page.show(markup.heading("Regressions", note))
        if worse.empty:
            page.show(markup.muted("None."))
        else:
            page.show(tables.readings(worse.head(_SHOWN), zone, "regressions"))
    with page.panel("benchmark_newest"):
        page.show(markup.heading("Newest figures", "of each series"))
        page.show(tables.readings(readings.newest(found), zone, "newest-figures"))
        page.export(found, f"benchmarks_{kind}")


@st.cache_data(show_spinner=False, max_entries=4)
def _runs(_ledger: Engine, tick: int) -> pd.DataFrame:
    """`tick` is part of the cache's key: a new one reads anew."""
    return queries.runs(_ledger)
