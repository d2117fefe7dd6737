"""A page of the dashboard drawn in this process, without server and browser: what it asks of the database.

In: the page's name, query parameters, the moment that is now. Out: its statements, and how long they and all of it
took. Nothing is kept from one drawing to the next but the connections.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from unittest.mock import patch

import streamlit as st
from sqlalchemy import Engine, event
from streamlit.testing.v1 import AppTest

from dashboard.access import SIGN_IN_VARIABLE
from dashboard.sessions import URL_VARIABLE

PAGES = {
    "overview": "dashboard.overview",
    "latency": "dashboard.latency.page",
    "routing": "dashboard.routing.page",
    "costs": "dashboard.costs.page",
    "engine": "dashboard.engines.page",
    "benchmarks": "dashboard.benchmarks.page",
    "exchange": "dashboard.exchange",
}
_SPANLESS = ("benchmarks", "exchange")
_PATIENCE_S = 120


@dataclass(frozen=True, slots=True)
class Statement:
    sql: str
    parameters: Any
    took_s: float


@dataclass(slots=True)
class Drawing:
    page: AppTest
    took_s: float = 0.0
    statements: list[Statement] = field(default_factory=list)

    @property
    def sql_s(self) -> float:
        return sum(it.took_s for it in self.statements)


def draw(database_url: str, name: str, now: datetime, **query: str) -> Drawing:
    """Raises AssertionError when the page shows an exception."""
    controls = "" if name in _SPANLESS else "frame.controls(None, has_shape=True)\n"
    script = f"from dashboard import frame\nfrom {PAGES[name]} import {name}\n{controls}{name}()"
    made = Drawing(AppTest.from_string(script, default_timeout=_PATIENCE_S))
    made.page.query_params.update(query | {"live": "false"})
    st.cache_data.clear()
    environment = {URL_VARIABLE: database_url, SIGN_IN_VARIABLE: "never"}
    with patch("dashboard.page.now", lambda: now), patch.dict(os.environ, environment), _noting(made):
        began = time.perf_counter()
        made.page.run()
        made.took_s = time.perf_counter() - began
    assert not made.page.exception, made.page.exception
    return made


@contextmanager
def _noting(made: Drawing) -> Iterator[None]:
    def before(*arguments: Any) -> None:
        arguments[4].began = time.perf_counter()

    def after(_connection: Any, _cursor: Any, sql: str, parameters: Any, context: Any, _many: Any) -> None:
        made.statements.append(Statement(sql, parameters, time.perf_counter() - context.began))

    event.listen(Engine, "before_cursor_execute", before)
    event.listen(Engine, "after_cursor_execute", after)
    try:
        yield
    finally:
        event.remove(Engine, "before_cursor_execute", before)
        event.remove(Engine, "after_cursor_execute", after)
