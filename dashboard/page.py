"""What the pages share in a Streamlit session: the connection, the reader's clock and zone, the failure
message.

Knows Streamlit and the environment variable; knows no SQL.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st
from sqlalchemy import Engine

from dashboard import markup
from dashboard.database import LedgerUnavailable, connect
from dashboard.markup import Html

URL_VARIABLE = "SPARKGATE_DATABASE_URL"


def ledger() -> Engine:
    """The connection pool of this process. Raises LedgerUnavailable."""
    url = os.environ.get(URL_VARIABLE)
    if not url:
        raise LedgerUnavailable(
            f"{URL_VARIABLE} is not set",
            "Start the dashboard with `sparkgate dashboard`, or set the variable.",
        )
    return _pool(url)


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


def show(html: Html) -> None:
    st.html(html.text)


def show_unavailable(error: LedgerUnavailable) -> None:
    body = markup.join(
        [error.hint, " This page tries again every few seconds; calls are still being routed."]
    )
    show(markup.box("bad", error.title, body))
