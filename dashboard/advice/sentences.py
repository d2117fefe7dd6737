"""Advice in sentences. Pure: frames of `queries` and `rows` in, HTML sentences out."""

from __future__ import annotations

import pandas as pd

from dashboard import figures, markup
from dashboard.advice.queries import LONG_TOKENS
from dashboard.latency.measured import buckets
from dashboard.markup import Html
from dashboard.quantiles import FEW_SAMPLES, quantiles

_SHOWN = 3
_PINNED = "the model name pins"  # how the reason of such a decision begins


def slowest(calls: pd.DataFrame) -> list[Html]:
    """The three endpoints with the highest p95 of completion, of at least 20 samples."""
    by = ["endpoint", "target"]
    table = quantiles(buckets(calls.dropna(subset=["target"]), by), "total_s", by)
    table = table[table["n"] >= FEW_SAMPLES].sort_values("p95", ascending=False).head(_SHOWN)
    return [
        _sentence("Slowest", f"{endpoint} at {target}", f"completion p95 {figures.seconds(row['p95'])}")
        for (endpoint, target), row in table.iterrows()
    ]


def costliest(spent: pd.DataFrame) -> list[Html]:
    """The three endpoints on which most money was spent. `spent` has endpoint, target, cost_usd."""
    costs = spent.set_index(["endpoint", "target"])["cost_usd"].sort_values(ascending=False)
    whole = costs.sum()
    return [
        _sentence("Costliest", f"{endpoint} at {target}", f"{figures.share(cost, whole)} of the cost")
        for (endpoint, target), cost in costs[costs > 0].head(_SHOWN).items()
    ]


def unstreamed(rows: pd.DataFrame) -> list[Html]:
    return [
        _sentence(
            "Stream",
            f"{row['workflow'] or 'calls without a workflow'} on {row['endpoint']}",
            f"{row['calls']:,} unstreamed calls of more than {LONG_TOKENS} output tokens, "
            f"which waited {figures.seconds(row['waited_s'])} (mean) for their first one",
        )
        for row in rows.to_dict("records")
    ]


def without_fallback(choices: pd.DataFrame, shape: str | None) -> list[Html]:
    """Shapes whose newest decision had no second target to try. `choices`: newest first; shape, reason, candidates."""
    free = choices[~choices["reason"].fillna("").str.startswith(_PINNED)]
    newest = free.drop_duplicates("shape").set_index("shape")["candidates"]
    return [
        _sentence(
            "Fallback",
            str(name),
            f"only {tried[0]['target']} can serve it now; name a fallback in the policy"
            if tried
            else "no target can serve it now",
        )
        for name, tried in newest.sort_index().items()
        if isinstance(tried, list) and len(tried) < 2 and shape in (None, name)
    ]


def _sentence(kind: str, what: str, words: str) -> Html:
    return markup.join([markup.pill(kind), " ", Html(f"<b>{markup.safe(what)}</b>"), f": {words}."])
