"""Entry point: `python -m streamlit run dashboard/serve.py`, with SPARKGATE_DATABASE_URL in the environment.

The pages (`app`) behind the door (`sign_in`). Streamlit finds `app` by its name.
"""

from __future__ import annotations

from pathlib import Path

from starlette.middleware import Middleware
from streamlit.starlette import App

from dashboard import deep_links, sign_in

app = App(
    Path(__file__).with_name("app.py"),
    routes=sign_in.ROUTES,
    middleware=[Middleware(sign_in.Gate), Middleware(deep_links.Root)],
)
