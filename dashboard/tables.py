"""The overview's tables: by target, by shape, by workflow, newest exchanges, targets, engines, policy
versions.

In: summaries and frames. Out: HTML. A percentile of fewer than 20 samples is marked with a star.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import pandas as pd

from dashboard import figures, markup
from dashboard.markup import Column, Content, Html
from dashboard.summary import Latency, Summary, TaskSummary, Tries, summarise_tasks

FEW_NOTE = "* fewer than 20 samples: a hint, not a percentile"
_STALE_S = 30  # engines are sampled every few seconds

_LATENCY_COLUMNS = (
    Column("Calls", True),
    Column("Errors", True, "share of calls answered with an error"),
    Column("Timeouts", True, "share of calls (by target: of attempts) that missed a deadline of the policy"),
    Column("TTFT p50", True),
    Column("TTFT p95", True),
    Column("TTFT samples", True, "streamed calls behind the two percentiles"),
    Column("Tokens/s p50", True, "output tokens after the first, a second"),
    Column("Completion p95", True, "whole call"),
)


def by_target(
    groups: Mapping[str, Summary],
    tries: Mapping[str, Tries],
    shadows: Mapping[str, Tries],
    idle: Mapping[str, float],
    colour: dict[str, str],
) -> Html:
    """`idle` holds the dollars that an engine cost while unused."""
    columns = [
        Column("Target"),
        *_LATENCY_COLUMNS,
        Column("Attempts failed", True, "of all upstream tries, also those a fallback rescued"),
        Column("Cost", True, "of all attempts, losers and failures included"),
        Column("Idle cost", True, "hours seen up × price, less what calls used"),
    ]
    if shadows:
        columns.append(Column("Shadow cost", True, "of calls sent to it on trial, which is in no other cost"))
    rows: list[list[Content]] = []
    for name in dict.fromkeys([*groups, *tries, *shadows]):
        cells = _latency_cells(groups[name]) if name in groups else [*_NO_CALLS]
        tried = tries.get(name)
        cells[2] = figures.share(tried.timeouts, tried.attempts) if tried else figures.NONE
        rows.append([markup.chip(name, colour[name]), *cells, *_attempt_cells(tried), _idle(idle, name)])
        if shadows:
            rows[-1].append(_shadow_cost(shadows.get(name)))
    return markup.table(columns, rows, "by-target")


def by_shape(groups: Mapping[str, Summary]) -> Html:
    rows = [
        [name, *_latency_cells(group), figures.total_usd(group.cost_usd, group.unpriced)]
        for name, group in groups.items()
    ]
    return markup.table([Column("Shape"), *_LATENCY_COLUMNS, Column("Cost", True)], rows, "by-shape")


def by_workflow(tasks: pd.DataFrame) -> Html:
    columns = [
        Column("Workflow"),
        *(
            Column(name, True)
            for name in ("Tasks", "Completed", "Failed", "Abandoned", "Open", "Calls", "Cost")
        ),
        Column("Cost / completed task", True, "cost of all attempts of all tasks ÷ tasks completed"),
    ]
    rows: list[list[Content]] = []
    for row in tasks.to_dict("records"):
        summary: TaskSummary = summarise_tasks(pd.DataFrame([row]))
        per_task = figures.NONE
        if summary.completed:
            per_task = figures.total_usd(summary.cost_per_completed_usd, summary.unpriced)
        numbers = [
            figures.count(row[key]) for key in ("tasks", "completed", "failed", "abandoned", "open", "calls")
        ]
        cost = figures.total_usd(summary.cost_usd, summary.unpriced)
        rows.append([row["workflow"], *numbers, cost, per_task])
    return markup.table(columns, rows, "by-workflow")


def newest(exchanges: pd.DataFrame, colour: dict[str, str], zone: ZoneInfo, link: Mapping[str, str]) -> Html:
    """`link` holds the query parameters that lead back to this view."""
    columns = [
        Column("Time"),
        Column("Shape"),
        Column("Target"),
        Column("Status"),
        Column("TTFT", True),
        Column("Total", True),
        Column("Tokens/s", True, is_minor=True),
        Column("Cost", True, is_minor=True),
        Column("Why this target"),
    ]
    rows = [_exchange_cells(row, colour, zone, link) for row in exchanges.to_dict("records")]
    return markup.table(columns, rows, "newest")


def status_pill(row: Mapping[str, Any]) -> Html:
    """How an exchange ended, in one word or code."""
    if not figures.is_absent(row["timed_out"]):
        return markup.pill(f"{row['status']} late: {str(row['timed_out']).replace('_', ' ')}", "bad")
    if row["status"] == 499:
        return markup.pill("499 client left", "unsure")
    if row["status"] >= 400 or not figures.is_absent(row["error_code"]):
        code = "" if figures.is_absent(row["error_code"]) else f" {row['error_code']}"
        return markup.pill(f"{row['status']}{code}", "bad")
    return markup.pill(str(row["status"]), "good")


def configured(targets: pd.DataFrame, colour: dict[str, str]) -> Html:
    rows: list[list[Content]] = []
    for row in targets.to_dict("records"):
        state, reason = _target_state(row)
        rows.append(
            [
                markup.chip(row["name"], colour[row["name"]]),
                row["kind"],
                _text(row["model"]),
                state,
                reason,
            ]
        )
    columns = [Column("Target"), Column("Kind"), Column("Model"), Column("State"), Column("Reason")]
    return markup.table(columns, rows, "targets")


def _target_state(row: Mapping[str, Any]) -> tuple[Html, str]:
    if not figures.is_absent(row["disabled_reason"]):
        return markup.pill("disabled", "unsure"), row["disabled_reason"]
    enabled = markup.pill("enabled", "good")
    if figures.is_absent(row["price_note"]):
        return enabled, ""
    return markup.join([enabled, markup.pill("no price", "unsure")], " "), row["price_note"]


def engines(samples: pd.DataFrame, colour: dict[str, str], now: datetime) -> Html:
    columns = [
        Column("Engine"),
        Column("Model"),
        Column("Running", True, "sequences being answered"),
        Column("Waiting", True, "sequences in the queue"),
        Column("KV used", True, "share of the key-value cache"),
        Column("Prefill tokens/s", True),
        Column("Decode tokens/s", True),
        Column("Accepted length", True, "tokens that a step adds to an answer; 1.0 without speculation"),
        Column("Sampled", True),
    ]
    rows: list[list[Content]] = []
    for row in samples.to_dict("records"):
        seen: Content = figures.age(row["sampled_at"], now)
        if (now - row["sampled_at"]).total_seconds() > _STALE_S:
            seen = markup.verdict("unsure", f"stale, {figures.age(row['sampled_at'], now)}")
        kv, state = row["kv_used_fraction"], row["state"] or {}
        model: Content = _text(state.get("model"))
        if state.get("draining"):
            model = markup.join([model, " ", markup.pill("draining", "unsure")])
        limit = f" of {state['max_batch']}" if "max_batch" in state else ""
        rows.append(
            [
                markup.chip(row["target"], colour[row["target"]]),
                model,
                f"{figures.count(row['running'])}{limit}",
                figures.count(row["waiting"]),
                figures.NONE if figures.is_absent(kv) else figures.share(kv, 1),
                figures.rate(row["prefill_tokens_per_s"]),
                figures.rate(row["decode_tokens_per_s"]),
                _accepted_length(row["accepted_length"], state.get("drafter")),
                seen,
            ]
        )
    return markup.table(columns, rows, "engines")


def _accepted_length(length: float | None, drafter: str | None) -> Content:
    if figures.is_absent(length):
        return figures.NONE
    return markup.hinted(f"{length:.2f}", f"drafts come from {drafter}" if drafter else "nothing is drafted")


def policy_versions(versions: pd.DataFrame, active_hash: str | None, zone: ZoneInfo) -> Html:
    rows: list[list[Content]] = []
    marked = False
    for row in versions.to_dict("records"):
        refused = not figures.is_absent(row["error"])
        active = not refused and not marked and row["hash"] == active_hash
        marked = marked or active
        state = markup.pill("earlier")
        if refused or active:
            state = markup.pill("refused", "bad") if refused else markup.pill("active", "good")
        at = row["published_at"].astimezone(zone)
        rows.append([f"{at:%d %b %H:%M:%S}", markup.code(row["hash"][:12]), state, row["source"]])
    columns = [Column("Published"), Column("Version"), Column("State"), Column("From")]
    return markup.table(columns, rows, "policies")


_NO_CALLS: tuple[Content, ...] = ("0", *[figures.NONE] * (len(_LATENCY_COLUMNS) - 1))


def _latency_cells(group: Summary) -> list[Content]:
    return [
        figures.count(group.calls),
        figures.share(group.errors, group.calls),
        figures.share(group.timeouts, group.calls),
        _quantile(group.ttft, figures.seconds(group.ttft.p50)),
        _quantile(group.ttft, figures.seconds(group.ttft.p95)),
        figures.count(group.ttft.n),
        _quantile(group.tpot, figures.rate(group.tokens_per_s)),
        _quantile(group.total, figures.seconds(group.total.p95)),
    ]


def _quantile(latency: Latency, words: str) -> Content:
    hint = f"of {latency.n:,} samples"
    if latency.n and latency.is_few:
        return markup.hinted(Html(f'<span class="sg-few">{markup.safe(words)}*</span>'), hint)
    return markup.hinted(words, hint)


def _attempt_cells(tried: Tries | None) -> list[Content]:
    if tried is None:
        return [figures.NONE, figures.NONE]
    return [f"{tried.failed:,} of {tried.attempts:,}", figures.total_usd(tried.cost_usd, tried.unpriced)]


def _shadow_cost(tried: Tries | None) -> Content:
    if tried is None:
        return figures.NONE
    return markup.hinted(figures.total_usd(tried.cost_usd, tried.unpriced), f"{tried.attempts:,} calls")


def _idle(idle: Mapping[str, float], name: str) -> str:
    return figures.usd(idle[name]) if name in idle else figures.NONE


def _exchange_cells(
    row: dict[str, Any], colour: dict[str, str], zone: ZoneInfo, link: Mapping[str, str]
) -> list[Content]:
    at = row["started_at"].astimezone(zone)
    href = "exchange?" + urlencode({"id": f"req_{row['id'].hex}", **link})
    target: Content = markup.muted("none")
    if not figures.is_absent(row["target"]):
        target = markup.chip(row["target"], colour[row["target"]])
    return [
        Html(f'<a href="{markup.safe(href)}" title="req_{row["id"].hex}">{at:%H:%M:%S}</a>'),
        markup.hinted(_text(row["shape"]), f"how the shape was found: {_text(row['shape_source'])}"),
        target,
        status_pill(row),
        figures.seconds(row["ttft_s"]),
        figures.seconds(row["total_s"]),
        figures.rate(row["tokens_per_s"]),
        figures.usd(row["cost_usd"]),
        Html(f'<span class="sg-why">{markup.safe(_why(row))}</span>'),
    ]


def _why(row: Mapping[str, Any]) -> Html:
    parts: list[Content] = [_text(row["reason"])]
    if row["explored"] is True:
        parts.append(markup.pill("explored"))
    if row["attempts"] > 1:
        parts.append(markup.pill(f"{row['attempts']} attempts", "unsure"))
    return markup.join(parts, " ")


def _text(value: Any) -> str:
    return figures.NONE if figures.is_absent(value) else str(value)
