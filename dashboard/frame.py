"""What every page stands in: the way to the other pages, the controls, and what refreshes.

The controls live in the URL and go along to the next page. A database that is away gives a message, and the
page recovers by itself. Knows Streamlit and nothing of what a page shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

import streamlit as st
from sqlalchemy import Engine

from dashboard import access, markup, page, sums
from dashboard.database import LedgerUnavailable
from dashboard.markup import Html
from dashboard.spans import SPANS, Span

_ANY_SHAPE = "All shapes"
_KEPT = ("span", "shape", "live")  # query parameters that mean the same on every page
_THEMES = {"System": "", "Light": "light_theme", "Dark": "dark_theme"}


@dataclass(frozen=True, slots=True)
class View:
    """What the reader wants to see. `shape` None: all of them."""

    span: Span
    shape: str | None
    is_live: bool

    @property
    def parameters(self) -> dict[str, str]:
        """Query parameters by which another page can link back to this view."""
        return {"span": self.span.label} | ({"shape": self.shape} if self.shape else {})


def kept_parameters() -> dict[str, str]:
    """What the controls say, as query parameters; remembered over pages that have none."""
    said: dict[str, str] = st.session_state.setdefault("said", {})
    said |= {key: st.query_params[key] for key in _KEPT if key in st.query_params}
    said |= {key: _written(st.session_state[key]) for key in _KEPT if key in st.session_state}
    return dict(said)


def _written(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def head(pages: Iterable[st.Page]) -> None:
    """The name, and a link to each page that keeps span, shape and theme."""
    with st.container(horizontal=True, vertical_alignment="center", key="head"):
        page.show(Html('<div class="sg-brand"><b>sparkgate</b></div>'))
        for each in pages:
            st.page_link(each, query_params=kept_parameters())
        page.show(Html(f'<div class="sg-aside">{markup.join([_themes(), _who()])}</div>'))


def _themes() -> Html:
    """Links that load the page anew: Streamlit takes a theme from its embedding options only."""
    parameters = dict(st.query_params) | kept_parameters()
    links = [
        f'<a href="?{markup.safe(urlencode(parameters | _embedding(option)))}" target="_self">{name}</a>'
        for name, option in _THEMES.items()
    ]
    return Html(f'<div class="sg-themes">{" · ".join(links)}</div>')


def _who() -> Html:
    reader = access.reader()
    if reader is None:
        return Html(f'<div><a href="{way_in()}" target="_self">Sign in</a></div>')
    name = markup.hinted(reader.name, f"signed in with a key of scope {reader.scope}")
    return Html(f'<div>{name} · <a href="sign-out" target="_self">Sign out</a></div>')


def way_in() -> str:
    """The address of the sign-in page, which leads back here."""
    here = urlsplit(st.context.url or "")._replace(
        scheme="", netloc="", query=urlencode(dict(st.query_params) | kept_parameters())
    )
    return markup.safe(f"sign-in?{urlencode({'next': here.geturl() or '/'})}")


def ask_again() -> None:
    link = Html(f'<a href="{way_in()}" target="_self">Sign in again</a>.')
    page.show(markup.box("info", "Your session has ended", link))


def _embedding(option: str) -> dict[str, str]:
    return {"embed": "true", "embed_options": option} if option else {}


def controls(exchange_page: st.Page, *, has_shape: bool) -> None:
    """Draws them, once for all pages: so they stay as they are from page to page. `view` says what was chosen.

    Without `has_shape` the page is of all shapes. Leads to an exchange whose id is typed.
    """
    with st.container(horizontal=True, vertical_alignment="bottom", key="controls"):
        st.segmented_control(
            "Time span", list(SPANS), default="15 min", required=True, key="span", bind="query-params"
        )
        st.selectbox(
            "Task shape", _shapes(), key="shape", bind="query-params", width=200, disabled=not has_shape
        )
        wanted = st.text_input("Find an exchange", placeholder="req_… from X-Request-Id", width=250)
        st.toggle("Live", value=True, help="Refresh every few seconds", key="live", bind="query-params")
    if wanted:
        st.switch_page(exchange_page, query_params={"id": wanted.strip()})


def view() -> View:
    """What the controls say."""
    chosen = st.session_state
    shape = chosen["shape"]
    return View(SPANS[chosen["span"]], None if shape == _ANY_SHAPE else shape, chosen["live"])


def _shapes() -> list[str]:
    try:
        return [_ANY_SHAPE, *sums.known_shapes(page.ledger())]
    except LedgerUnavailable:  # said where the figures would stand
        return [_ANY_SHAPE]


def refreshed(content: Callable[[Engine, View], None], view: View, every_s: float) -> None:
    """Draws the content, again and again while the view is live."""

    def attempt() -> None:
        notice = (
            st.empty()
        )  # a place of its own: where the drawing broke off, an old notice would stand beside it
        try:
            content(page.ledger(), view)
            is_down = False
        except LedgerUnavailable as error:
            with notice:
                page.show_unavailable(error)
            is_down = True
        if st.session_state.get("is_down", False) != is_down:
            st.session_state["is_down"] = is_down
            st.rerun()

    # A page that could not reach the database keeps trying, live or not.
    st.fragment(attempt, run_every=every_s if view.is_live or st.session_state.get("is_down") else None)()
