"""The page of tasks and cost: cost per completed task, money that was lost, self-hosted against upstream."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import pandas as pd
import streamlit as st
from sqlalchemy import Engine

from dashboard import frame, markup, page, sections
from dashboard import queries as ledger_queries
from dashboard import tables as ledger_tables
from dashboard.costs import charts, queries, shares, tables
from dashboard.frame import View
from dashboard.palette import colours
from dashboard.spans import Span
from dashboard.summary import summarise_tasks
from dashboard.sums import idle_costs_usd, local, time_axis

_REFRESH_S = 10


@dataclass(frozen=True, slots=True)
class _Read:
    start: datetime
    end: datetime
    spending: pd.DataFrame
    shadows: pd.DataFrame
    engine_costs: pd.DataFrame
    tasks: pd.DataFrame
    by_end: pd.DataFrame


def costs() -> None:
    frame.refreshed(_content, frame.view(), _REFRESH_S)


def _content(ledger: Engine, view: View) -> None:
    read = _reread(ledger, view.span, view.span.tick(page.now()))
    if read.spending.empty:
        sections.nothing_yet(ledger_queries.last_call_at(ledger), view.span, None, page.now())
        return
    targets = ledger_queries.targets(ledger)
    colour = colours(targets["name"], {*read.spending["target"], *read.by_end["target"]})
    idle = idle_costs_usd(read.engine_costs, read.spending, read.shadows)
    page.show(tables.top_row(read.spending, read.by_end, summarise_tasks(read.tasks), idle, read.shadows))
    _unpriced(targets, colour)
    _spent(read, view.span, colour)
    with page.panel("costs_sides"):
        page.show(
            markup.heading("Self-hosted against upstream", "self-hosted: an engine, or priced by the hour")
        )
        page.show(tables.sides(shares.sides(read.spending, targets, idle)))
    _tasks(read, colour)


def _unpriced(targets: pd.DataFrame, colour: dict[str, str]) -> None:
    """Why costs are unknown, where they are."""
    unpriced = targets[targets["price_note"].notna() & targets["disabled_reason"].isna()]
    if not unpriced.empty:
        notes = [
            markup.join([markup.chip(row["name"], colour[row["name"]]), f" {row['price_note']}. "])
            for row in unpriced.to_dict("records")
        ]
        page.show(markup.box("info", "Costs are unknown at some targets", markup.join(notes)))


def _spent(read: _Read, span: Span, colour: dict[str, str]) -> None:
    zone = str(page.reader_zone())
    with page.panel("costs_time"):
        page.show(markup.heading("Cost by target", "of all attempts, losers and failures included"))
        page.show(markup.legend(sorted({*read.spending["target"]}), colour))
        axis = time_axis(read.start, read.end, span, zone)
        page.chart(charts.by_target(local(read.spending, zone), axis, colour), "costs_time")
        page.export(read.spending, "cost_by_target")


def _tasks(read: _Read, colour: dict[str, str]) -> None:
    with page.panel("costs_tasks"):
        page.show(markup.heading("Tasks by workflow", "tasks that began in this span"))
        if read.tasks.empty:
            page.show(_no_tasks())
            return
        page.show(ledger_tables.by_workflow(read.tasks))
        page.export(read.tasks, "tasks_by_workflow")
    with page.panel("costs_lost"):
        page.show(markup.heading("Where the money of tasks went", "by how they ended and who was tried"))
        page.show(markup.legend(sorted({*read.by_end["target"]}), colour))
        page.chart(charts.by_workflow(read.by_end, colour), "costs_lost")
        gone = shares.lost(read.by_end)
        if gone.empty:
            page.show(markup.muted("No task of this span failed or was abandoned."))
        else:
            page.show(tables.lost_money(gone, colour))
        page.export(read.by_end, "cost_of_tasks")


def _no_tasks() -> markup.Html:
    body = markup.join(
        [
            "Name a task in the header ",
            markup.code("X-Task-Id"),
            " of each of its calls, and say how it ended with ",
            markup.code("POST /v1/tasks/{task_id}/outcome"),
            " or ",
            markup.code("sparkgate tasks outcome"),
            ".",
        ]
    )
    return markup.box("info", "No tasks began in this span", body)


@st.cache_data(show_spinner=False, max_entries=32)
def _reread(_ledger: Engine, span: Span, tick: int) -> _Read:
    """`tick` is part of the cache's key: a new one reads anew."""
    end = page.now()
    start = span.start(end)
    return _Read(
        start=start,
        end=end,
        spending=queries.spending(_ledger, start, span.bucket_s),
        shadows=ledger_queries.shadows(_ledger, start, span.bucket_s),
        engine_costs=ledger_queries.engine_costs(_ledger, start, end),
        tasks=ledger_queries.tasks_by_workflow(_ledger, start),
        by_end=queries.by_end(_ledger, start),
    )
