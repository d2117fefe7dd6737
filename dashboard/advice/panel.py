"""The advice's part of the overview."""

from __future__ import annotations

import streamlit as st
from sqlalchemy import Engine

from dashboard import markup, page, sample
from dashboard.advice import queries, sentences
from dashboard.markup import Html
from dashboard.sums import Sums


def show(ledger: Engine, sums: Sums, shape: str | None) -> None:
    lines, words = _read(ledger, sums, shape, sums.end.isoformat())
    with page.panel("advice"):
        page.show(markup.heading("Advice", f"from {words}"))
        items = "".join(f"<li>{line}</li>" for line in lines)
        page.show(Html(f'<ul class="sg-advice">{items}</ul>'))


@st.cache_data(show_spinner=False, max_entries=32)
def _read(_ledger: Engine, _sums: Sums, shape: str | None, end: str) -> tuple[list[str], str]:
    """`end` is part of the cache's key: sums read anew have another one."""
    chosen = sample.of_span(_ledger, _sums.start, _sums.end, shape)
    endpoints = queries.endpoints(_ledger, chosen)
    found = [
        *sentences.without_fallback(queries.without_fallback(_ledger, chosen)),
        *sentences.unstreamed(queries.unstreamed(_ledger, chosen)),
        *sentences.slowest(endpoints),
        *sentences.costliest(endpoints),
    ]
    return [line.text for line in found], chosen.words
