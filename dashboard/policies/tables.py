"""The policies page's tables and figures in the top row. In: versions, mistakes, a replay's JSON. Out: HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from dashboard import figures, markup
from dashboard.markup import Column, Content, Html
from dashboard.policies import differences
from dashboard.policies.editor import Draft
from dashboard.policies.gateway import Mistake
from dashboard.policies.queries import Version

HASH_CHARS = 12
FIGURES = {
    "ttft_p50_s": "TTFT p50",
    "ttft_p95_s": "TTFT p95",
    "completion_p50_s": "Completion p50",
    "completion_p95_s": "Completion p95",
    "timeout_rate": "Timeout rate",
    "failure_rate": "Failure rate",
    "cost_usd": "Cost of a call",
    "cost_per_completed_task_usd": "Cost per completed task",
}


def top_row(in_force: Version, mine: Draft | None, mistakes: Sequence[Mistake] | None, now: datetime) -> Html:
    """`mistakes` None: nobody could check the text."""
    cards = [
        markup.card("in_force", "In force", in_force.hash[:HASH_CHARS], who(in_force.source)),
        markup.card(
            "published",
            "Published",
            figures.age(in_force.published_at, now),
            f"{in_force.published_at:%d %b %Y}",
        ),
    ]
    if mine is not None:
        changes = differences.counted(differences.differences(in_force.yaml, mine.text))
        cards.append(
            markup.card("draft", "Your text", changes if mine.is_changed else "unchanged", _state(mistakes))
        )
    return markup.cards(cards, wide=True)


def _state(mistakes: Sequence[Mistake] | None) -> Html:
    if mistakes is None:
        return markup.verdict("unsure", "not checked")
    if mistakes:
        return markup.verdict("bad", f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''}")
    return markup.verdict("good", "valid")


def mistakes(found: Iterable[Mistake]) -> Html:
    rows: list[list[Content]] = [
        [
            figures.NONE if it.line is None else str(it.line),
            markup.join([markup.code(it.key), " ", it.message] if it.key else [it.message]),
        ]
        for it in found
    ]
    return markup.table([Column("Line", True), Column("Mistake")], rows, "mistakes")


def versions(found: pd.DataFrame, zone: ZoneInfo) -> Html:
    columns = [
        Column("Published"),
        Column("Version"),
        Column("State"),
        Column("By"),
        Column("Refused because", is_minor=True),
    ]
    rows: list[list[Content]] = []
    for row in found.to_dict("records"):
        is_refused = not figures.is_absent(row["error"])
        state = markup.pill("refused", "bad") if is_refused else markup.pill("earlier")
        rows.append(
            [
                f"{row['published_at'].astimezone(zone):%d %b %Y %H:%M:%S}",
                markup.code(row["hash"][:HASH_CHARS]),
                markup.pill("in force", "good") if row["is_active"] else state,
                markup.hinted(who(row["source"]), row["source"]),
                row["error"] if is_refused else "",
            ]
        )
    return markup.table(columns, rows, "versions")


def who(source: str) -> str:
    """Who published a version, of its source."""
    kind, _, name = source.partition(":")
    if kind == "file":
        host, _, path = name.partition(":")
        return f"{path.rpartition('/')[2] or 'a file'} on {host}"
    named = {
        "api": name or "the API",
        "rollback": f"{name or 'command line'}, rolled back",
        "cli": "command line",
    }
    return named.get(kind, source)


def replay_row(found: Mapping[str, Any]) -> Html:
    overall, reproduced = found["all"], found["reproduced_share"]
    return markup.cards(
        [
            markup.card(
                "replayed",
                "Calls decided anew",
                figures.count(overall["calls"]),
                f"{found['recorded_calls']:,} recorded",
            ),
            markup.card(
                "moved",
                "Would move",
                figures.share(overall["moved"], overall["calls"]),
                f"{overall['moved']:,} calls, {overall['unknown']:,} to where nothing is known",
            ),
            markup.card(
                "reproduced",
                "Check",
                figures.NONE if reproduced is None else figures.share(reproduced, 1),
                "of calls go where they went under their own policy",
            ),
        ],
        wide=True,
    )


def moves(reports: Iterable[Mapping[str, Any]], colour: Mapping[str, str]) -> Html:
    """Of each shape, what went where and would go where; what stays is muted."""
    columns = [
        Column("Shape"),
        Column("Went to"),
        Column("Would go to"),
        Column("Calls", True),
        Column("Share of the shape", True),
    ]
    rows: list[list[Content]] = []
    for report in reports:
        for old, new, calls in report["moves"]:
            would = markup.muted("stays") if old == new else markup.chip(new, colour[new])
            rows.append(
                [
                    report["shape"],
                    markup.chip(old, colour[old]),
                    would,
                    figures.count(calls),
                    figures.share(calls, report["calls"]),
                ]
            )
    return markup.table(columns, rows, "moves")


def outcomes(report: Mapping[str, Any]) -> Html:
    """Both sides of the same calls, each with its interval."""
    columns = [
        Column("Figure"),
        Column("Recorded", True),
        Column("Under this text", True),
        Column("Difference", hint="told where the two intervals of 95 % have nothing in common"),
    ]
    rows: list[list[Content]] = [
        [
            label,
            estimate(name, report["old"][name]),
            estimate(name, report["new"][name]),
            _verdict(report, name),
        ]
        for name, label in FIGURES.items()
        if report["old"][name] is not None or report["new"][name] is not None
    ]
    return markup.table(columns, rows, "outcomes")


def exported(reports: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a shape, side and figure."""
    return pd.DataFrame(
        [
            {"shape": report["shape"], "side": side, "figure": name, **report[key][name]}
            for report in reports
            for key, side in (("old", "recorded"), ("new", "under this text"))
            for name in FIGURES
            if report[key][name] is not None
        ]
    )


def estimate(name: str, found: Mapping[str, Any] | None) -> str:
    """`1.20 s (1.11 s to 1.32 s)`; a ? where too few calls set a bound."""
    if found is None:
        return figures.NONE
    value, low, high = (_figure(name, found[key]) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return "?"
    if name.endswith("_rate"):
        return figures.share(value, 1)
    return figures.usd(value) if name.endswith("_usd") else figures.seconds(value)


def _verdict(report: Mapping[str, Any], name: str) -> Content:
    """Less is better in all of these figures."""
    old, new = report["old"][name], report["new"][name]
    if old is None or new is None:
        return ""
    if None not in (new["high"], old["low"]) and new["high"] < old["low"]:
        return markup.verdict("good", "less")
    if None not in (new["low"], old["high"]) and new["low"] > old["high"]:
        return markup.verdict("bad", "more")
    return markup.muted("within chance")
