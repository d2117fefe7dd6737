"""The latency page's figures: quantiles over time, where calls fell over time, distributions by target.

In: frames of `cuts`, times in the reader's zone. Out: figures with a unit on every axis.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from dashboard.charts import Axis, blank, log_scale, over_time
from dashboard.quantiles import NEEDED

HUES = {"p50": "#00a37a", "p95": "#3584d6", "p99": "#c76aa0"}
_HEAT = [[0, "rgba(53,132,214,0)"], [0.05, "rgba(53,132,214,0.25)"], [1, "#d5541c"]]


def quantiles(series: pd.DataFrame, axis: Axis, label: str) -> go.Figure:
    """`series` is indexed by at: n, p50, p95, p99. A hollow point rests on too few samples."""
    figure = over_time(axis, f"{label} (s)")
    rows = series.reindex(axis.buckets)
    for name, hue in HUES.items():
        few = rows["n"].fillna(0) < NEEDED[name]
        figure.add_scatter(
            x=axis.buckets,
            y=rows[name],
            name=name,
            mode="lines+markers",
            line={"color": hue, "width": 2},
            marker={"size": 5, "symbol": ["circle-open" if it else "circle" for it in few]},
            customdata=rows["n"],
            hovertemplate=f"{name} %{{y:.3f}} s of %{{customdata:,}} samples",
            connectgaps=False,
        )
    return figure


def heat(edges_s: list[float], counts: pd.DataFrame, axis: Axis, label: str) -> go.Figure:
    """Each column is the calls of one time, coloured by their share of that time's calls."""
    figure = over_time(axis, f"{label} (s), log scale")
    shares = 100 * counts / counts.sum().replace(0, float("nan"))
    figure.add_heatmap(
        x=axis.buckets,
        y=edges_s,
        z=shares.to_numpy(),
        customdata=counts.to_numpy(),
        colorscale=_HEAT,
        zmin=0,
        hoverongaps=False,
        hovertemplate="%{customdata:,} samples, %{z:.1f} % of this time's<extra></extra>",
        colorbar={"title": {"text": "share (%)", "side": "right"}, "thickness": 10},
    )
    figure.update_layout(hovermode="closest")
    figure.update_yaxes(**log_scale(edges_s[0], edges_s[-1]))
    return figure


def distribution(shares: pd.DataFrame, colour: Mapping[str, str], label: str) -> go.Figure:
    """One line a target, areas alike whatever their traffic."""
    figure = blank()
    for target, rows in shares.groupby("target"):
        figure.add_scatter(
            x=rows["seconds"],
            y=rows["percent"],
            name=str(target),
            mode="lines+markers",
            line={"color": colour[str(target)], "width": 2, "shape": "hvh"},
            marker={"size": 4},
            customdata=rows["n"],
            hovertemplate="%{x:.3f} s: %{y:.1f} %, %{customdata:,} samples",
        )
    figure.update_xaxes(title=f"{label} (s), log scale", automargin=True)
    figure.update_xaxes(**log_scale(shares["seconds"].min() / 1.2, shares["seconds"].max() * 1.2))
    figure.update_yaxes(title="share of samples (%)", rangemode="tozero", automargin=True, nticks=6)
    return figure
