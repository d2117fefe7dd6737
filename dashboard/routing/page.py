"""The routing page: who got what and why, who was passed over, how attempts ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pandas as pd
import streamlit as st
from sqlalchemy import Engine

from dashboard import frame, markup, page, rows, sections
from dashboard import queries as ledger_queries
from dashboard import tables as ledger_tables
from dashboard.charts import Axis
from dashboard.frame import View
from dashboard.palette import colours
from dashboard.routing import charts, queries, tables
from dashboard.spans import Span
from dashboard.sums import local, time_axis

_REFRESH_S = 10
_SHOWN_CALLS = 12
# How reasons that pass begin, in the words of the router; the others are of the target or the call.
RESTING = r"^(shedding|probing|draining|engine has not answered)"


@dataclass(frozen=True, slots=True)
class _Read:
    start: datetime
    end: datetime
    traffic: pd.DataFrame
    why: pd.DataFrame
    rejections: pd.DataFrame
    decisions: pd.DataFrame
    ends: pd.DataFrame
    policies: pd.DataFrame


def routing() -> None:
    frame.refreshed(_content, frame.view(), _REFRESH_S)


def _content(ledger: Engine, view: View) -> None:
    read = _reread(ledger, view.span, view.shape, view.span.tick(page.now()))
    if read.traffic.empty:
        sections.nothing_yet(ledger_queries.last_call_at(ledger), view.span, view.shape, page.now())
        return
    seen = {*read.traffic["target"], *read.ends["target"], *read.rejections["target"]}
    colour = colours(ledger_queries.targets(ledger)["name"], seen)
    ends = read.ends.assign(kind=read.ends["result"].map(charts.result_kind))
    zone = str(page.reader_zone())
    axis = time_axis(read.start, read.end, view.span, zone)
    page.show(tables.top_row(read.ends, read.why))
    _who(read, colour)
    _passed_over(read, axis, zone, colour)
    _ends(ends, axis, zone, colour)
    _opened(ledger, view, read.start, colour)


def _who(read: _Read, colour: dict[str, str]) -> None:
    with page.panel("routing_shares"):
        page.show(markup.heading("Who got what", "by the target that answered, or was tried last"))
        page.show(markup.legend(sorted({*read.traffic["target"]}), colour))
        page.chart(charts.shares(read.traffic, colour), "routing_shares")
    with page.panel("routing_why"):
        page.show(markup.heading("Why", "as the decisions say"))
        page.show(tables.why(read.why, colour))
        page.export(read.why, "routing_why")


def _passed_over(read: _Read, axis: Axis, zone: str, colour: dict[str, str]) -> None:
    with page.panel("routing_rejections"):
        decided = int(read.decisions["calls"].sum())
        page.show(markup.heading("Passed over", "resting targets over time"))
        if read.rejections.empty:
            page.show(markup.muted("Every target could serve every call."))
            return
        resting = read.rejections[read.rejections["kind"].str.match(RESTING)]
        page.show(markup.legend(sorted({*resting["target"]}), colour, "dotted: a policy came into force"))
        figure = charts.passed_over(
            local(resting, zone), local(read.decisions, zone), local(read.policies, zone), axis, colour
        )
        page.chart(figure, "routing_resting")
        kinds = read.rejections.groupby(["target", "kind"], as_index=False).agg(
            calls=("calls", "sum"), example=("example", "max")
        )
        kinds = kinds.sort_values("calls", ascending=False)
        page.show(tables.rejections(kinds, decided, colour))
        page.export(kinds, "routing_rejections")


def _ends(ends: pd.DataFrame, axis: Axis, zone: str, colour: dict[str, str]) -> None:
    with page.panel("routing_ends"):
        page.show(markup.heading("How attempts ended", "those that did not answer, over time"))
        hues = charts.RESULT_HUES
        page.show(markup.legend([kind for kind in hues if kind in {*ends["kind"]}], hues))
        page.chart(charts.failures(local(ends, zone), axis), "routing_ends")
        page.show(tables.ends(ends, colour))
        page.export(ends, "routing_attempts")


def _opened(ledger: Engine, view: View, start: datetime, colour: dict[str, str]) -> None:
    several = rows.newest(ledger, start, view.shape, _SHOWN_CALLS, several=True)
    with page.panel("routing_several"):
        note = "choose a time to see the decision and every attempt"
        page.show(markup.heading("Newest calls of several attempts", note))
        if several.empty:
            page.show(markup.muted("Every call of this span was answered, or failed, at its first attempt."))
            return
        page.show(ledger_tables.newest(several, colour, page.reader_zone(), view.parameters))


@st.cache_data(show_spinner=False, max_entries=32)
def _reread(_ledger: Engine, span: Span, shape: str | None, tick: int) -> _Read:
    """`tick` is part of the cache's key: a new one reads anew."""
    end = page.now()
    start = span.start(end)
    return _Read(
        start=start,
        end=end,
        traffic=ledger_queries.traffic(_ledger, start, span.bucket_s, shape),
        why=queries.why(_ledger, start, shape),
        rejections=queries.rejections(_ledger, start, span.bucket_s, shape),
        decisions=queries.decisions(_ledger, start, span.bucket_s, shape),
        ends=queries.ends(_ledger, start, span.bucket_s, shape),
        policies=queries.policies_since(_ledger, start),
    )
