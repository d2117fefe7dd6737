"""The benchmarks page's figure. In: rows of `readings`, times in the reader's zone. Out: a figure with units."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from dashboard.charts import blank
from dashboard.palette import BAD


def over_time(rows: pd.DataFrame, colour: Mapping[str, str], zone: str) -> go.Figure:
    """One figure of several series; a red cross is a regression. `rows` has at beside the columns of readings."""
    figure = blank()
    for series, mine in rows.groupby("series"):
        figure.add_scatter(
            x=mine["at"],
            y=mine["value"],
            name=str(series),
            mode="lines+markers",
            line={"color": colour[str(series)], "width": 2},
            marker={"size": 5},
            hovertemplate="%{y:.4g}",
        )
    worse = rows[rows["regression"].astype(bool)]
    figure.add_scatter(
        x=worse["at"],
        y=worse["value"],
        name="regression",
        mode="markers",
        marker={"symbol": "x", "size": 11, "color": BAD},
        customdata=100 * worse["change"].astype(float),
        hovertemplate="%{customdata:+.1f} % against the runs before",
    )
    figure.update_layout(height=330)
    figure.update_xaxes(title=f"run began ({zone})", automargin=True, showgrid=False)
    label, unit = rows["figure"].iloc[0], rows["unit"].iloc[0]
    figure.update_yaxes(title=f"{label} ({unit})", automargin=True, rangemode="tozero", nticks=6)
    return figure
