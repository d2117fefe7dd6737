"""The overview page: what the gateway does now, against the lines it is meant to keep.

Its parts are in `sections`.
"""

from __future__ import annotations

from sqlalchemy import Engine

from dashboard import frame, page, queries, rows, sections, sums
from dashboard.frame import View
from dashboard.palette import colours

_REFRESH_S = 3
_SHOWN_EXCHANGES = 15


def overview() -> None:
    frame.refreshed(_content, frame.view(), _REFRESH_S)


def _content(ledger: Engine, view: View) -> None:
    now, span, shape = page.now(), view.span, view.shape
    targets = queries.targets(ledger)
    sections.policy_error(queries.policies(ledger, limit=1))
    newest = rows.newest(ledger, span.start(now), shape, _SHOWN_EXCHANGES)
    if newest.empty:
        sections.nothing_yet(queries.last_call_at(ledger), span, shape, now)
        colour = colours(targets["name"], [])
    else:
        read = sums.of_span(ledger, span, shape)
        seen = {
            *read.traffic["target"],
            *read.attempts["target"],
            *read.shadows["target"],
            *newest["target"].dropna(),
        }
        colour = colours(targets["name"], seen)
        sections.measured(ledger, read, span, shape, targets, colour)
        sections.exchanges(newest, colour, view.parameters)
    sections.configuration(ledger, targets, colour, now)
