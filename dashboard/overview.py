"""The overview page: what the gateway does now, against the lines it is meant to keep.

Owns the controls and what refreshes; its parts are in `sections`. A database that is away gives a message,
and the page recovers by itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st
from sqlalchemy import Engine

from dashboard import page, queries, sections, sums
from dashboard.database import LedgerUnavailable
from dashboard.markup import Html
from dashboard.palette import colours
from dashboard.spans import SPANS, Span

REFRESH_S = 3
_SHOWN_EXCHANGES = 15
_ANY_SHAPE = "All shapes"


def overview(exchange_page: st.Page) -> None:
    brand = st.container()
    span, shape, is_live = _controls(exchange_page)
    with brand:
        page.show(_brand(is_live))
    # A page that could not reach the database keeps trying, live or not.
    every = REFRESH_S if is_live or st.session_state.get("is_down") else None
    st.fragment(_refreshing, run_every=every)(span, shape)


def _controls(exchange_page: st.Page) -> tuple[Span, str | None, bool]:
    with st.container(horizontal=True, vertical_alignment="bottom", key="controls"):
        label = st.segmented_control(
            "Time span", list(SPANS), default="15 min", required=True, key="span", bind="query-params"
        )
        shape = st.selectbox("Task shape", _shapes(), key="shape", bind="query-params", width=220)
        wanted = st.text_input("Find an exchange", placeholder="req_… from X-Request-Id", width=270)
        is_live = st.toggle(
            "Live", value=True, help=f"Refresh every {REFRESH_S} s", key="live", bind="query-params"
        )
    if wanted:
        st.switch_page(exchange_page, query_params={"id": wanted.strip()})
    return SPANS[str(label)], None if shape == _ANY_SHAPE else str(shape), is_live


def _shapes() -> list[str]:
    try:
        return [_ANY_SHAPE, *sums.known_shapes(page.ledger())]
    except LedgerUnavailable:  # said where the figures would stand
        return [_ANY_SHAPE]


def _brand(is_live: bool) -> Html:
    dot = f'<i class="sg-dot{"" if is_live else " sg-off"}"></i>{"live" if is_live else "paused"}'
    return Html(f'<div class="sg-brand"><b>sparkgate</b><span class="sg-muted">{dot}</span></div>')


def _refreshing(span: Span, shape: str | None) -> None:
    try:
        _content(page.ledger(), span, shape)
        is_down = False
    except LedgerUnavailable as error:
        page.show_unavailable(error)
        is_down = True
    if st.session_state.get("is_down", False) != is_down:
        st.session_state["is_down"] = is_down
        st.rerun()


def _content(ledger: Engine, span: Span, shape: str | None) -> None:
    now = page.now()
    targets = queries.targets(ledger)
    sections.policy_error(queries.policies(ledger, limit=1))
    newest = queries.newest_exchanges(ledger, span.start(now), shape, _SHOWN_EXCHANGES)
    if newest.empty:
        sections.nothing_yet(queries.last_call_at(ledger), span, shape, now)
        colour = colours(targets["name"], [])
    else:
        read = sums.of_span(ledger, span, shape)
        seen = {*read.traffic["target"], *read.attempts["target"], *newest["target"].dropna()}
        colour = colours(targets["name"], seen)
        sections.measured(read, span, targets, colour)
        sections.exchanges(newest, colour, _way_back(span, shape))
    sections.configuration(ledger, targets, colour, now)


def _way_back(span: Span, shape: str | None) -> Mapping[str, str]:
    """Query parameters by which another page can link back to this view."""
    return {"span": span.label} | ({"shape": shape} if shape else {})
