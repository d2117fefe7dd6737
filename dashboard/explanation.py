"""A decision and the attempts that followed, as tables.

In: the ledger's `decision` JSON (candidates in order with their predictions, rejections, the reason in a
sentence) and the frame of `rows.attempts`. Out: HTML. Fields that a later version adds are shown too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dashboard import figures, markup
from dashboard.markup import Column, Content, Html

# The unit of a candidate's score is that of the objective.
_OBJECTIVES = {
    "ttft": "time to first token",
    "speed": "output speed",
    "completion_p95": "p95 completion",
    "cost_per_completed_task": "cost per completed task",
}
_LABELS = {
    "ttft_s": "TTFT",
    "tpot_s": "Time per token",
    "completion_s": "Completion",
    "completion_p95_s": "Completion p95",
    "cost_usd": "Cost",
    "success_share": "Success",
    "in_flight": "In flight",
    "crowding": "Crowding",
    "weight": "Samples (decayed)",
}


def targets_named(decision: Any) -> set[str]:
    if not isinstance(decision, dict):
        return set()
    return {str(it["target"]) for key in ("candidates", "rejections") for it in decision.get(key, [])}


def how(decision: Mapping[str, Any]) -> str:
    objective = str(decision.get("objective", ""))
    parts = [f"objective: {_OBJECTIVES.get(objective, objective)}"] if objective else []
    if decision.get("explored"):
        parts.append("explored: a small share of calls goes to another target to keep its estimate fresh")
    return " · ".join(parts)


def sentence(decision: Mapping[str, Any]) -> Html:
    return Html(f'<div class="sg-sentence">{markup.safe(str(decision.get("reason", figures.NONE)))}</div>')


def candidates(decision: Mapping[str, Any], colour: Mapping[str, str]) -> Html:
    """In the order of trying, with what each was expected to do."""
    listed = decision.get("candidates", [])
    parts = _part_names(listed)
    columns = [
        Column("Candidate"),
        Column("Role"),
        Column("Score, lower is better", True),
        *(Column(_LABELS.get(name, name), True) for name in parts),
        Column("Misses"),
    ]
    rows: list[list[Content]] = []
    for place, candidate in enumerate(listed, start=1):
        predicted = _parts(candidate)
        rows.append(
            [
                markup.join([f"{place}. ", markup.chip(candidate["target"], colour[candidate["target"]])]),
                str(candidate.get("role", "candidate")),
                _number("score", candidate.get("score")),
                *(_number(name, predicted.get(name)) for name in parts),
                ", ".join(candidate.get("slo_misses") or []),
            ]
        )
    return markup.table(columns, rows, "candidates")


def rejections(decision: Mapping[str, Any], colour: Mapping[str, str]) -> Html:
    rows: list[list[Content]] = [
        [markup.chip(it["target"], colour[it["target"]]), str(it["reason"])] for it in decision["rejections"]
    ]
    return markup.table([Column("Target"), Column("Reason")], rows, "rejections")


def attempts(tried: pd.DataFrame, colour: Mapping[str, str]) -> Html:
    columns = [
        Column("Attempt"),
        Column("Model"),
        Column("Result"),
        Column("HTTP", True),
        Column("TTFT", True),
        Column("Total", True),
        Column("Tokens in / out", True),
        Column("Cost", True),
        Column("Error"),
    ]
    return markup.table(
        columns, [_attempt_cells(row, colour) for row in tried.to_dict("records")], "attempts"
    )


def _attempt_cells(row: Mapping[str, Any], colour: Mapping[str, str]) -> list[Content]:
    result = str(row["result"])
    kind: markup.Kind = "good" if result == "ok" else "unsure" if result == "client_gone" else "bad"
    error = ": ".join(
        str(row[key]) for key in ("error_code", "error_message") if not figures.is_absent(row[key])
    )
    place = f"{row['ordinal'] + 1}. " if figures.is_absent(row["role"]) else f"{row['role']} "
    return [
        markup.join([place, markup.chip(row["target"], colour[row["target"]])]),
        row["model"],
        markup.pill(result.replace("_", " "), kind),
        figures.NONE if figures.is_absent(row["http_status"]) else f"{row['http_status']:.0f}",
        figures.seconds(row["ttft_s"]),
        figures.seconds(row["total_s"]),
        f"{figures.count(row['input_tokens'])} / {figures.count(row['output_tokens'])}",
        figures.usd(row["cost_usd"]),
        error,
    ]


def _parts(candidate: Mapping[str, Any]) -> dict[str, Any]:
    return candidate.get("prediction") or candidate.get("parts") or {}


def _part_names(listed: list[dict[str, Any]]) -> list[str]:
    """Every part that some candidate has: those known here in their own order, then the others."""
    there = {name for candidate in listed for name in _parts(candidate)}
    return [*(name for name in _LABELS if name in there), *sorted(there - set(_LABELS))]


def _number(name: str, value: Any) -> str:
    if figures.is_absent(value):
        return figures.NONE
    if not isinstance(value, int | float):
        return str(value)
    if name.endswith("_s"):
        return figures.seconds(value)
    if name.endswith("_usd"):
        return figures.usd(value)
    return f"{100 * value:.1f} %" if name.endswith("_share") else f"{value:.4g}"
