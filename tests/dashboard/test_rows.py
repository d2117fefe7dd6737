"""Single calls: which are found, and that no statement leaves its day."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from sqlalchemy import Engine, text

from dashboard import rows
from gateway.ledger import compaction
from gateway.ledger.records import Exchange, uuid7
from tests.dashboard import traffic

DAY_S = 86_400.0


def test_a_small_span_is_sampled_whole(reader: Engine, start: datetime, written: list[Exchange]) -> None:
    found = rows.sample(reader, start, datetime.now(UTC), None)
    assert found.is_whole
    assert sorted(found.calls["total_s"]) == sorted(made.total_s for made in written)
    chats = rows.sample(reader, start, datetime.now(UTC), "short_chat")
    assert len(chats.calls) == sum(made.shape == "short_chat" for made in written)


def test_of_a_large_span_each_slice_gives_its_first_few(
    reader: Engine, start: datetime, written: list[Exchange], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "WHOLE", 80)
    monkeypatch.setattr(rows, "_SLICES", 40)
    end = start + timedelta(minutes=16)
    found = rows.sample(reader, start, end, None)
    assert not found.is_whole
    if start.date() == end.date():
        counts = pd.Series([(made.started_at - start.timestamp()) // 24 for made in written]).value_counts()
        assert len(found.calls) == counts.clip(upper=2).sum()
    assert 40 < len(found.calls) < len(written)


@pytest.fixture
def old(writer: Engine) -> list[Exchange]:
    """Calls of four days, two of them support, newest last, in spans of every length."""
    now = time.time()
    ages = [3.2 * DAY_S, 3.1 * DAY_S, 1.5 * DAY_S, 1.5 * DAY_S - 20, 7200.0, 7100.0, 60.0, 1.0]
    shapes = ["support", "short_chat"] * 2 + ["short_chat"] * 4
    made = [traffic.exchange(now - age, shape=shape) for age, shape in zip(ages, shapes, strict=True)]
    made[4] = traffic.rescued(now - ages[4])
    traffic.write(writer, made)
    with writer.begin() as connection:
        compaction.compact_sums(connection, datetime.now(UTC))
    return made


@pytest.fixture
def month() -> datetime:
    return datetime.now(UTC) - timedelta(days=30)


def test_the_newest_calls_are_found_however_old_they_are(
    reader: Engine, old: list[Exchange], month: datetime
) -> None:
    assert rows.newest(reader, month, None, 100)["id"].tolist() == [made.id for made in reversed(old)]
    assert rows.newest(reader, month, None, 3)["id"].tolist() == [made.id for made in reversed(old[-3:])]
    assert rows.newest(reader, month, "support", 5)["id"].tolist() == [old[2].id, old[0].id]
    assert rows.newest(reader, month, None, 5, several=True)["id"].tolist() == [old[4].id]
    assert len(rows.newest_choices(reader, month, 6)) == 6


def test_spans_that_touch_are_asked_about_at_once_and_never_past_midnight() -> None:
    midnight = datetime(2026, 11, 22, tzinfo=UTC)

    def span(minutes: int, calls: int, span_s: int = 60) -> tuple[datetime, int, int]:
        return midnight + timedelta(minutes=minutes), span_s, calls

    def stretches(limit: int) -> Iterator[tuple[float, float]]:
        spans = [span(9, 2), span(8, 1), span(1, 4), span(0, 1), span(-1, 1), span(-60, 9, 900)]
        busy = pd.DataFrame(spans, columns=["at", "span_s", "calls"])
        for lower, upper in rows._stretches(busy, limit):
            yield (lower - midnight).total_seconds(), (upper - midnight).total_seconds()

    assert list(stretches(2)) == [(540, 601)]
    assert list(stretches(3)) == [(480, 601)]
    assert list(stretches(7)) == [(480, 601), (60, 121)]
    assert list(stretches(100)) == [(480, 601), (0, 121), (-60, 0), (-3600, -2699)]


def test_an_attempt_that_began_after_midnight_is_found(reader: Engine, writer: Engine) -> None:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    made = traffic.rescued(midnight - 1)
    traffic.write(writer, [made])
    with writer.begin() as connection:  # its key is of the day on which it began
        statement = text("UPDATE attempts SET id = :id WHERE ordinal = 1")
        connection.execute(statement, {"id": uuid7(midnight + 2)})
    found = rows.attempts(reader, made.id, datetime.fromtimestamp(made.started_at, UTC), made.total_s)
    assert found["ordinal"].tolist() == [0, 1]
