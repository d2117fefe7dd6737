"""The advice's part of the overview."""

from __future__ import annotations

import streamlit as st
from sqlalchemy import Engine

from dashboard import markup, page, rows, sums
from dashboard.advice import queries, sentences
from dashboard.markup import Html
from dashboard.spans import Span
from dashboard.sums import Sums

_NEWEST = 1000  # calls that tell which shapes have a fallback now


def show(ledger: Engine, totals: Sums, span: Span, shape: str | None) -> None:
    lines, words = _read(ledger, totals, span, shape, span.tick(totals.end))
    with page.panel("advice"):
        page.show(markup.heading("Advice", f"slowest of {words}"))
        items = "".join(f"<li>{line}</li>" for line in lines)
        page.show(Html(f'<ul class="sg-advice">{items}</ul>'))


@st.cache_data(show_spinner=False, max_entries=32)
def _read(_ledger: Engine, _totals: Sums, span: Span, shape: str | None, tick: int) -> tuple[list[str], str]:
    """`tick` is part of the cache's key: a new one reads anew."""
    sample = sums.sampled(_ledger, span, shape, tick)
    found = [
        *sentences.without_fallback(rows.newest_choices(_ledger, _totals.start, _NEWEST), shape),
        *sentences.unstreamed(queries.unstreamed(_ledger, _totals.start, shape)),
        *sentences.slowest(sample.calls),
        *sentences.costliest(queries.costs(_ledger, _totals.start, shape)),
    ]
    return [line.text for line in found], sample.words
