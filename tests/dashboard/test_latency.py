from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine

from dashboard import queries as ledger_queries
from dashboard import rows as single
from dashboard.charts import Axis, log_scale
from dashboard.latency import charts, cuts, measured, queries, tables
from gateway.ledger.records import Exchange
from tests.dashboard import traffic

LIMITS = (256, 1024, 4096, 16_384)


def quantile(values: list[float], percent: int) -> float:
    return float(np.percentile(values, percent, method="inverted_cdf"))


def test_every_target_and_shape_has_numpys_quantiles(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    table = cuts.table(ledger_queries.latency_buckets(reader, start), ["target", "shape"]).set_index(
        ["target", "shape"]
    )
    groups: dict[tuple[str, str], list[float]] = {}
    for made in written:
        if made.ttft_s is not None:
            groups.setdefault((made.attempts[-1].target, str(made.shape)), []).append(made.ttft_s)
    assert set(table.index) == set(groups)
    for key, ttfts in groups.items():
        assert table.loc[key, "ttft_n"] == len(ttfts)
        for percent in (50, 95, 99):
            assert table.loc[key, f"ttft_p{percent}_s"] == pytest.approx(quantile(ttfts, percent), rel=0.01)


def test_input_sizes_are_told_apart_and_agree_with_the_histograms(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    sample = single.sample(reader, start, datetime.now(UTC), None)
    buckets = measured.by_input_size(sample.calls)
    table = cuts.table(buckets, ["size"]).set_index("size")
    sizes: dict[int, list[float]] = {}
    for made in written:
        usage = made.attempts[-1].usage
        if made.ttft_s is not None and usage is not None:
            sizes.setdefault(sum(usage.input_tokens > limit for limit in LIMITS), []).append(made.ttft_s)
    assert table[table["ttft_n"] > 0]["ttft_n"].to_dict() == {size: len(each) for size, each in sizes.items()}
    for size, ttfts in sizes.items():
        assert table.loc[size, "ttft_p95_s"] == pytest.approx(quantile(ttfts, 95), rel=0.01)
    whole = ledger_queries.latency_buckets(reader, start).groupby(["metric", "k"])["n"].sum()
    sized = buckets.groupby(["metric", "k"])["n"].sum()
    for metric in ("ttft_s", "tpot_s", "total_s"):
        assert sized[metric].to_dict() == whole[metric].to_dict()


def test_the_heat_of_a_time_holds_all_its_samples(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    rows = queries.over_time(reader, start, 60, "ttft_s")
    edges, counts = cuts.heat(rows, pd.DatetimeIndex(sorted(rows["at"].unique())))
    assert len(edges) == len(counts) + 1
    assert counts.sum().to_dict() == rows.groupby("at")["n"].sum().to_dict()
    ttfts = [made.ttft_s for made in written if made.ttft_s is not None]
    placed = np.histogram(ttfts, edges)[0]
    assert abs(counts.sum(axis=1).to_numpy() - placed).sum() <= 0.02 * len(ttfts)  # values on an edge


def test_a_distribution_adds_up_to_a_hundred_percent_a_target(
    reader: Engine, start: datetime, written: list[Exchange]
) -> None:
    rows = ledger_queries.latency_buckets(reader, start)
    shares = cuts.distribution(rows[rows["metric"] == "total_s"])
    assert shares.groupby("target")["percent"].sum().tolist() == pytest.approx([100] * len(traffic.MODELS))


def test_a_metric_without_samples_has_no_quantiles() -> None:
    rows = pd.DataFrame([("a", "total_s", 3, 5)], columns=["target", "metric", "k", "n"])
    row = cuts.table(rows, ["target"]).iloc[0]
    assert (row["ttft_n"], row["total_n"]) == (0, 5)
    assert pd.isna(row["ttft_p95_s"])
    html = tables.quantiles(cuts.table(rows, ["target"]), ["target"], {"a": "#111"}, "t").text
    assert html.count("*</span>") == 2  # p95 and p99 of five samples


def test_hollow_points_differ_by_what_a_quantile_needs() -> None:
    times = pd.date_range("2026-11-22 10:00", periods=2, freq="1min")
    axis = Axis(times, "minute", "UTC", datetime(2026, 11, 22, 10, 1))
    series = pd.DataFrame({"n": [50, 500], "p50": [1, 1], "p95": [2, 2], "p99": [3, 3]}, index=times)
    figure = charts.quantiles(series, axis, "TTFT")
    symbols = {trace.name: list(trace.marker.symbol) for trace in figure.data}
    assert symbols["p95"] == ["circle", "circle"]
    assert symbols["p99"] == ["circle-open", "circle"]


def test_a_log_axis_writes_out_its_ticks() -> None:
    axis = log_scale(0.04, 6.0)
    assert {"0.05", "0.1", "1", "5"} <= set(axis["ticktext"])
    assert len(log_scale(0.001, 1000.0)["tickvals"]) < 10
