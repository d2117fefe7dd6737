"""The routing page's tables and figures in the top row. In: frames of `queries`. Out: HTML."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dashboard import figures, markup
from dashboard.markup import Column, Content, Html
from dashboard.routing.charts import RESULT_HUES


def top_row(ends: pd.DataFrame, why: pd.DataFrame) -> Html:
    """`ends` has result, is_further, attempts; `why` why, calls."""
    tries, decided = int(ends["attempts"].sum()), int(why["calls"].sum())
    further = ends[ends["is_further"].astype(bool)]
    rescued = int(further.loc[further["result"] == "ok", "attempts"].sum())
    further_tries = int(further["attempts"].sum())
    hedges = int(ends.loc[ends["result"] == "hedge_lost", "attempts"].sum())
    explored = int(why.loc[why["why"] == "explored", "calls"].sum())
    failed = int(ends.loc[~ends["result"].isin(["ok", "client_gone", "hedge_lost"]), "attempts"].sum())
    return markup.cards(
        [
            markup.card("attempts", "Attempts", figures.count(tries), "upstream tries of all calls"),
            markup.card(
                "failed", "Attempts failed", figures.share(failed, tries), f"{failed:,} of {tries:,}"
            ),
            markup.card(
                "further", "Further attempts", figures.count(further_tries), f"{rescued:,} of them answered"
            ),
            markup.card("hedges", "Hedges lost", figures.count(hedges), "tries ended as another was first"),
            markup.card(
                "explored", "Explored", figures.share(explored, decided), f"{explored:,} of {decided:,}"
            ),
        ],
        wide=True,
    )


_WHY = {
    "refused": "refused before routing",
    "none": "no target could serve",
    "explored": "explored",
    "pinned": "named by the caller",
    "relief": "fallback: relieves a busy candidate",
    "fallback": "fallback: no candidate could serve",
    "weighted": "drawn by its weight",
    "sticky": "holds the start of the task",
    "only": "only candidate that could serve",
    "slo": "meets the SLO, the next would not",
    "score": "best score",
}


def why(rows: pd.DataFrame, colour: Mapping[str, str]) -> Html:
    columns = [
        Column("Shape"),
        Column("First choice"),
        Column("Why"),
        Column("Calls", True),
        Column("Share of the shape", True),
        Column("Answered by another", True, "the first choice failed, was too slow, or was not asked"),
    ]
    sums = rows.groupby("shape")["calls"].sum()
    body: list[list[Content]] = [
        [
            row["shape"],
            _target(row["chosen"], colour),
            _WHY.get(row["why"], row["why"]),
            figures.count(row["calls"]),
            figures.share(row["calls"], sums[row["shape"]]),
            figures.share(row["moved"], row["calls"]),
        ]
        for row in rows.to_dict("records")
    ]
    return markup.table(columns, body, "why")


def rejections(rows: pd.DataFrame, decided: int, colour: Mapping[str, str]) -> Html:
    """`rows` has target, kind, calls, example."""
    columns = [
        Column("Target"),
        Column("Passed over because"),
        Column("Calls", True),
        Column("Share of decisions", True),
    ]
    body: list[list[Content]] = [
        [
            _target(row["target"], colour),
            markup.hinted(row["kind"], f"for instance: {row['example']}"),
            figures.count(row["calls"]),
            figures.share(row["calls"], decided),
        ]
        for row in rows.to_dict("records")
    ]
    return markup.table(columns, body, "rejections")


def ends(rows: pd.DataFrame, colour: Mapping[str, str]) -> Html:
    """`rows` has target, kind, is_further, attempts."""
    table = rows.pivot_table(index="target", columns="kind", values="attempts", aggfunc="sum", fill_value=0)
    further = rows[rows["is_further"].astype(bool)].groupby("target")["attempts"].sum()
    kinds = ["ok", *RESULT_HUES]
    columns = [
        Column("Target"),
        Column("Attempts", True),
        Column("of them further", True, "retries, fallbacks and hedges: not the first of their call"),
        *(Column(kind, True) for kind in kinds),
    ]
    body: list[list[Content]] = [
        [
            _target(str(target), colour),
            figures.count(counts.sum()),
            figures.count(further.get(target, 0)),
            *(figures.count(counts.get(kind, 0)) for kind in kinds),
        ]
        for target, counts in table.iterrows()
    ]
    return markup.table(columns, body, "ends")


def _target(name: str, colour: Mapping[str, str]) -> Content:
    return markup.chip(name, colour[name]) if name in colour else markup.muted(name)
