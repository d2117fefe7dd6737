"""The revisions make exactly the tables of `tables.py`, go back without a trace, and bear being run twice at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from alembic.util import CommandError
from sqlalchemy import Engine, text

from gateway.ledger import migrate
from gateway.ledger.batch import write
from gateway.ledger.database import create_engine
from gateway.ledger.errors import DatabaseUrlError
from gateway.ledger.partitions import ensure_partitions, uuid_floor
from gateway.ledger.records import Exchange
from gateway.ledger.tables import metadata
from tests.conftest import PostgresServer
from tests.ledger.conftest import carried

MakeExchange = Callable[..., Exchange]


@pytest.fixture
def bare_engine(postgres: PostgresServer) -> Iterator[Engine]:
    """A database without any table."""
    url = postgres.create(migrated=False)
    engine = create_engine(url)
    yield engine
    engine.dispose()
    postgres.drop(url)


def url_of(engine: Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_character_is_refused(
    postgres: PostgresServer, encoding: str
) -> None:
    url = postgres.create(migrated=False, encoding=encoding)
    with pytest.raises(DatabaseUrlError, match=f"is encoded in {encoding}.* ENCODING 'UTF8'"):
        migrate.upgrade(url)
    postgres.drop(url)


def names(engine: Engine) -> set[str]:
    """Of everything in the schema: relations and functions."""
    query = """
    SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'S', 'v')
    UNION SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    """
    with engine.connect() as connection:
        return set(connection.scalars(text(query)))


def explained(engine: Engine, query: str) -> str:
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL enable_seqscan = off"))
        return "\n".join(connection.scalars(text(f"EXPLAIN (ANALYZE, COSTS OFF) {query}")))


def alembic_check(url: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", "check"],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"SPARKGATE_DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_tables_are_those_of_the_metadata_also_with_partitions(engine: Engine) -> None:
    with engine.begin() as connection:
        ensure_partitions(connection, [datetime(2026, 11, 22, tzinfo=UTC).date()])
    migrate.check(url_of(engine))
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE tasks ADD COLUMN surplus int"))
    with pytest.raises(CommandError, match="surplus"):
        migrate.check(url_of(engine))


def test_up_down_up(bare_engine: Engine) -> None:
    url = url_of(bare_engine)
    migrate.upgrade(url)
    made = names(bare_engine)
    assert set(metadata.tables) | {"exchanges_default", "attempts_default", "uuid_floor"} <= made
    with bare_engine.begin() as connection:
        ensure_partitions(connection, [datetime(2026, 11, 22, tzinfo=UTC).date()])
    migrate.downgrade(url, "base")
    assert names(bare_engine) == {"alembic_version"}
    migrate.upgrade(url)
    assert names(bare_engine) == made
    migrate.check(url)


def test_this_months_usage_is_taken_over_from_the_ledger(bare_engine: Engine) -> None:
    url = url_of(bare_engine)
    migrate.upgrade(url, "0002")
    calls = """
    INSERT INTO exchanges (id, started_at, caller, endpoint, status, stream, attempts, total_s)
    SELECT gen_random_uuid(), moment, caller, '/v1', 200, false, 2, 1
    FROM (VALUES ('app', now()), ('app', now()), ('idle', now() - interval '40 days')) AS made (caller, moment);
    INSERT INTO attempts (id, exchange_id, ordinal, started_at, target, model, result, total_s, input_tokens, cost_usd)
    SELECT gen_random_uuid(), id, ordinal, started_at, 'a', 'm', 'ok', 1, 10, nullif(ordinal * 0.5, 0)
    FROM exchanges, generate_series(0, 1) AS ordinal
    """
    with bare_engine.begin() as connection:
        connection.execute(text(calls))
    migrate.upgrade(url)
    columns = "caller, calls, tokens, cost_usd::float8, attempts_of_unknown_cost"
    with bare_engine.connect() as connection:
        rows = connection.execute(text(f"SELECT {columns} FROM quota_usage")).all()
    assert [tuple(row) for row in rows] == [("app", 2, 40, 1.0, 2)]


def test_tasks_take_over_what_the_ledger_holds_of_them(bare_engine: Engine) -> None:
    url = url_of(bare_engine)
    migrate.upgrade(url, "0007")
    calls = """
    INSERT INTO exchanges (id, started_at, caller, endpoint, task_id, shape, status, stream, attempts, total_s,
        input_tokens, output_tokens)
    SELECT gen_random_uuid(), moment, 'app', '/v1', 't', shape, 200, false, 2, 1, 10, 5
    FROM (VALUES (timestamptz '2026-11-21 12:00:30+00', 'support'), ('2026-11-21 12:05+00', 'general'))
        AS made (moment, shape);
    INSERT INTO attempts (id, exchange_id, ordinal, started_at, target, model, result, total_s, cost_usd)
    SELECT gen_random_uuid(), id, ordinal, started_at, 'target ' || ordinal, 'm', 'ok', 1,
        nullif(ordinal * 0.000000007, 0)
    FROM exchanges, generate_series(0, 1) AS ordinal;
    INSERT INTO tasks (caller, task_id, first_seen_at) VALUES ('app', 't', '2026-11-21 12:00+00'), ('app', 'u', now());
    INSERT INTO outcomes (id, caller, task_id, reported_at, status, workflow) VALUES
        (gen_random_uuid(), 'app', 't', '2026-11-21 13:00+00', 'completed', 'tickets'),
        (gen_random_uuid(), 'app', 't', '2026-11-21 12:30+00', 'failed', NULL)
    """
    with bare_engine.begin() as connection:
        connection.execute(text(calls))
    migrate.upgrade(url)
    tasks = """
    SELECT status, workflow, shape, target, calls, attempts, input_tokens, (cost_usd * 1e9)::int, unpriced, spent
    FROM tasks WHERE task_id = 't'
    """
    sums = "SELECT at AT TIME ZONE 'UTC', status, tasks, calls, unpriced FROM task_sums"
    costs = (
        "SELECT workflow, target, attempts, (cost_usd * 1e9)::int, unpriced FROM task_costs ORDER BY target"
    )
    with bare_engine.connect() as connection:
        (task,) = connection.execute(text(tasks))
        (summed,) = connection.execute(text(sums))
        spent = [tuple(row) for row in connection.execute(text(costs))]
    assert tuple(task)[:9] == ("completed", "tickets", "support", "target 0", 2, 4, 20, 14, 2)
    assert task[9] == {"target 0": [2, 0, 2], "target 1": [2, 14, 0]}
    assert tuple(summed) == (datetime(2026, 11, 21, 12, 0), "completed", 1, 2, 2)
    assert spent == [("tickets", "target 0", 2, 0, 2), ("tickets", "target 1", 2, 14, 0)]


def test_the_view_of_the_docs_is_the_one_there_is() -> None:
    root = Path(__file__).parents[2]
    made = (root / "migrations" / "versions" / "0008_task_sums.py").read_text()
    view = made.partition("CREATE VIEW")[2].partition('"""')[0]
    assert view in (root / "docs" / "tasks.md").read_text()


