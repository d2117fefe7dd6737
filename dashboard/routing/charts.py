"""The routing page's figures. In: frames of `queries`, times in the reader's zone. Out: figures with units."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from dashboard.charts import Axis, blank, over_time
from dashboard.palette import NOBODY

RESULT_HUES = {
    "timeout": "#d5541c",
    "error": "#d93a3a",
    "cut off": "#c76aa0",
    "busy": "#e08e0b",
    "hedge lost": "#3584d6",
    "client gone": NOBODY,
}
_KINDS = {"client_gone": "client gone", "hedge_lost": "hedge lost", "cut_off": "cut off", "busy": "busy"}


def result_kind(result: str) -> str:
    """The few words that a chart can hold apart; 'ok' stays."""
    if result == "ok" or result in _KINDS:
        return _KINDS.get(result, result)
    return "timeout" if result.startswith("timeout_") else "error"


def shares(traffic: pd.DataFrame, colour: Mapping[str, str]) -> go.Figure:
    """One bar a shape, cut by target. `traffic` has shape, target, calls."""
    figure = blank()
    table = traffic.pivot_table(index="shape", columns="target", values="calls", aggfunc="sum", fill_value=0)
    sums = table.sum(axis=1)
    table = table.loc[sums.sort_values().index]
    for target in table.columns:
        figure.add_bar(
            y=table.index,
            x=100 * table[target] / sums[table.index],
            customdata=table[target],
            orientation="h",
            name=target,
            marker={"color": colour[target], "line": {"width": 0}},
            hovertemplate="%{customdata:,} calls, %{x:.1f} %",
        )
    figure.update_layout(barmode="stack", bargap=0.35, height=110 + 32 * len(table), hovermode="y unified")
    figure.update_xaxes(title="share of the shape's calls (%)", range=[0, 100], automargin=True)
    figure.update_yaxes(title="task shape", automargin=True, showgrid=False)
    return figure


def passed_over(
    resting: pd.DataFrame,
    decisions: pd.DataFrame,
    policies: pd.DataFrame,
    axis: Axis,
    colour: Mapping[str, str],
) -> go.Figure:
    """Share of decisions that passed a target over as it rested; a dotted line where a policy came into force.

    `resting` has at, target, calls; `decisions` at, calls; `policies` at, hash.
    """
    figure = over_time(axis, "passed over (% of decisions)")
    made = decisions.set_index("at")["calls"].reindex(axis.buckets)
    for target, rows in resting.groupby("target"):
        calls = rows.groupby("at")["calls"].sum().reindex(axis.buckets, fill_value=0)
        figure.add_scatter(
            x=axis.buckets,
            y=100 * calls / made,
            name=str(target),
            mode="lines+markers",
            line={"color": colour[str(target)], "width": 2, "shape": "hv"},
            marker={"size": 4},
            customdata=calls,
            hovertemplate="%{y:.1f} %, %{customdata:,} calls",
        )
    for at, version in zip(policies["at"], policies["hash"], strict=True):
        figure.add_vline(x=at, line={"color": NOBODY, "width": 1.5, "dash": "dot"})
        figure.add_annotation(
            x=at,
            yref="paper",
            y=1,
            yanchor="bottom",
            text=f"policy {version[:7]}",
            showarrow=False,
            font={"size": 11},
        )
    figure.update_layout(margin={"t": 22})
    figure.update_yaxes(range=[0, 105])
    return figure


def failures(ends: pd.DataFrame, axis: Axis) -> go.Figure:
    """Stacked columns of the attempts that did not answer, by how they ended. `ends` has at, kind, attempts."""
    figure = over_time(axis, f"attempts per {axis.bucket_label}")
    counts = ends.groupby(["kind", "at"])["attempts"].sum()
    for kind, hue in RESULT_HUES.items():
        if kind in counts.index.get_level_values("kind"):
            figure.add_bar(
                x=axis.buckets,
                y=counts[kind].reindex(axis.buckets, fill_value=0),
                name=kind,
                marker={"color": hue, "line": {"width": 0}},
                hovertemplate="%{y:,}",
            )
    figure.update_layout(barmode="stack", bargap=0.15)
    return figure
