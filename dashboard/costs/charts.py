"""Figures of tasks and cost. In: frames of `queries`, times in the reader's zone. Out: figures in dollars."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from dashboard import charts
from dashboard.charts import Axis, blank


def by_target(spending: pd.DataFrame, axis: Axis, colour: Mapping[str, str]) -> go.Figure:
    """Stacked columns, one colour a target. `spending` has at, target, cost_usd."""
    title = f"cost (USD per {axis.bucket_label})"
    return charts.by_target(spending, "cost_usd", axis, colour, title, "$%{y:.6f}")


def by_workflow(by_end: pd.DataFrame, colour: Mapping[str, str]) -> go.Figure:
    """One bar a workflow and way its tasks ended, cut by target."""
    figure = blank()
    rows = by_end.assign(label=by_end["workflow"] + ", " + by_end["task_status"])
    table = rows.pivot_table(index="label", columns="target", values="cost_usd", aggfunc="sum", fill_value=0)
    table = table.loc[table.sum(axis=1).sort_values().index]
    for target in table.columns:
        figure.add_bar(
            y=table.index,
            x=table[target],
            orientation="h",
            name=target,
            marker={"color": colour[target], "line": {"width": 0}},
            hovertemplate="$%{x:.6f}",
        )
    figure.update_layout(barmode="stack", bargap=0.35, height=110 + 32 * len(table), hovermode="y unified")
    figure.update_xaxes(title="cost (USD)", automargin=True)
    figure.update_yaxes(title="workflow, outcome", automargin=True, showgrid=False)
    return figure
