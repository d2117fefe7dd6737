"""Who may see the page that is being drawn, and whether that is asked at all.

In: the environment, the address that is listened on, the browser's cookie. Out: the `Reader`. The door itself is
`sign_in`; here a page that stays open learns that its session is over.
"""

from __future__ import annotations

import os

import streamlit as st
from streamlit import config

from dashboard.database import LedgerUnavailable
from dashboard.sessions import SESSIONS, Reader

SIGN_IN_VARIABLE = "SPARKGATE_SIGN_IN"  # auto | required | never
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_required() -> bool:
    """`auto`, the default: unless only this machine can reach the dashboard."""
    wish = os.environ.get(SIGN_IN_VARIABLE) or "auto"
    return config.get_option("server.address") not in _LOOPBACK if wish == "auto" else wish != "never"


def cookie_name() -> str:
    """Browsers share cookies between the ports of a host; two dashboards there have a session each."""
    return f"sparkgate_session_{config.get_option('server.port')}"


def reader() -> Reader | None:
    """Who looks now; None when nobody has signed in."""
    return SESSIONS.confirm(st.context.cookies.get(cookie_name()))


def is_over() -> bool:
    """Whether a session that is needed has ended while its page was open."""
    return is_required() and reader() is None


def demand() -> None:
    """Raises LedgerUnavailable once the session is over: whatever page is open shows nothing more."""
    if is_over():
        raise LedgerUnavailable("Your session has ended", "Sign in again.")
