"""Days have partitions of their own, made while others write, and dropped with their rows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from gateway.ledger.batch import write
from gateway.ledger.partitions import day_of, drop_before, ensure_partitions, partition_of, uuid_floor
from gateway.ledger.records import Exchange, uuid7
from tests.ledger.conftest import carried

MakeExchange = Callable[..., Exchange]
DAY = date(2026, 11, 21)


def rows(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


@given(st.datetimes(datetime(1970, 1, 2), datetime(9000, 1, 1)))
def test_a_key_lies_in_the_partition_of_its_day_only(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)
    key = uuid7(moment.timestamp())
    day = day_of(key)
    own, next_day = partition_of("exchanges", day), partition_of("exchanges", day + timedelta(days=1))
    assert own.lower <= key < own.upper == next_day.lower
    assert (
        uuid_floor(moment - timedelta(milliseconds=1)) < key < uuid_floor(moment + timedelta(milliseconds=2))
    )
    assert own.name == f"exchanges_{day:%Y%m%d}"


@pytest.mark.parametrize("key", [uuid4(), UUID(int=0), UUID("ffffffff-ffff-7000-8000-000000000000")])
def test_other_keys_have_no_day(key: UUID) -> None:
    with pytest.raises(ValueError, match=r"UUIDv7|9999"):
        day_of(key)


def test_partitions_are_made_once(engine: Engine) -> None:
    with engine.begin() as connection:
        made = ensure_partitions(connection, [DAY, DAY])
        assert made == ["exchanges_20261121", "attempts_20261121"]
        assert ensure_partitions(connection, [DAY]) == []


def test_processes_that_need_a_day_at_once_both_get_it(engine: Engine) -> None:
    made: list[list[str]] = []

    def ensure() -> None:
        with engine.begin() as connection:
            made.append(ensure_partitions(connection, [DAY]))

    threads = [threading.Thread(target=ensure) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(len, made)) == [0, 0, 2]


def test_rows_that_waited_in_the_default_partition_move(engine: Engine, make_exchange: MakeExchange) -> None:
    records = [carried(make_exchange())]
    with engine.begin() as connection:
        write(connection, records)
        connection.execute(text("ALTER TABLE exchanges DETACH PARTITION exchanges_20261121"))
        connection.execute(text("INSERT INTO exchanges SELECT * FROM exchanges_20261121"))
        connection.execute(text("DROP TABLE exchanges_20261121"))
    assert rows(engine, "exchanges_default") == 1
    with engine.begin() as connection:
        assert ensure_partitions(connection, [DAY]) == ["exchanges_20261121"]
    assert (rows(engine, "exchanges_default"), rows(engine, "exchanges_20261121")) == (0, 1)


def test_dropping_takes_the_days_before_and_nothing_else(engine: Engine, make_exchange: MakeExchange) -> None:
    noon = make_exchange().started_at
    with engine.begin() as connection:
        write(connection, [carried(make_exchange(noon + day * 86_400)) for day in (-1, 0, 1)])
        dropped = drop_before(connection, DAY)
    assert dropped == ["exchanges_20261120", "attempts_20261120"]
    assert (rows(engine, "exchanges"), rows(engine, "attempts")) == (2, 2)
    with engine.begin() as connection:
        assert drop_before(connection, DAY) == []
