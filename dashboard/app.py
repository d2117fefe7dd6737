"""Entry point: `python -m streamlit run dashboard/app.py`, with SPARKGATE_DATABASE_URL in the environment.

Two pages, the overview and one exchange. Theme and quiet defaults are in `.streamlit/config.toml` beside this
file.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import streamlit as st

from dashboard.exchange import exchange
from dashboard.overview import overview

st.set_page_config(page_title="sparkgate", page_icon=":material/bolt:", layout="wide")
st.html(Path(__file__).with_name("style.css"))
_exchange_page = st.Page(exchange, title="sparkgate · exchange", url_path="exchange")
_overview_page = st.Page(
    partial(overview, _exchange_page), title="sparkgate", url_path="overview", default=True
)
st.navigation([_overview_page, _exchange_page], position="hidden").run()
