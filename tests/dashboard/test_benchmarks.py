from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from sqlalchemy import Engine

from dashboard.benchmarks import queries, readings
from tests.dashboard import traffic


def runs(*rates: float, machine: str = "a", interrupted: bool = False) -> pd.DataFrame:
    began = datetime(2026, 11, 1, tzinfo=UTC)
    return pd.DataFrame(
        [
            {
                "kind": "gateway",
                "started_at": began + timedelta(days=day),
                "settings": {"rounds": day, "machine": {"processor": machine, "cores": 2, "load": day}},
                "figures": [{"contestant": "sparkgate", "calls_per_s": rate, "cpu_us_per_call": 1e6 / rate}],
                "interrupted": interrupted,
            }
            for day, rate in enumerate(rates)
        ]
    )


def regressions(found: pd.DataFrame) -> list[tuple[str, float]]:
    worse = found[found["regression"].astype(bool)]
    return list(zip(worse["figure"], worse["value"], strict=True))


def test_a_slower_run_is_a_regression_of_rate_and_of_time() -> None:
    found = readings.readings(runs(100, 102, 98, 80))
    assert regressions(found) == [("Calls", 80), ("Processor a call", 12_500)]
    last = readings.newest(found).set_index("figure")
    assert last.loc["Calls", "before"] == 100
    assert last.loc["Calls", "change"] == pytest.approx(-0.2)


def test_a_faster_run_and_one_within_a_tenth_are_none() -> None:
    assert regressions(readings.readings(runs(100, 100, 150))) == []
    assert regressions(readings.readings(runs(100, 100, 91))) == []


def test_two_runs_are_needed_to_compare_with() -> None:
    assert regressions(readings.readings(runs(100, 50))) == []


def test_other_machines_and_interrupted_runs_are_not_compared_with() -> None:
    fast = runs(100, 100, 100)
    slow = runs(50, machine="b").assign(started_at=datetime(2026, 11, 9, tzinfo=UTC))
    assert regressions(readings.readings(pd.concat([fast, slow]))) == []
    cut = runs(10, interrupted=True)
    assert readings.readings(cut).empty


def test_stored_runs_give_the_figures_that_were_measured(reader: Engine, writer: Engine) -> None:
    traffic.benchmark(writer)
    found = readings.readings(queries.runs(reader))
    assert set(found["series"]) == {"sparkgate", "bare ASGI"}
    calls = found[(found["series"] == "sparkgate") & (found["figure"] == "Calls")]
    assert calls["value"].tolist()[-1] == 1320
    assert ("Calls", 1320) in regressions(found)
    assert not found[found["series"] == "bare ASGI"]["regression"].any()


def test_an_empty_table_has_no_readings(reader: Engine) -> None:
    assert readings.readings(queries.runs(reader)).empty
