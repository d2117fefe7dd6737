"""Tables and the top row of tasks and cost. In: frames of `queries`, values of `shares`. Out: HTML."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dashboard import figures, markup
from dashboard.costs.shares import Side, lost
from dashboard.markup import Column, Content, Html
from dashboard.summary import TaskSummary, known_sum


def top_row(
    spending: pd.DataFrame,
    by_end: pd.DataFrame,
    tasks: TaskSummary,
    idle_usd: Mapping[str, float],
    shadows: pd.DataFrame,
) -> Html:
    cost, unpriced = known_sum(spending["cost_usd"]), int(spending["unpriced"].sum())
    wasted = spending[~spending["answered"].astype(bool)]
    gone = lost(by_end)
    ended = tasks.tasks - tasks.open
    gone_usd = figures.total_usd(known_sum(gone["cost_usd"]), int(gone["unpriced"].sum()))
    per_task = figures.NONE
    if tasks.completed:
        per_task = figures.total_usd(tasks.cost_per_completed_usd, tasks.unpriced)
    trial: list[Html] = []
    if not shadows.empty:
        shadow_usd = figures.total_usd(known_sum(shadows["cost_usd"]), int(shadows["unpriced"].sum()))
        trial = [markup.card("shadows", "Shadow cost", shadow_usd, "in no other figure here")]
    return markup.cards(
        [
            markup.card("spent", "Cost of attempts", figures.total_usd(cost, unpriced), "all of them"),
            markup.card("idle", "Idle cost", figures.usd(sum(idle_usd.values())), "engines up, unused"),
            markup.card(
                "wasted",
                "Without an answer",
                figures.total_usd(known_sum(wasted["cost_usd"]), int(wasted["unpriced"].sum())),
                f"{int(wasted['attempts'].sum()):,} attempts",
            ),
            markup.card(
                "completion_rate",
                "Completion rate",
                figures.share(tasks.completed, ended),
                f"{tasks.completed:,} of {ended:,} ended tasks",
            ),
            markup.card("per_task", "Cost / completed task", per_task, f"{tasks.tasks:,} tasks began"),
            markup.card(
                "lost", "Failed and abandoned", gone_usd, f"in {int(gone['attempts'].sum()):,} attempts"
            ),
            *trial,
        ],
        wide=True,
    )


def sides(found: Mapping[str, Side]) -> Html:
    columns = [
        Column("Targets"),
        Column("Attempts", True),
        Column("Input tokens", True),
        Column("Output tokens", True),
        Column("Cost of attempts", True),
        Column("Idle cost", True, "hours seen up × price, less what attempts are charged"),
        Column("USD / million output tokens", True, "idle cost included"),
    ]
    rows: list[list[Content]] = [
        [
            name,
            figures.count(side.attempts),
            figures.count(side.input_tokens),
            figures.count(side.output_tokens),
            figures.total_usd(side.cost_usd, side.unpriced),
            figures.usd(side.idle_usd),
            figures.NONE
            if side.usd_per_mtok is None
            else figures.total_usd(side.usd_per_mtok, side.unpriced),
        ]
        for name, side in found.items()
    ]
    return markup.table(columns, rows, "sides")


def lost_money(rows: pd.DataFrame, colour: Mapping[str, str]) -> Html:
    columns = [
        Column("Workflow"),
        Column("Outcome"),
        Column("Target"),
        Column("Attempts", True),
        Column("Cost", True),
    ]
    body: list[list[Content]] = [
        [
            row["workflow"],
            row["task_status"],
            markup.chip(row["target"], colour[row["target"]]),
            figures.count(row["attempts"]),
            figures.total_usd(row["cost_usd"], row["unpriced"]),
        ]
        for row in rows.sort_values("cost_usd", ascending=False).to_dict("records")
    ]
    return markup.table(columns, body, "lost")
