"""The parts of the overview, top to bottom: refused policy, figures, charts, tables, exchanges,
configuration.

In: frames and sums. Out: elements on the Streamlit page.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from sqlalchemy import Engine

from dashboard import cards, charts, figures, markup, page, queries, tables
from dashboard.advice import panel as advice
from dashboard.spans import Span
from dashboard.summary import summarise, summarise_by, summarise_tasks, tries_by_target
from dashboard.sums import Sums, idle_costs_usd, local, local_quantiles, time_axis

_GATEWAY_VARIABLE = "SPARKGATE_URL"


def policy_error(newest: pd.DataFrame) -> None:
    """A red box while the newest text was refused; the version before it stays in force."""
    if newest.empty or figures.is_absent(newest["error"].iloc[0]):
        return
    row = newest.iloc[0]
    at = row["published_at"].astimezone(page.reader_zone())
    body = markup.join(
        [
            f"Read from {row['source']} at {at:%H:%M:%S}. ",
            "The last good version stays in force until it is corrected.",
            markup.pre(row["error"]),
            "Check a correction with ",
            markup.code("sparkgate policy check"),
            ".",
        ]
    )
    page.show(markup.box("bad", "The newest policy was refused", body))


def nothing_yet(last_call_at: datetime | None, span: Span, shape: str | None, now: datetime) -> None:
    if last_call_at is None:
        page.show(markup.box("info", "No calls yet", "Send the first one; it appears here within seconds."))
        st.code(_first_call(), language="bash")
        st.caption("The key is printed by `sparkgate up`; make another with `sparkgate keys create`.")
        return
    of = f" of shape {shape}" if shape else ""
    newest = f"The newest call of all began {figures.age(last_call_at, now)}."
    page.show(markup.box("info", f"No calls{of} in the last {span.label}", f"{newest} Choose a longer span."))


def _first_call() -> str:
    url = os.environ.get(_GATEWAY_VARIABLE, "http://127.0.0.1:8080").rstrip("/")
    return (
        f"curl {url}/v1/chat/completions \\\n"
        '  -H "Authorization: Bearer $SPARKGATE_API_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        """  -d '{"model": "auto", "messages": [{"role": "user", "content": "Say hello."}]}'"""
    )


def measured(
    ledger: Engine,
    sums: Sums,
    span: Span,
    shape: str | None,
    targets: pd.DataFrame,
    colour: dict[str, str],
) -> None:
    everything = summarise(sums.traffic, sums.buckets)
    page.show(cards.top_row(everything, summarise_tasks(sums.tasks), span.length_s))
    _charts(sums, span, colour)
    advice.show(ledger, sums, span, shape)
    by_target = summarise_by(sums.traffic, sums.buckets, "target")
    with page.panel("by_target"):
        page.show(markup.heading("By target", f"latencies as callers saw them · {tables.FEW_NOTE}"))
        tries, shadows = tries_by_target(sums.attempts), tries_by_target(sums.shadows)
        idle = idle_costs_usd(sums.engine_costs, sums.attempts, sums.shadows)
        page.show(tables.by_target(by_target, tries, shadows, idle, colour))
        page.export(sums.traffic, "calls")
    with page.panel("by_shape"):
        page.show(markup.heading("By task shape", tables.FEW_NOTE))
        page.show(tables.by_shape(summarise_by(sums.traffic, sums.buckets, "shape")))
    if not sums.tasks.empty:
        with page.panel("by_workflow"):
            page.show(markup.heading("Tasks by workflow", "tasks that began in this span, of all shapes"))
            page.show(tables.by_workflow(sums.tasks))


def _charts(sums: Sums, span: Span, colour: dict[str, str]) -> None:
    zone = str(page.reader_zone())
    axis, traffic = time_axis(sums.start, sums.end, span, zone), local(sums.traffic, zone)
    page.show(markup.legend(sorted({*traffic["target"]}), colour, "hollow points: fewer than 20 calls"))
    ttft = charts.ttft(local_quantiles(sums, "ttft_s", zone), axis, colour)
    completion = charts.completion(local_quantiles(sums, "total_s", zone), axis, colour)
    with st.container(key="charts"):
        left, right = st.columns(2)
        _chart(left, "Calls by target", "", "calls", charts.calls(traffic, axis, colour))
        _chart(right, "Time to first token", "p95 solid, p50 dotted, p99 pale; red: 1.5 s", "ttft", ttft)
        left, right = st.columns(2)
        _chart(left, "Completion", "whole call: p95 solid, p50 dotted, p99 pale", "completion", completion)
        rates = charts.timeout_rate(traffic, local(sums.attempts, zone), axis, colour)
        _chart(
            right, "Timeout rate", "of attempts by target; grey: of calls; dashed: 0.5 %", "timeouts", rates
        )


def _chart(
    column: st.delta_generator.DeltaGenerator, title: str, note: str, key: str, figure: go.Figure
) -> None:
    with column, page.panel(key):
        page.show(markup.heading(title, note))
        page.chart(figure, key)


def exchanges(newest: pd.DataFrame, colour: dict[str, str], way_back: Mapping[str, str]) -> None:
    with page.panel("newest"):
        page.show(markup.heading("Newest exchanges", "choose a time to see the decision and every attempt"))
        page.show(tables.newest(newest, colour, page.reader_zone(), way_back))


def configuration(ledger: Engine, targets: pd.DataFrame, colour: dict[str, str], now: datetime) -> None:
    samples = queries.engine_status(ledger)
    with st.container(key="tables"):
        left, right = st.columns(2)
        with left, page.panel("targets"):
            page.show(markup.heading("Targets"))
            if targets.empty:
                page.show(markup.muted("None recorded yet; a gateway lists them here when it starts."))
            else:
                page.show(tables.configured(targets, colour))
        with right, page.panel("policy"):
            _policy(queries.active_policy(ledger), queries.policies(ledger))
    if not samples.empty:
        with page.panel("engines"):
            page.show(markup.heading("Engines", "newest sample of each"))
            page.show(tables.engines(samples, colour, now))


def _policy(active: pd.DataFrame, versions: pd.DataFrame) -> None:
    if active.empty:
        page.show(markup.heading("Policy"))
        page.show(markup.muted("No policy has been published; targets are chosen by the built-in defaults."))
        return
    row = active.iloc[0]
    page.show(markup.heading("Policy", markup.join(["active: ", markup.code(row["hash"][:12])])))
    page.show(tables.policy_versions(versions, row["hash"], page.reader_zone()))
    with st.expander("Text of the active version"):
        st.code(row["yaml"], language="yaml")
