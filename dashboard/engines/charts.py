"""The engine page's figures. In: frames of `queries` and `yields`, times in the reader's zone. Out: figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go

from dashboard.charts import Axis, blank, over_time
from dashboard.latency.charts import HUES
from dashboard.palette import NOBODY

FIRST, SECOND = "#3584d6", "#e08e0b"
PHASES = {"draft": "#8a74d1", "verify": "#3584d6", "sample": "#00a37a", "overhead": NOBODY}


def lines(rows: pd.DataFrame, axis: Axis, unit: str, hues: Mapping[str, str], form: str = ".2f") -> go.Figure:
    """A line for each column that `hues` names. `rows` is indexed by at."""
    figure = over_time(axis, unit)
    shown = rows.reindex(axis.buckets)
    for name, hue in hues.items():
        if name in shown:
            figure.add_scatter(
                x=axis.buckets,
                y=shown[name],
                name=name,
                mode="lines+markers",
                line={"color": hue, "width": 2},
                marker={"size": 4},
                hovertemplate=f"{name} %{{y:{form}}}",
                connectgaps=False,
            )
    return figure


def steps(rows: pd.DataFrame, axis: Axis) -> go.Figure:
    """Stacked columns: the milliseconds of a step by phase. `rows` is indexed by at, in seconds."""
    figure = over_time(axis, "a step (ms)")
    shown = rows.reindex(axis.buckets)
    for phase, hue in PHASES.items():
        if phase in shown:
            figure.add_bar(
                x=axis.buckets,
                y=1000 * shown[phase],
                name=phase,
                marker={"color": hue, "line": {"width": 0}},
                hovertemplate="%{y:.2f} ms",
            )
    figure.update_layout(barmode="stack", bargap=0.15)
    return figure


def tails(bands: pd.DataFrame, order: Sequence[str]) -> go.Figure:
    """Grouped columns: TTFT by how many sequences ran. `bands` as `yields.concurrency` makes it."""
    figure = blank()
    rows = bands.set_index("band").reindex([band for band in order if band in {*bands["band"]}])
    for name, hue in HUES.items():
        figure.add_bar(
            x=rows.index,
            y=rows[f"ttft_{name}_s"],
            name=name,
            marker={"color": hue, "line": {"width": 0}},
            customdata=rows["ttft_n"],
            hovertemplate="%{y:.3f} s of %{customdata:,} samples",
        )
    figure.update_layout(barmode="group", bargap=0.3)
    figure.update_xaxes(title="sequences running (mean of the minute)", type="category", automargin=True)
    figure.update_yaxes(title="TTFT (s)", automargin=True, rangemode="tozero", nticks=6)
    return figure
