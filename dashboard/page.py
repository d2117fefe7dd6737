"""What the pages share in a Streamlit session: the connection, the reader's clock and zone, the failure
message.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from sqlalchemy import Engine

from dashboard import access, markup, queries
from dashboard.database import LedgerUnavailable, connect
from dashboard.markup import Html
from dashboard.sessions import ledger_url


def ledger() -> Engine:
    """The connection pool of this process, for a reader who may see it. Raises LedgerUnavailable."""
    access.demand()
    return _pool(ledger_url())


@st.cache_resource(show_spinner=False)
def _pool(url: str) -> Engine:
    return connect(url)


def reader_zone() -> ZoneInfo:
    """The browser's time zone; UTC when it is unknown here."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("UTC")


def now() -> datetime:
    return datetime.now(UTC)


def panel(name: str) -> st.delta_generator.DeltaGenerator:
    """A bordered part of the page."""
    return st.container(border=True, key=f"panel_{name}")


def place(is_used: bool) -> st.delta_generator.DeltaGenerator:
    """Where something stands at times. Emptied outright when it is not used: what is merely left out stays on the
    page when another fragment's turn begins before the browser was told of the end of this one.
    """
    return st.container() if is_used else st.empty()


def chart(figure: go.Figure, key: str) -> None:
    st.plotly_chart(figure, key=f"chart_{key}", config={"displayModeBar": False, "responsive": True})


def export(rows: pd.DataFrame, name: str) -> None:
    """A button that hands out these rows."""
    st.download_button(
        "CSV",
        rows.to_csv(index=False),
        file_name=f"sparkgate_{name}.csv",
        mime="text/csv",
        key=f"csv_{name}",
        on_click="ignore",
        type="tertiary",
        icon=":material/download:",
    )


@st.cache_data(show_spinner=False, ttl=30)
def _names(_ledger: Engine) -> list[str]:
    return [str(name) for name in queries.targets(_ledger)["name"]]


def target_names() -> list[str]:
    """Of the configured targets; none while the database is away."""
    try:
        return _names(ledger())
    except LedgerUnavailable:
        return []


def show(html: Html) -> None:
    st.html(html.text)


def show_unavailable(error: LedgerUnavailable) -> None:
    body = markup.join(
        [error.hint, " This page tries again every few seconds; calls are still being routed."]
    )
    show(markup.box("bad", error.title, body))
