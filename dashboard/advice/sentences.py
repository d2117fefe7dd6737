"""Advice in sentences. Pure: frames of `queries` in, HTML sentences out."""

from __future__ import annotations

import pandas as pd

from dashboard import figures, markup
from dashboard.advice.queries import LONG_TOKENS
from dashboard.markup import Html
from dashboard.quantiles import FEW_SAMPLES, quantiles

_SHOWN = 3


def slowest(endpoints: pd.DataFrame) -> list[Html]:
    """The three endpoints with the highest p95 of completion, of at least 20 samples."""
    ended = endpoints.dropna(subset=["k"]).astype({"k": int, "n": int}).assign(metric="total_s")
    table = quantiles(ended, "total_s", ["endpoint", "target"])
    table = table[table["n"] >= FEW_SAMPLES].sort_values("p95", ascending=False).head(_SHOWN)
    return [
        _sentence("Slowest", f"{endpoint} at {target}", f"completion p95 {figures.seconds(row['p95'])}")
        for (endpoint, target), row in table.iterrows()
    ]


def costliest(endpoints: pd.DataFrame) -> list[Html]:
    """The three endpoints on which most money was spent, of the calls whose cost is known."""
    costs = endpoints.groupby(["endpoint", "target"])["cost_usd"].sum().sort_values(ascending=False)
    whole = costs.sum()
    return [
        _sentence("Costliest", f"{endpoint} at {target}", f"{figures.share(cost, whole)} of the cost")
        for (endpoint, target), cost in costs[costs > 0].head(_SHOWN).items()
    ]


def unstreamed(rows: pd.DataFrame) -> list[Html]:
    return [
        _sentence(
            "Stream",
            f"{row['caller']} on {row['endpoint']}",
            f"{row['calls']:,} unstreamed calls of more than {LONG_TOKENS} output tokens, "
            f"which waited {figures.seconds(row['waited_s'])} (p50) for their first one",
        )
        for row in rows.to_dict("records")
    ]


def without_fallback(rows: pd.DataFrame) -> list[Html]:
    return [
        _sentence(
            "Fallback",
            str(row["shape"]),
            f"only {row['target']} can serve it now; name a fallback in the policy"
            if row["target"]
            else "no target can serve it now",
        )
        for row in rows.to_dict("records")
    ]


def _sentence(kind: str, what: str, words: str) -> Html:
    return markup.join([markup.pill(kind), " ", Html(f"<b>{markup.safe(what)}</b>"), f": {words}."])