def test_sums_begin_with_what_the_ledger_holds_and_merged_histograms_get_their_key(
    bare_engine: Engine,
) -> None:
    url = url_of(bare_engine)
    migrate.upgrade(url, "0006")
    held = """
    INSERT INTO exchanges (id, started_at, caller, endpoint, target, status, stream, attempts, total_s, cost_usd)
    SELECT gen_random_uuid(), '2026-11-22 10:07+00', 'app', '/v1', 'a', 200, false, 1, 1, 0.5
    FROM generate_series(1, 3);
    UPDATE exchanges SET id = (substr(uuid_floor(started_at)::text, 1, 19) || substr(id::text, 20))::uuid;
    INSERT INTO latency_histograms (batch_id, minute, target, shape, metric, span_s, k, n)
    SELECT gen_random_uuid(), '2026-11-01 10:00+00', 'a', 'general', 'total_s', span_s, '{1, 5}', '{2, 1}'
    FROM unnest(ARRAY[60, 3600, 3600, 86400]) AS span_s
    """
    with bare_engine.begin() as connection:
        connection.execute(text(held))
    migrate.upgrade(url, "0007")
    with bare_engine.connect() as connection:
        sums = connection.execute(text("SELECT span_s, target, calls, cost_usd::float8 FROM call_sums")).all()
        kept = connection.execute(
            text("SELECT batch_id, span_s, n FROM latency_histograms ORDER BY span_s")
        ).all()
    assert [tuple(row) for row in sums] == [(900, "a", 3, 1.5)]
    assert [(row.span_s, row.n) for row in kept] == [(60, [2, 1]), (3600, [4, 2]), (86_400, [2, 1])]
    assert [row.batch_id for row in kept[1:]] == [UUID(int=3600), UUID(int=86_400)]


def test_processes_that_migrate_at_once_take_turns(bare_engine: Engine) -> None:
    code = "import sys; from gateway.ledger.migrate import upgrade; upgrade(sys.argv[1])"
    command = [sys.executable, "-c", code, url_of(bare_engine)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert errors == ["", "", ""]
    assert [process.returncode for process in processes] == [0, 0, 0]
    migrate.check(url_of(bare_engine))


def test_uuid_floor_is_the_smallest_uuid7_of_its_millisecond(engine: Engine) -> None:
    moment = datetime(2026, 11, 22, 1, 2, 3, 456_789, tzinfo=UTC)
    query = text("SELECT uuid_floor(:moment), uuid_extract_timestamp(uuid_floor(:moment))")
    with engine.connect() as connection:
        floor, stamp = connection.execute(query, {"moment": moment}).one()
    assert floor == uuid_floor(moment) == UUID(int=floor.int & ~((1 << 80) - 1) | 0x7000_8000 << 48)
    assert stamp == moment.replace(microsecond=456_000)


def test_a_range_of_time_reads_the_key_and_prunes_other_days(
    engine: Engine, make_exchange: MakeExchange
) -> None:
    noon = datetime(2026, 11, 21, 12, tzinfo=UTC)
    records: list[dict[str, Any]] = [
        carried(make_exchange((noon + timedelta(days=day)).timestamp())) for day in range(-2, 3)
    ]
    with engine.begin() as connection:
        write(connection, records)
    constant = explained(
        engine,
        "SELECT count(*) FROM exchanges WHERE id >= uuid_floor('2026-11-21 00:00+00') "
        "AND id < uuid_floor('2026-11-22 00:00+00')",
    )
    assert "exchanges_20261121_pkey" in constant
    assert "exchanges_20261120" not in constant
    assert "exchanges_20261122" not in constant
    relative = explained(
        engine, "SELECT count(*) FROM exchanges WHERE id >= uuid_floor(now() + interval '1000 days')"
    )
    assert "Subplans Removed: 5" in relative


def test_alembics_own_command_finds_the_same_state(clean_database_url: str) -> None:
    done = alembic_check(clean_database_url)
    assert done.returncode == 0, done.stderr
    assert "No new upgrade operations" in done.stdout


def test_alembics_own_command_asks_for_a_url() -> None:
    done = alembic_check("")
    assert done.returncode != 0
    assert "SPARKGATE_DATABASE_URL" in done.stdout + done.stderr
