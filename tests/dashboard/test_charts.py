from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import plotly.graph_objects as go
import pytest

from dashboard import charts
from dashboard.palette import colours
from dashboard.spans import SPANS, Span

BUCKETS = pd.date_range("2026-11-22 10:00", periods=3, freq="1min")
AXIS = charts.Axis(BUCKETS, "minute", "UTC", datetime(2026, 11, 22, 10, 2, 30))
COLOUR = {"a": "#111111", "b": "#222222"}


def series(n: int = 50) -> pd.DataFrame:
    rows = [
        ("a", BUCKETS[0], n, 0.2, 0.4, 0.8),
        ("a", BUCKETS[2], n, 0.3, 0.5, 0.9),
        ("b", BUCKETS[1], n, 0.1, 0.2, 0.3),
    ]
    return pd.DataFrame(rows, columns=["target", "at", "n", "p50", "p95", "p99"]).set_index(["target", "at"])


def traffic() -> pd.DataFrame:
    rows = [(BUCKETS[0], "a", 10, 1), (BUCKETS[2], "a", 30, 0), (BUCKETS[1], "b", 5, 0)]
    return pd.DataFrame(rows, columns=["at", "target", "calls", "timeouts"])


def attempts() -> pd.DataFrame:
    return traffic().rename(columns={"calls": "attempts"})


def test_the_ttft_chart_draws_its_line_and_keeps_it_in_view() -> None:
    figure = charts.ttft(series(), AXIS, COLOUR)
    assert [shape.y0 for shape in figure.layout.shapes] == [1.5]
    assert figure.layout.yaxis.range[1] > 1.5
    assert figure.layout.annotations[0].text.strip() == "1.5 s"


def test_the_timeout_chart_draws_its_line_in_percent() -> None:
    figure = charts.timeout_rate(traffic(), attempts(), AXIS, COLOUR)
    assert [shape.y0 for shape in figure.layout.shapes] == [0.5]
    rates = {trace.name: [None if y != y else y for y in trace.y] for trace in figure.data}
    assert rates == {"all calls": [10, 0, 0], "a": [10, None, 0], "b": [None, 0, None]}


def test_a_line_breaks_where_there_were_no_calls() -> None:
    figure = charts.completion(series(), AXIS, COLOUR)
    assert [pd.isna(y) for y in figure.data[0].y] == [False, True, False]
    assert not figure.data[0].connectgaps


def test_points_of_few_samples_are_hollow() -> None:
    assert set(charts.completion(series(19), AXIS, COLOUR).data[0].marker.symbol) == {"circle-open"}
    assert charts.completion(series(20), AXIS, COLOUR).data[0].marker.symbol[0] == "circle"


@pytest.mark.parametrize(
    "figure",
    [
        charts.calls(traffic(), AXIS, COLOUR),
        charts.ttft(series(), AXIS, COLOUR),
        charts.completion(series(), AXIS, COLOUR),
        charts.timeout_rate(traffic(), attempts(), AXIS, COLOUR),
    ],
)
def test_every_axis_has_a_unit_and_every_target_its_colour(figure: go.Figure) -> None:
    assert figure.layout.xaxis.title.text == "time (UTC)"
    assert any(unit in figure.layout.yaxis.title.text for unit in ("calls per minute", "(s)", "(%)"))
    for trace in figure.data:
        if trace.name in COLOUR:
            hue = trace.marker.color if trace.type == "bar" else trace.line.color
            assert hue == COLOUR[trace.name]


def test_a_target_keeps_its_colour_whatever_traffic_there_is() -> None:
    configured = ["engine", "flash", "claude"]
    quiet, busy = colours(configured, []), colours(configured, ["claude", "gone", "(not routed)", "flash"])
    assert quiet.items() <= busy.items()
    assert len({busy[name] for name in [*configured, "gone", "(not routed)"]}) == 5


@pytest.mark.parametrize("span", SPANS.values(), ids=list(SPANS))
def test_a_span_starts_on_a_buckets_edge_and_covers_its_length(span: Span) -> None:
    now = datetime(2026, 11, 22, 10, 31, 7, tzinfo=UTC)
    start = span.start(now)
    assert start.timestamp() % span.bucket_s == 0
    assert timedelta(0) <= now - timedelta(seconds=span.length_s) - start < timedelta(seconds=span.bucket_s)
