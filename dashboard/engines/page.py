"""The engine page: one engine's speculation, steps, load with its tail latency, and cost of a million tokens."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

import pandas as pd
import streamlit as st
from sqlalchemy import Engine

from dashboard import frame, markup, page
from dashboard import queries as ledger_queries
from dashboard.charts import Axis
from dashboard.database import LedgerUnavailable
from dashboard.engines import charts, queries, tables, yields
from dashboard.frame import View
from dashboard.latency.charts import HUES
from dashboard.latency.tables import FEW_NOTE
from dashboard.spans import SPANS, Span
from dashboard.sums import local, time_axis

_REFRESH_S = 10
_LONGEST = SPANS["30 d"]


@dataclass(frozen=True, slots=True)
class _Read:
    start: datetime
    end: datetime
    load: pd.DataFrame
    states: pd.DataFrame
    latencies: pd.DataFrame
    tokens: pd.DataFrame


def engine() -> None:
    names = _engines()
    chosen = None
    if names:
        chosen = st.selectbox("Engine", names, key="engine", bind="query-params", width=220)
    frame.refreshed(partial(_content, chosen), frame.view(), _REFRESH_S)


def _engines() -> list[str]:
    try:
        return queries.sampled_engines(page.ledger(), _LONGEST.start(page.now()))
    except LedgerUnavailable:
        return []


def _content(target: str | None, ledger: Engine, view: View) -> None:
    if target is None:
        page.show(_no_engine())
        return
    read = _reread(ledger, target, view.span, view.span.tick(page.now()))
    if read.load.empty:
        body = "Choose a longer span, or see whether the engine runs: `sparkgate doctor`."
        page.show(markup.box("info", f"No sample of {target} in the last {view.span.label}", body))
        return
    targets = ledger_queries.targets(ledger).set_index("name")
    price = targets["usd_per_hour"].get(target)
    usd_per_hour = None if price is None or pd.isna(price) else float(price)
    zone = str(page.reader_zone())
    axis = time_axis(read.start, read.end, view.span, zone)
    load, states = local(read.load, zone), local(read.states, zone)
    speculation = yields.newest(states, "speculation")
    drafter = None if states.empty else states["drafter"].iloc[-1]
    page.show(tables.top_row(load, speculation, drafter, _overall_usd(read, usd_per_hour)))
    _load(load, axis)
    _speculation(load, states, axis)
    _concurrency(read.latencies, speculation)
    _costs(load, states, local(read.tokens, zone), axis, usd_per_hour)
    with page.panel("engine_bands"):
        page.show(markup.heading("Speculation by kind of request", "of recent rounds, as the engine says"))
        bands = yields.by_band(speculation)
        if bands.empty:
            page.show(markup.muted("The engine has told of no rounds yet."))
        else:
            page.show(tables.speculation(bands))
            page.export(bands, "speculation")


def _load(load: pd.DataFrame, axis: Axis) -> None:
    rows = load.set_index("at")
    with st.container(key="charts"):
        left, right = st.columns(2)
        hues = {"running": charts.FIRST, "waiting": charts.SECOND}
        with left, page.panel("engine_sequences"):
            page.show(markup.heading("Sequences", "mean of each time"))
            page.show(markup.legend(hues, hues))
            page.chart(charts.lines(rows, axis, "sequences", hues), "engine_sequences")
        hues = {"mean": charts.FIRST, "most": charts.SECOND}
        used = pd.DataFrame({"mean": 100 * rows["kv_used"], "most": 100 * rows["kv_used_most"]})
        with right, page.panel("engine_kv"):
            page.show(markup.heading("KV use", "share of the key-value cache"))
            page.show(markup.legend(hues, hues))
            page.chart(charts.lines(used, axis, "KV used (%)", hues), "engine_kv")


def _speculation(load: pd.DataFrame, states: pd.DataFrame, axis: Axis) -> None:
    rows = load.set_index("at")
    with st.container(key="charts_speculation"):
        left, right = st.columns(2)
        with left, page.panel("engine_accepted"):
            page.show(
                markup.heading("Accepted length", "tokens committed a round, the target's own included")
            )
            figure = charts.lines(rows, axis, "tokens a round", {"accepted_length": charts.FIRST})
            page.chart(figure, "engine_accepted")
        waste = 100 * yields.over_time(states, "speculation").reindex(columns=["waste"])
        with right, page.panel("engine_waste"):
            page.show(markup.heading("Verification waste", "share of verified drafts that were not accepted"))
            page.chart(charts.lines(waste, axis, "waste (%)", {"waste": charts.SECOND}), "engine_waste")


def _concurrency(latencies: pd.DataFrame, speculation: dict[str, object]) -> None:
    with page.panel("engine_concurrency"):
        page.show(markup.heading("Concurrency and tail latency", FEW_NOTE))
        if latencies.empty:
            page.show(markup.muted("No call was answered by this engine while it was sampled."))
            return
        bands = yields.concurrency(latencies, speculation, queries.CONCURRENCIES)
        page.show(markup.legend(HUES, HUES))
        page.chart(charts.tails(bands, queries.CONCURRENCIES), "engine_tails")
        page.show(tables.concurrency(bands))
        page.export(bands, "concurrency")


def _costs(
    load: pd.DataFrame, states: pd.DataFrame, tokens: pd.DataFrame, axis: Axis, usd_per_hour: float | None
) -> None:
    with st.container(key="charts_costs"):
        left, right = st.columns(2)
        with left, page.panel("engine_steps"):
            page.show(markup.heading("Step cost", "recent mean by phase; verify is the target's pass"))
            page.show(markup.legend(charts.PHASES, charts.PHASES))
            page.chart(charts.steps(yields.over_time(states, "step_s"), axis), "engine_steps")
        with right, page.panel("engine_mtok"):
            page.show(markup.heading("Cost per million output tokens"))
            if usd_per_hour is None:
                page.show(markup.muted("This engine has no price: set cost_per_hour_usd in sparkgate.yaml."))
                return
            hues = {"used": charts.FIRST, "decoding": charts.SECOND}
            page.show(markup.legend(hues, hues, "decoding: at the measured rate, never idle"))
            costs = yields.usd_per_mtok(load, tokens, usd_per_hour)
            page.chart(charts.lines(costs, axis, "USD per million tokens", hues, ".3f"), "engine_mtok")


def _overall_usd(read: _Read, usd_per_hour: float | None) -> float | None:
    made = int(read.tokens["output_tokens"].sum())
    if usd_per_hour is None or not made:
        return None
    return float(1e6 * usd_per_hour * read.load["minutes_up"].sum() / 60 / made)


def _no_engine() -> markup.Html:
    body = markup.join(
        [
            "Start one with ",
            markup.code("sparkgate up"),
            ", or list one of kind ",
            markup.code("engine"),
            ", ",
            markup.code("vllm"),
            " or ",
            markup.code("sglang"),
            " in ",
            markup.code("sparkgate.yaml"),
            "; it is sampled every ten seconds.",
        ]
    )
    return markup.box("info", "No engine has been sampled in the last 30 days", body)


@st.cache_data(show_spinner=False, max_entries=32)
def _reread(_ledger: Engine, target: str, span: Span, tick: int) -> _Read:
    """`tick` is part of the cache's key: a new one reads anew."""
    end = page.now()
    start = span.start(end)
    return _Read(
        start=start,
        end=end,
        load=queries.load(_ledger, target, start, span.bucket_s),
        states=queries.states(_ledger, target, start, end, span.bucket_s),
        latencies=queries.by_concurrency(_ledger, target, start),
        tokens=queries.tokens(_ledger, target, start, span.bucket_s),
    )
