"""One exchange: what was asked, why its target was chosen, and every attempt that was made.

In: the query parameter `id`. Reads once, since a closed exchange never changes.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboard import charts, explanation, figures, markup, page, queries, rows, tables
from dashboard.database import LedgerUnavailable
from dashboard.palette import colours

_RETRY_S = 3


def exchange() -> None:
    written = str(st.query_params.get("id", ""))
    page.show(markup.heading("Exchange", markup.code(written)))
    is_waiting = st.session_state.get("is_waiting", False)
    st.fragment(_once, run_every=_RETRY_S if is_waiting else None)(written)


def _once(written: str) -> None:
    """Waits only for a database that is away, or a record that is still on its way from the spool."""
    try:
        is_waiting = not _show(written)
    except LedgerUnavailable as error:
        page.show_unavailable(error)
        is_waiting = True
    if st.session_state.get("is_waiting", False) != is_waiting:
        st.session_state["is_waiting"] = is_waiting
        st.rerun()


def _show(written: str) -> bool:
    """False when there may be something to show later."""
    exchange_id = rows.parse_request_id(written)
    if exchange_id is None:
        body = "A request id is req_ and 32 hex digits, as in the header X-Request-Id of an answer."
        page.show(markup.box("bad", "This is not a request id", body))
        return True
    ledger = page.ledger()
    found = rows.exchange(ledger, exchange_id)
    if found.empty:
        body = (
            "A call is recorded when its answer has ended, and dropped when its retention is over. "
            "This page looks again every few seconds."
        )
        page.show(markup.box("info", "No exchange has this id", body))
        return False
    row = found.to_dict("records")[0]
    attempts = rows.attempts(ledger, exchange_id, row["started_at"], row["total_s"])
    names = explanation.targets_named(row["decision"])
    colour = colours(queries.targets(ledger)["name"], {*names, *attempts["target"]})
    _facts(row)
    _decision(row, colour)
    _attempts(row, attempts, colour)
    return True


def _facts(row: dict[str, Any]) -> None:
    at = row["started_at"].astimezone(page.reader_zone())
    pairs = [
        ("Began", f"{at:%d %b %Y %H:%M:%S} ({page.reader_zone()})"),
        ("Status", tables.status_pill(row)),
        ("Caller", row["caller"]),
        ("Endpoint", row["endpoint"]),
        ("Model asked for", _text(row["model_asked"])),
        ("Answered by", f"{_text(row['target'])} · {_text(row['model'])}"),
        ("Shape", f"{_text(row['shape'])} ({_text(row['shape_source'])})"),
        ("TTFT", figures.seconds(row["ttft_s"])),
        ("Total", figures.seconds(row["total_s"])),
        ("Tokens/s", figures.rate(row["tokens_per_s"])),
        ("Gateway overhead", figures.seconds(row["overhead_s"])),
        ("Tokens in / out", f"{figures.count(row['input_tokens'])} / {figures.count(row['output_tokens'])}"),
        ("Cost", figures.usd(row["cost_usd"])),
        ("Finish reason", _text(row["finish_reason"])),
        ("Task", _text(row["task_id"])),
        ("Workflow", _text(row["workflow"])),
        ("Policy", _text(row["policy_hash"])[:12]),
    ]
    with page.panel("facts"):
        page.show(markup.facts(pairs))


def _decision(row: dict[str, Any], colour: dict[str, str]) -> None:
    decision = row["decision"]
    with page.panel("decision"):
        if not isinstance(decision, dict):
            page.show(markup.heading("Why this target"))
            page.show(markup.muted("No decision was made: the call was refused before routing."))
            return
        page.show(markup.heading("Why this target", explanation.how(decision)))
        page.show(explanation.sentence(decision))
        page.show(explanation.candidates(decision, colour))
        if decision.get("rejections"):
            page.show(markup.heading("Passed over"))
            page.show(explanation.rejections(decision, colour))


def _attempts(row: dict[str, Any], attempts: pd.DataFrame, colour: dict[str, str]) -> None:
    with page.panel("attempts"):
        page.show(markup.heading("Attempts", "pale: before the first token"))
        if attempts.empty:
            page.show(markup.muted("No target was tried."))
            return
        timeline = charts.attempt_timeline(attempts, row["started_at"], colour)
        st.plotly_chart(timeline, key="timeline", config={"displayModeBar": False})
        page.show(explanation.attempts(attempts, colour))


def _text(value: Any) -> str:
    return figures.NONE if figures.is_absent(value) else str(value)
