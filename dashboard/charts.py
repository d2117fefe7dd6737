"""Plotly figures from DataFrames: calls, latencies, timeout rate, and the attempts of one exchange.

In: frames of `queries`, already cut to the span, with times in the reader's zone. Out: figures with a unit on
every axis. Font, background and grid come from Streamlit's theme, so the figures follow light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboard.palette import BAD, NOBODY
from dashboard.quantiles import FEW_SAMPLES

TTFT_LINE_S = 1.5  # what a chat should stay under, p95
TIMEOUT_LINE = 0.005  # what a production endpoint should stay under
_HEIGHT_PX = 250
_CLEAR = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}  # the panel shows through


@dataclass(frozen=True, slots=True)
class Axis:
    """The common time axis: every bucket of the span, whether or not a call fell into it."""

    buckets: pd.DatetimeIndex  # in the reader's zone, without zone
    bucket_label: str
    zone: str
    end: datetime


def calls(traffic: pd.DataFrame, axis: Axis, colour: Mapping[str, str]) -> go.Figure:
    """Stacked columns, one colour a target. `traffic` has at, target, calls."""
    return by_target(traffic, "calls", axis, colour, f"calls per {axis.bucket_label}", "%{y:,} calls")


def by_target(
    rows: pd.DataFrame, what: str, axis: Axis, colour: Mapping[str, str], title: str, hover: str
) -> go.Figure:
    """Stacked columns of the sums of column `what`, one colour a target. `rows` has at and target beside it."""
    figure = over_time(axis, title)
    sums = rows.groupby(["target", "at"])[what].sum()
    for target in _targets(rows):
        figure.add_bar(
            x=axis.buckets,
            y=sums[target].reindex(axis.buckets, fill_value=0),
            name=target,
            marker={"color": colour[target], "line": {"width": 0}},
            hovertemplate=hover,
        )
    figure.update_layout(barmode="stack", bargap=0.15)
    return figure


def ttft(series: pd.DataFrame, axis: Axis, colour: dict[str, str]) -> go.Figure:
    """p95 solid, p50 dotted and p99 pale, a target, with the 1.5 s line. `series` is indexed by (target, at): n
    and the quantiles.
    """
    figure = _latency(series, axis, colour, "time to first token (s)")
    _limit(figure, TTFT_LINE_S, "1.5 s", series["p99"].max())
    return figure


def completion(series: pd.DataFrame, axis: Axis, colour: dict[str, str]) -> go.Figure:
    """The same of the whole call, without a line."""
    figure = _latency(series, axis, colour, "whole call (s)")
    figure.update_yaxes(rangemode="tozero")
    return figure


def timeout_rate(
    traffic: pd.DataFrame, attempts: pd.DataFrame, axis: Axis, colour: dict[str, str]
) -> go.Figure:
    """Share of attempts that missed a deadline, a target, that of whole calls in grey, and the 0.5 % line.

    A call that a fallback rescued counts against the target that was late. Frames have at, timeouts, and calls
    or attempts, and `attempts` has target.
    """
    figure = over_time(axis, "timed out (%)")
    everyone = traffic.groupby("at")[["calls", "timeouts"]].sum().rename(columns={"calls": "attempts"})
    groups = {"all calls": everyone}
    groups |= {str(name): rows.set_index("at") for name, rows in attempts.groupby("target")}
    highest = 0.0
    for name, rows in groups.items():
        sums = rows.reindex(axis.buckets)
        rates = 100 * sums["timeouts"] / sums["attempts"]
        highest = max(highest, rates.max())
        what = "calls" if name == "all calls" else "attempts"
        figure.add_scatter(
            x=axis.buckets,
            y=rates,
            customdata=sums["attempts"],
            hovertemplate=f"%{{y:.2f}} % of %{{customdata:,}} {what}",
            **_line(name, colour.get(name, NOBODY), "solid", sums["attempts"]),
        )
    _limit(figure, 100 * TIMEOUT_LINE, "0.5 %", highest)
    return figure


def attempt_timeline(attempts: pd.DataFrame, started_at: datetime, colour: dict[str, str]) -> go.Figure:
    """One bar an attempt: pale while waiting for the first token, full while answering."""
    figure = go.Figure()
    labels = [f"{row.ordinal + 1}. {row.target}" for row in attempts.itertuples()]
    begun = (attempts["started_at"] - pd.Timestamp(started_at)).dt.total_seconds().clip(lower=0)
    waited = attempts["ttft_s"].astype(float).fillna(attempts["total_s"])
    hues = [colour[target] for target in attempts["target"]]
    for name, base, width, opacity in (
        ("before the first token", begun, waited, 0.4),
        ("answering", begun + waited, attempts["total_s"] - waited, 1.0),
    ):
        figure.add_bar(
            y=labels,
            x=width,
            base=base,
            orientation="h",
            name=name,
            marker={"color": hues, "opacity": opacity},
            hovertemplate=f"%{{x:.3f}} s {name}",
        )
    figure.update_layout(barmode="overlay", height=70 + 34 * len(labels), showlegend=False)
    figure.update_layout(margin={"l": 8, "r": 12, "t": 8, "b": 8}, **_CLEAR)
    figure.update_xaxes(title="seconds since the call arrived (s)", rangemode="tozero", automargin=True)
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def blank() -> go.Figure:
    """The common look, without axes."""
    figure = go.Figure()
    figure.update_layout(
        height=_HEIGHT_PX,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        showlegend=False,  # legends stand above the charts, as HTML
        hovermode="x unified",
        uirevision="kept",  # a refresh keeps the reader's zoom
        **_CLEAR,
    )
    return figure


def log_scale(lowest: float, highest: float) -> dict[str, Any]:
    """What makes an axis logarithmic from the one value to the other, every tick written out."""
    decades = range(math.floor(math.log10(lowest)), math.ceil(math.log10(highest)) + 1)
    ticks = [digit * 10.0**power for power in decades for digit in (1, 2, 5)]
    if highest > 1000 * lowest:
        ticks = ticks[::3]
    return {
        "type": "log",
        "rangemode": "normal",
        "range": [math.log10(lowest), math.log10(highest)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" for tick in ticks],
    }


def over_time(axis: Axis, unit: str) -> go.Figure:
    """The common look and time axis; `unit` is the title of the other."""
    figure = blank()
    figure.update_xaxes(
        title={"text": f"time ({axis.zone})", "standoff": 6},
        range=[axis.buckets[0], max(axis.end, axis.buckets[-1].to_pydatetime())],
        automargin=True,
        showgrid=False,
    )
    figure.update_yaxes(title={"text": unit, "standoff": 8}, automargin=True, rangemode="tozero", nticks=6)
    return figure


def _latency(series: pd.DataFrame, axis: Axis, colour: dict[str, str], unit: str) -> go.Figure:
    figure = over_time(axis, unit)
    for target in series.index.get_level_values("target").unique():
        rows = series.loc[target].reindex(axis.buckets)
        for quantile, dash in (("p50", "dot"), ("p95", "solid"), ("p99", "dash")):
            figure.add_scatter(
                x=axis.buckets,
                y=rows[quantile],
                customdata=rows["n"],
                hovertemplate=f"{quantile} %{{y:.3f}} s of %{{customdata:,}} calls",
                opacity=0.45 if quantile == "p99" else 1.0,
                **_line(target, colour[target], dash, rows["n"]),
            )
    return figure


def _line(target: str, colour: str, dash: str, samples: pd.Series) -> dict[str, Any]:
    """A line broken where there were no calls; a hollow point rests on few samples."""
    few = samples.fillna(0) < FEW_SAMPLES
    return {
        "name": target,
        "mode": "lines+markers",
        "line": {"color": colour, "width": 2 if dash == "solid" else 1.5, "dash": dash},
        "marker": {
            "size": 5 if dash == "solid" else 3,
            "symbol": ["circle-open" if it else "circle" for it in few],
        },
        "connectgaps": False,
    }


def _limit(figure: go.Figure, value: float, label: str, highest: float) -> None:
    """Draw the line, and keep it in view however low the curves are; its label stands beside the plot."""
    figure.add_hline(y=value, line={"color": BAD, "width": 1.5, "dash": "dash"})
    figure.add_annotation(
        x=1,
        xref="paper",
        xanchor="left",
        y=value,
        text=f" {label}",
        showarrow=False,
        font={"color": BAD, "size": 12},
    )
    top = max(value, 0 if pd.isna(highest) else highest)
    figure.update_layout(margin={"r": 44})
    figure.update_yaxes(range=[0, 1.18 * top])


def _targets(traffic: pd.DataFrame) -> list[str]:
    return sorted(traffic["target"].unique())
