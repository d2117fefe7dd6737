"""What self-hosted engines cost in all, and what of it no call used."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, insert, text

from gateway.ledger import tables
from gateway.ledger.batch import write
from gateway.ledger.costs import Price
from gateway.ledger.database import create_async_engine
from gateway.ledger.engine_hours import UpTime

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
PER_HOUR = Decimal(36)  # a cent a second


def after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def seen(*answers: float, place: str = "here", usd_per_hour: Decimal | None = PER_HOUR) -> UpTime:
    """An engine that answered so many seconds after noon."""
    up_time = UpTime("engine", place, usd_per_hour)
    for seconds in answers:
        up_time.look(True, after(seconds))
    return up_time


def kept(engine: Engine, *up_times: UpTime) -> list[tuple[Any, ...]]:
    """(hour, place, seconds, dollars) after these were written one after the other."""

    async def write_all() -> None:
        database = create_async_engine(engine.url.render_as_string(hide_password=False))
        async with database.begin() as connection:
            for up_time in up_times:
                await up_time.write(connection)
        await database.dispose()

    asyncio.run(write_all())
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT hour, place, up_s, usd FROM engine_hours ORDER BY 1, 2"))
        return [tuple(row) for row in rows]


def test_an_engine_is_up_between_two_looks_at_which_it_answers() -> None:
    up_time = seen(0, 1, 2.5)
    up_time.look(False, after(3))
    up_time.look(True, after(4))
    up_time.look(True, after(5))
    up_time.look(True, after(500))  # the gateway itself was away
    assert up_time.unwritten == {NOON: (3.5, after(5))}


def test_time_counts_in_the_hour_in_which_it_ends_at_the_price_of_then(engine: Engine) -> None:
    hour = timedelta(hours=1)
    dearer = seen(3600 + 2, 3600 + 6, usd_per_hour=PER_HOUR * 2)
    assert kept(engine, seen(3590, 3599, 3601), dearer) == [
        (NOON, "here", 9.0, Decimal("0.09")),
        (NOON + hour, "here", 6.0, Decimal("0.10")),
    ]


def test_gateways_that_watch_the_same_engine_count_its_time_once(engine: Engine) -> None:
    ours, theirs, ours_again = seen(0, 10), seen(3, 13), seen(10, 20)
    elsewhere = seen(0, 5, place="there")
    assert kept(engine, ours, theirs, ours_again, elsewhere, ours) == [
        (NOON, "here", 20.0, Decimal("0.20")),
        (NOON, "there", 5.0, Decimal("0.05")),
    ]


def test_an_unknown_price_makes_the_hours_cost_unknown(engine: Engine) -> None:
    assert kept(engine, seen(0, 10), seen(10, 20, usd_per_hour=None)) == [(NOON, "here", 20.0, None)]


def spent(
    at: datetime, usd: str, target: str = "engine", role: str = "", span_s: int = 3600
) -> dict[str, Any]:
    keys = {"at": at, "span_s": span_s, "target": target, "shape": "", "role": role, "result": "ok"}
    counts = dict.fromkeys((column.name for column in tables.attempt_sums.columns), 0)
    return counts | keys | {"is_further": False, "cost_usd": Decimal(usd)}


def test_what_no_call_used_is_its_own_line(engine: Engine) -> None:
    """By hand: 50 s up at a cent a second are 0.50 USD; calls used 0.12 and a shadow 0.03, so 0.35 stood idle."""
    price = Price("engine", "m", "config", usd_per_hour=PER_HOUR)
    entries = [spent(NOON, "0.12"), spent(NOON, "0.03", role="shadow"), spent(NOON, "9", target="upstream")]
    with engine.begin() as connection:
        write(connection, [price.record()])
        connection.execute(insert(tables.attempt_sums), entries)
    kept(engine, seen(0, 50))
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM self_hosted_costs")).all()
    assert [tuple(row) for row in rows] == [
        (NOON, "engine", 50.0, Decimal("0.50"), Decimal("0.15"), Decimal("0.35"))
    ]


def test_sums_over_hours_tell_what_was_idle_also_once_a_days_attempts_are_one_row(engine: Engine) -> None:
    day = NOON.replace(hour=0)
    with engine.begin() as connection:
        write(connection, [Price("engine", "m", "config", usd_per_hour=PER_HOUR).record()])
        connection.execute(insert(tables.attempt_sums), [spent(day, "0.40", span_s=86_400)])
    kept(engine, seen(0, 50))
    query = "SELECT count(*), sum(usd_total), sum(usd_used), sum(usd_idle) FROM self_hosted_costs WHERE hour >= :day"
    with engine.connect() as connection:
        found = connection.execute(text(query), {"day": day}).one()
    assert tuple(found) == (2, Decimal("0.50"), Decimal("0.40"), Decimal("0.10"))


def test_a_price_is_a_row_and_an_unknown_part_of_it_null(engine: Engine) -> None:
    with engine.begin() as connection:
        write(connection, [Price("engine", "m", "config", usd_per_hour=PER_HOUR).record()])
        row = connection.execute(
            text("SELECT usd_per_hour, output_usd_per_mtok, rates IS NULL FROM prices")
        ).one()
    assert tuple(row) == (PER_HOUR, None, True)
