"""What Streamlit draws at every turn: the page's frame, then the page. `serve` is the entry point.

Names the pages and their order. Theme and quiet defaults are in `.streamlit/config.toml` beside this file.
"""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboard import access, frame
from dashboard.benchmarks.page import benchmarks
from dashboard.costs.page import costs
from dashboard.engines.page import engine
from dashboard.exchange import exchange
from dashboard.latency.page import latency
from dashboard.overview import overview
from dashboard.policies.page import policies
from dashboard.routing.page import routing

_PAGES = {
    "Overview": overview,
    "Latency": latency,
    "Routing": routing,
    "Tasks and cost": costs,
    "Engine": engine,
    "Benchmarks": benchmarks,
    "Policies": policies,
}
_SPANLESS = {"Benchmarks", "Policies", "Exchange"}
_OF_ALL_SHAPES = {"Tasks and cost", "Engine"}

st.set_page_config(page_title="sparkgate", page_icon="⚡", layout="wide")
st.html(Path(__file__).with_name("style.css"))
_pages = [
    st.Page(show, title=title, url_path=show.__name__, default=show is overview)
    for title, show in _PAGES.items()
]
_exchange_page = st.Page(exchange, title="Exchange", url_path="exchange")
_chosen = st.navigation([*_pages, _exchange_page], position="hidden")
frame.head(_pages)
if access.is_over():
    frame.ask_again()
    st.stop()
if _chosen.title not in _SPANLESS:
    frame.controls(_exchange_page, has_shape=_chosen.title not in _OF_ALL_SHAPES)
_chosen.run()
