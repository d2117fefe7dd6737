"""What every page asks of a month of calls: one day's partition at most, and an index for every large table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, text

import dashboard
from dashboard import rows
from dashboard.spans import SPANS
from gateway.ledger.database import create_engine
from tests.dashboard.drawn import PAGES, Drawing, Statement, draw
from tests.scale import load, world

if TYPE_CHECKING:
    from tests.conftest import PostgresServer

_SINGLE_CALLS = re.compile(r"(exchanges|attempts)_(\d{8}|default)")
_SMALL = {"targets", "policies", "bench_runs", "prices", "api_keys", "engine_hours"}
NOW = datetime.now(UTC).replace(second=0, microsecond=0)


@pytest.fixture(scope="module")
def month_url(postgres: PostgresServer) -> Iterator[str]:
    """A hundred calls a day, for thirty days."""
    url = postgres.create()
    engine = create_engine(url)
    for _ in load.load(engine, load.Load(NOW - timedelta(days=30), NOW, 100)):
        pass
    engine.dispose()
    yield url
    postgres.drop(url)


@pytest.fixture
def month(month_url: str) -> Iterator[Engine]:
    engine = create_engine(month_url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("name", PAGES)
def test_no_statement_reads_more_than_one_day_and_each_has_its_index(
    month: Engine, month_url: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "WHOLE", 400)  # so that long spans are sampled
    monkeypatch.setattr(rows, "_SLICES", 100)
    asked = [it for drawing in _drawings(month, month_url, name) for it in drawing.statements]
    read = [it for it in asked if re.match(r"\s*(SELECT|WITH)\b", it.sql)]
    assert read
    days: set[str] = set()
    for statement in read:
        scans = list(_scans(_plan(month, statement)))
        days |= (
            reached := {scan["Relation Name"] for scan in scans if _SINGLE_CALLS.match(scan["Relation Name"])}
        )
        assert len(reached) <= 1, f"{sorted(reached)}: {statement.sql}"
        for scan in scans:
            assert scan["Relation Name"] in _SMALL or _is_served(scan), f"{scan}: {statement.sql}"
    assert (len(days) >= 30) == (name in ("overview", "latency"))  # which sample calls of all the span
    assert bool(days) == (name in ("overview", "latency", "routing", "exchange"))


def _drawings(month: Engine, url: str, name: str) -> Iterator[Drawing]:
    if name == "exchange":
        with month.connect() as connection:
            key = connection.scalar(text("SELECT id FROM exchanges WHERE attempts > 1 LIMIT 1"))
        yield draw(url, name, NOW, id=f"req_{key.hex}")
        return
    for span in SPANS:
        yield draw(url, name, NOW, span=span)
    yield draw(url, name, NOW, span="30 d", shape="support")


def _plan(month: Engine, statement: Statement) -> Any:
    with month.connect() as connection:
        connection.execute(
            text("SET enable_seqscan = off")
        )  # there are too few rows here to make an index worth it
        explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement.sql}", statement.parameters)
        return explained.scalar_one()[0]["Plan"]


def _scans(node: Any) -> Iterator[Any]:
    """Nodes that read a table; of a bitmap, with the condition of its index."""
    if "Relation Name" in node:
        below = [child for child in node.get("Plans", ()) if "Index Cond" in child]
        yield node | {"Index Cond": below[0]["Index Cond"]} if below else node
    for child in node.get("Plans", ()):
        yield from _scans(child)


def _is_served(scan: Any) -> bool:
    """By an index. A span may cover all that the sums hold, and the whole of an index serves them then."""
    is_whole = scan["Node Type"].startswith("Index") and not _SINGLE_CALLS.match(scan["Relation Name"])
    return is_whole or "Index Cond" in scan


def test_single_calls_are_read_in_one_module() -> None:
    folder = Path(dashboard.__file__).parent
    readers = [
        str(path.relative_to(folder))
        for path in folder.rglob("*.py")
        if re.search(r"\b(FROM|JOIN) (exchanges|attempts|tasks|outcomes)\b", path.read_text())
    ]
    assert readers == ["rows.py"]


def test_the_loads_sums_are_those_of_its_rows(month: Engine) -> None:
    checks = {
        "SELECT count(*), sum(cost_usd), sum(attempts), count(timed_out) FROM exchanges": (
            "SELECT sum(calls), sum(cost_usd), sum(attempts), sum(timeouts) FROM call_sums"
        ),
        "SELECT count(*), sum(cost_usd), count(*) FILTER (WHERE ordinal > 0) FROM attempts": (
            "SELECT sum(attempts), sum(cost_usd), sum(attempts) FILTER (WHERE is_further) FROM attempt_sums"
        ),
        "SELECT count(*) FROM exchanges": "SELECT sum(calls) FROM choice_sums",
        "SELECT sum(calls), sum(cost_usd), count(*) FROM tasks": (
            "SELECT sum(calls), sum(cost_usd), sum(tasks) FROM task_sums"
        ),
        "SELECT sum(cost_usd) FROM attempts": "SELECT sum(cost_usd) FROM task_costs",
        "SELECT count(*) FROM exchanges WHERE stream AND ttft_s IS NOT NULL": (
            "SELECT sum(count) FROM latency_histograms, unnest(n) AS count WHERE metric = 'ttft_s'"
        ),
    }
    with month.connect() as connection:
        for of_rows, of_sums in checks.items():
            assert [*connection.execute(text(of_rows))] == [*connection.execute(text(of_sums))]
        assert connection.scalar(text("SELECT count(*) FROM exchanges")) == pytest.approx(3000, abs=2)
        names = {*connection.scalars(text("SELECT DISTINCT target FROM attempts"))}
    assert names == {place.name for place in world.PLACES}
