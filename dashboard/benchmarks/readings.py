"""Figures of benchmark runs as series over time, and which of them are regressions.

Runs are compared where they measured the same thing in the same way on the same processor: how often it was
measured, and what else was measured beside it, makes no difference. A *regression* is a figure more than 10 %
worse than the median of the up to five comparable runs before it, of which there must be two. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

LIMIT = 0.10
_BEFORE, _LEAST_BEFORE = 5, 2
_NO_DIFFERENCE = {
    "runs",
    "rounds",
    "seconds",
    "contestants",
    "kinds",
    "streams",
    "models",
    "interrupted",
    "url",
}


@dataclass(frozen=True, slots=True)
class Figure:
    """`path` leads to its number in an entry of a run's figures."""

    label: str
    path: tuple[str, ...]
    unit: str
    higher_is_better: bool = False


FIGURES: dict[str, tuple[Figure, ...]] = {
    "models": (
        Figure("TTFT p50", ("ttft_s", "p50"), "s"),
        Figure("TTFT p95", ("ttft_s", "p95"), "s"),
        Figure("Completion p95", ("total_s", "p95"), "s"),
        Figure("Speed p50", ("tokens_per_s", "p50"), "tokens/s", True),
        Figure("Error rate", ("error_rate",), "share"),
    ),
    "engine": (
        Figure("Decode", ("decode_tokens_per_s",), "tokens/s", True),
        Figure("TTFT p50", ("ttft_p50_s",), "s"),
        Figure("Accepted length", ("accepted_length",), "tokens a round", True),
    ),
    "gateway": (
        Figure("Calls", ("calls_per_s",), "calls/s", True),
        Figure("Processor a call", ("cpu_us_per_call",), "µs"),
        Figure("Added p99", ("added_ms_p99",), "ms"),
        Figure("Streams", ("streams_per_s",), "streams/s", True),
        Figure("Processor a stream", ("cpu_us_per_stream",), "µs"),
        Figure("Added TTFT p99", ("added_ttft_ms_p99",), "ms"),
        Figure("Memory", ("rss_mb",), "MB"),
    ),
}
COLUMNS = ("kind", "started_at", "series", "figure", "unit", "value", "before", "change", "regression")


def readings(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a number, oldest first, with `COLUMNS`.

    `before` is the median it is compared with, `change` its share of difference (positive: higher), both None
    without enough runs before. Interrupted runs are left out.
    """
    earlier: dict[tuple[str, ...], list[float]] = {}
    rows = []
    for run in runs.sort_values("started_at").to_dict("records"):
        if run["interrupted"] is True:
            continue
        conditions = _conditions(run["settings"])
        for series, figure, value in _numbers(run):
            past = earlier.setdefault((run["kind"], series, figure.label, conditions), [])
            before = median(past[-_BEFORE:]) if len(past) >= _LEAST_BEFORE else None
            change = (value - before) / before if before else None
            is_worse = change is not None and (-change if figure.higher_is_better else change) > LIMIT
            rows.append(
                (
                    run["kind"],
                    run["started_at"],
                    series,
                    figure.label,
                    figure.unit,
                    value,
                    before,
                    change,
                    is_worse,
                )
            )
            past.append(value)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def newest(found: pd.DataFrame) -> pd.DataFrame:
    """The newest row of each series and figure."""
    last = found.sort_values("started_at").groupby(["kind", "series", "figure"]).tail(1)
    return last.sort_values(["series", "figure"])


def _numbers(run: Mapping[str, Any]) -> Iterator[tuple[str, Figure, float]]:
    for entry in run["figures"] or ():
        for figure in FIGURES.get(run["kind"], ()):
            value: Any = entry
            for step in figure.path:
                value = value.get(step) if isinstance(value, Mapping) else None
            if isinstance(value, int | float):
                yield _series(run["kind"], entry), figure, float(value)


def _series(kind: str, entry: Mapping[str, Any]) -> str:
    if kind == "engine":
        streams = entry.get("streams")
        return f"{entry.get('variant')}, {entry.get('kind')}, {streams} stream{'' if streams == 1 else 's'}"
    return str(entry.get("contestant") or entry.get("model"))


def _conditions(settings: Mapping[str, Any]) -> str:
    machine = settings.get("machine") or {}
    kept = {name: value for name, value in settings.items() if name not in _NO_DIFFERENCE | {"machine"}}
    kept |= {"processor": machine.get("processor"), "cores": machine.get("cores")}
    return json.dumps(kept, sort_keys=True, default=str)
