"""What a policy would do: one request explained, and the ledger's calls replayed. Nothing is sent to any target."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import streamlit as st
from sqlalchemy import Engine

from dashboard import explanation, figures, markup, page
from dashboard import queries as ledger_queries
from dashboard.markup import Content
from dashboard.palette import colours
from dashboard.policies import tables
from dashboard.policies.editor import Draft
from dashboard.policies.gateway import Gateway, Refused

_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
_REQUEST = """{
  "model": "auto",
  "stream": true,
  "messages": [{"role": "user", "content": "What is the capital of France?"}]
}"""
_MINE, _IN_FORCE = "your text", "the version in force"
_BACK_S = {"1 h": 3600.0, "24 h": 86_400.0, "7 d": 7 * 86_400.0, "30 d": 30 * 86_400.0}
_ALL = "all"
Answer = tuple[dict[str, Any] | None, str | None]  # what came, or why nothing did


def explain(gateway: Gateway, ledger: Engine, mine: Draft) -> None:
    with page.panel("policy_explain"):
        page.show(
            markup.heading("Explain a request", "decided by what the gateway knows now; sent to no target")
        )
        with st.container(key="charts_explain"):
            left, right = st.columns([3, 2])
        with left:
            request = st.text_area("Request body", _REQUEST, height=190, key="policy_request")
        with right:
            endpoint = st.selectbox("Endpoint", _ENDPOINTS, key="policy_endpoint")
            headers = st.text_input(
                "Headers", placeholder="X-Task-Shape: support; X-App: helpdesk", key="policy_headers"
            )
            by = st.segmented_control(
                "Decided by", [_MINE, _IN_FORCE], default=_MINE, required=True, key="policy_explained_by"
            )
        if st.button("Explain", key="policy_explain_now"):
            asked = {"endpoint": endpoint, "policy": mine.text if by == _MINE else None}
            st.session_state["policy_explained"] = _explained(gateway, request, headers, asked)
        _show_explained(st.session_state.get("policy_explained"), ledger)


def _explained(gateway: Gateway, request: str, headers: str, asked: dict[str, Any]) -> Answer:
    try:
        body = json.loads(request)
        pairs = dict(_pair(part) for part in headers.split(";") if part.strip())
    except json.JSONDecodeError as error:
        return None, f"The body is not JSON: {error.msg} (line {error.lineno}, column {error.colno})."
    except (ValueError, RecursionError) as error:
        return None, str(error)
    if not isinstance(body, dict):
        return None, "The body should be a JSON object, as an app sends it."
    try:
        return gateway.explain(asked | {"request": body, "headers": pairs}), None
    except Refused as error:
        return None, str(error)


def _pair(written: str) -> tuple[str, str]:
    name, colon, value = written.partition(":")
    if not colon or not name.strip():
        raise ValueError(f"A header is written as Name: value, not '{written.strip()}'.")
    return name.strip(), value.strip()


def _show_explained(answer: Answer | None, ledger: Engine) -> None:
    decision, trouble = answer or (None, None)
    with page.place(trouble is not None):
        if trouble is not None:
            page.show(markup.box("bad", "Not explained", trouble))
    with page.place(decision is not None):
        if decision is not None:
            _show_decision(decision, ledger)


def _show_decision(decision: dict[str, Any], ledger: Engine) -> None:
    colour = _colours(ledger, explanation.targets_named(decision))
    page.show(explanation.sentence(decision))
    page.show(markup.facts(_facts(decision)))
    page.show(explanation.candidates(decision, colour))
    with page.place(bool(decision.get("rejections"))):
        if decision.get("rejections"):
            page.show(markup.heading("Passed over"))
            page.show(explanation.rejections(decision, colour))


def _facts(decision: Mapping[str, Any]) -> list[tuple[str, Content]]:
    confidence, timeouts = decision.get("shape_confidence"), decision["timeouts"]
    sure = "" if confidence is None else f", {figures.share(confidence, 1)} sure"
    hedge = decision.get("hedge_after_s")
    limits = [
        f"{label} {figures.seconds(timeouts[key])}"
        for label, key in (("first token", "first_token_s"), ("idle", "idle_s"), ("in all", "total_s"))
    ]
    pairs: list[tuple[str, Content]] = [
        ("Shape", f"{decision['shape']} ({decision['shape_source']}{sure})"),
        ("Objective", str(decision["objective"])),
        ("Output expected", f"{figures.count(decision['expected_output_tokens'])} tokens"),
        ("Deadlines", ", ".join(limits)),
        ("Further attempts", f"at most {decision['max_retries']}"),
        ("Hedge", "none" if hedge is None else f"after {figures.seconds(hedge)}"),
        ("Policy", markup.code(str(decision["policy_hash"])[: tables.HASH_CHARS])),
    ]
    return pairs


def replay(gateway: Gateway, ledger: Engine, mine: Draft) -> None:
    with page.panel("policy_replay"):
        page.show(markup.heading("Replay recorded calls", "what your text would have done with them"))
        with st.container(horizontal=True, vertical_alignment="bottom", key="policy_replay_controls"):
            back = st.segmented_control(
                "Since", list(_BACK_S), default="24 h", required=True, key="policy_since"
            )
            if st.button("Replay", key="policy_replay_now"):
                with st.spinner("Deciding the calls anew …"):
                    st.session_state["policy_replayed"] = _replayed(gateway, mine.text, _BACK_S[str(back)])
        answer: Answer | None = st.session_state.get("policy_replayed")
        found, trouble = answer or (None, None)
        with page.place(trouble is not None):
            if trouble is not None:
                page.show(markup.box("bad", "Not replayed", trouble))
        num_calls = found["all"]["calls"] if found is not None else None
        with page.place(num_calls == 0):
            if num_calls == 0:
                page.show(markup.muted("No call of that span can be decided anew."))
        with page.place(bool(num_calls)):
            if found is not None and num_calls:
                _show_replayed(found, ledger)


def _replayed(gateway: Gateway, text: str, since_s: float) -> Answer:
    try:
        return gateway.replay(text, since_s), None
    except Refused as error:
        return None, str(error)


def _show_replayed(found: dict[str, Any], ledger: Engine) -> None:
    reports = {report["shape"]: report for report in [found["all"], *found["shapes"]]}
    page.show(tables.replay_row(found))
    colour = _colours(
        ledger, {name for it in found["shapes"] for old, new, _ in it["moves"] for name in (old, new)}
    )
    page.show(markup.heading("What would have gone where", markup.code(found["policy"])))
    page.show(tables.moves(found["shapes"], colour))
    shape = st.selectbox("Figures of shape", list(reports), key="policy_replayed_shape", width=220)
    page.show(tables.outcomes(reports.get(str(shape), reports[_ALL])))
    page.show(
        markup.muted(
            "In brackets: 95 % intervals; ? where too few calls tell. Both sides are of the same calls."
        )
    )
    page.export(tables.exported(reports.values()), "policy_replay")
    with page.place(bool(found["notes"])):
        if found["notes"]:
            page.show(markup.join(map(markup.muted, found["notes"]), "<br>"))


def _colours(ledger: Engine, seen: set[str]) -> dict[str, str]:
    return colours(ledger_queries.targets(ledger)["name"], seen)
