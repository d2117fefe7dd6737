"""Where a page says that its database is away."""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest
from streamlit.testing.v1 import AppTest

from dashboard.access import SIGN_IN_VARIABLE
from dashboard.sessions import URL_VARIABLE

SCRIPT = """
import streamlit as st
from dashboard import frame
from dashboard.database import LedgerUnavailable
from dashboard.spans import SPANS

def content(ledger, view):
    for part in range({drawn}):
        st.text(f"part {{part}}")
    raise LedgerUnavailable("The database is away", "It comes back.")

frame.refreshed(content, frame.View(SPANS["1 h"], None, is_live=False), 3)
"""


@pytest.mark.parametrize("drawn", [0, 3], ids=["at once", "after three parts"])
def test_the_notice_has_the_same_place_wherever_the_drawing_broke_off(drawn: int) -> None:
    url = "postgresql+psycopg://nobody@127.0.0.1:1/nothing"  # a pool that nobody asks
    with patch.dict(os.environ, {URL_VARIABLE: url, SIGN_IN_VARIABLE: "never"}):
        app = AppTest.from_string(SCRIPT.format(drawn=drawn), default_timeout=60).run()
    assert not app.exception
    kinds = [part.type for part in app.main.children[0].children.values()]
    assert kinds == ["html", *["text"] * drawn]
