"""The latency page's tables: quantiles of every metric, by whatever groups there are.

In: frames of `cuts.table`. Out: HTML. A quantile that rests on too few samples is marked with a star.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from dashboard import figures, markup
from dashboard.latency.cuts import METRICS, NAMES, column
from dashboard.latency.measured import SIZES
from dashboard.markup import Column, Content, Html
from dashboard.quantiles import FEW_FOR_P99, FEW_SAMPLES, NEEDED

FEW_NOTE = f"* fewer than {FEW_SAMPLES} samples for a p95, {FEW_FOR_P99} for a p99: a hint, no percentile"
_GROUPS = {"target": "Target", "shape": "Shape", "size": "Input tokens"}


def quantiles(rows: pd.DataFrame, by: list[str], colour: Mapping[str, str], key: str) -> Html:
    columns = [Column(_GROUPS[name]) for name in by]
    for label in METRICS.values():
        columns += [Column(f"{label} {name}", True) for name in NAMES]
        columns.append(Column(f"{label} n", True, f"samples of {label}"))
    return markup.table(columns, [_cells(row, by, colour) for row in rows.to_dict("records")], key)


def _cells(row: Mapping[str, Any], by: list[str], colour: Mapping[str, str]) -> list[Content]:
    cells: list[Content] = [_group(name, row[name], colour) for name in by]
    for metric in METRICS:
        n = int(row[column(metric, "n")])
        cells += [quantile(row[column(metric, name)], n, name) for name in NAMES]
        cells.append(figures.count(n))
    return cells


def _group(name: str, value: Any, colour: Mapping[str, str]) -> Content:
    if name == "target":
        return markup.chip(value, colour[value])
    return SIZES[value] if name == "size" else str(value)


def quantile(seconds: float | None, n: int, name: str) -> Content:
    """Starred where the quantile of that name rests on too few of `n` samples."""
    words = figures.seconds(seconds)
    return Html(f'<span class="sg-few">{markup.safe(words)}*</span>') if 0 < n < NEEDED[name] else words
