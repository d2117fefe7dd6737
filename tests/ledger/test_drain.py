"""The drain writes every record once: whatever dies, repeats or breaks in between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from sqlalchemy import Engine, text

from gateway.ledger import batch, embedded, migrate, segments
from gateway.ledger.database import create_engine
from gateway.ledger.drain import Drain, is_fault_of_record
from gateway.ledger.records import Attempt, Exchange, outcome_record, uuid7
from gateway.ledger.spool import Spool
from tests.ledger.conftest import NOON, carried

MakeExchange = Callable[..., Exchange]
MIB = 1 << 20


def count(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


def histogram_total(engine: Engine) -> int:
    query = "SELECT coalesce(sum(x), 0) FROM latency_histograms, unnest(n) AS x"
    with engine.connect() as connection:
        return int(connection.scalar(text(query)) or 0)


def spooled(directory: Path, *records: dict[str, Any]) -> Path:
    """One `.ready` segment with these records."""
    spool = Spool(directory, "w0", 100 * MIB)
    for record in records:
        spool.append(record)
    spool.close()
    return segments.ready(directory)[-1]


def drain_all(engine: Engine, directory: Path) -> Drain:
    drain = Drain(engine, directory)
    while drain.step():
        pass
    return drain


def test_an_exchange_arrives_with_its_attempts_and_all_its_columns(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    exchange = make_exchange(
        decision={"candidates": [{"target": "engine"}]}, task_id="t1", workflow="tickets"
    )
    spooled(tmp_path, exchange.record())
    drain_all(engine, tmp_path)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM exchanges")).mappings().one()
        attempt = connection.execute(text("SELECT * FROM attempts")).mappings().one()
    assert row["id"] == exchange.id
    assert row["started_at"].isoformat() == "2026-11-21T12:00:00+00:00"
    assert (row["caller"], row["workflow"], row["status"]) == ("alice", "tickets", 200)
    assert row["decision"] == {"candidates": [{"target": "engine"}]}
    assert str(row["cost_usd"]) == "0.000001500"
    assert (row["tokens_per_s"], row["output_tokens"]) == (10.0, 11)
    assert (attempt["exchange_id"], attempt["ordinal"], attempt["result"]) == (exchange.id, 0, "ok")
    assert list(tmp_path.glob("*.ready")) == []


def test_rows_go_to_the_partition_of_their_day(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    at = make_exchange().started_at
    spooled(tmp_path, make_exchange(at).record(), make_exchange(at + 86_400).record())
    drain_all(engine, tmp_path)
    assert count(engine, "exchanges_20261121") == 1
    assert count(engine, "exchanges_20261122") == 1
    assert count(engine, "attempts_20261122") == 1
    assert count(engine, "exchanges_default") == 0


def test_a_segment_delivered_twice_changes_nothing(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    records = [make_exchange(task_id="t").record() for _ in range(20)]
    records.append(outcome_record("alice", "t", "completed", 1.0, None))
    segment = spooled(tmp_path, *records)
    copy = tmp_path / "copy"
    shutil.copy(segment, copy)
    drain_all(engine, tmp_path)
    first = {
        t: count(engine, t) for t in ("exchanges", "attempts", "outcomes", "tasks", "latency_histograms")
    }
    total = histogram_total(engine)
    shutil.move(copy, segment)
    spooled(tmp_path, *records[:3], make_exchange(task_id="t").record())  # a mixed one
    drain = drain_all(engine, tmp_path)
    assert first == {"exchanges": 20, "attempts": 20, "outcomes": 1, "tasks": 1, "latency_histograms": 3}
    assert total == 60
    assert drain.exchanges == 1
    assert count(engine, "exchanges") == 21
    assert histogram_total(engine) == 63


def test_usage_is_summed_by_caller_and_day_over_all_attempts(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    at = make_exchange().started_at
    retried = make_exchange(caller="bob")
    unanswered = Attempt("engine", "tiny", at, result="cut_off", cost_nusd=None)
    retried.attempts = [unanswered, *retried.attempts, *make_exchange().attempts]
    records = [
        *(make_exchange().record() for _ in range(3)),
        make_exchange(at + 43_200).record(),  # midnight
        make_exchange(attempts=[]).record(),
        retried.record(),
    ]
    for _ in range(2):  # delivered twice, counted once
        spooled(tmp_path, *records)
        drain_all(engine, tmp_path)
    spooled(tmp_path, make_exchange().record())
    drain_all(engine, tmp_path)
    columns = "day::text, caller, calls, tokens, cost_usd * 1000000000, attempts_of_unknown_cost"
    with engine.connect() as connection:
        rows = connection.execute(text(f"SELECT {columns} FROM quota_usage ORDER BY 1, 2")).all()
    assert [tuple(row) for row in rows] == [
        ("2026-11-21", "alice", 5, 4 * 31, 6000, 0),
        ("2026-11-21", "bob", 1, 2 * 31, 3000, 1),
        ("2026-11-22", "alice", 1, 31, 1500, 0),
    ]


def test_histograms_hold_what_each_metric_is_defined_on(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    plain = {"stream": False, "ttft_s": 0.3}
    spooled(
        tmp_path,
        make_exchange().record(),  # ttft 0.5, tpot 0.1, total 1.5
        make_exchange(**plain).record(),  # total only: it did not stream
        make_exchange(status=500).record(),  # ttft and tpot of what was seen, no total
        make_exchange(ttft_s=None, status=504).record(),  # nothing
        make_exchange(attempts=[], status=503, ttft_s=None).record(),  # no target: nothing
        make_exchange(shape=None).record(),
    )
    drain_all(engine, tmp_path)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT shape, metric, k, n, minute FROM latency_histograms")).all()
    found = {(row.shape, row.metric): (row.k, row.n) for row in rows}
    assert {row.minute.isoformat() for row in rows} == {"2026-11-21T12:00:00+00:00"}
    # smallest k with 1.02^k >= value: ln 0.5 / ln 1.02 = -35.003, ln 0.1 / ln 1.02 = -116.28, ln 1.5 / ln 1.02 = 20.48
    assert found == {
        ("short_chat", "ttft_s"): ([-35], [2]),
        ("short_chat", "tpot_s"): ([-116], [2]),
        ("short_chat", "total_s"): ([21], [2]),
        ("general", "ttft_s"): ([-35], [1]),
        ("general", "tpot_s"): ([-116], [1]),
        ("general", "total_s"): ([21], [1]),
    }


def test_tasks_come_from_exchanges_and_outcomes_with_the_earliest_sight_and_the_first_workflow(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    at = make_exchange().started_at
    spooled(tmp_path, make_exchange(at, task_id="t").record())
    drain_all(engine, tmp_path)
    spooled(
        tmp_path,
        outcome_record("bob", "t", "failed", None, None),
        make_exchange(at - 60, task_id="t", workflow="tickets").record(),
        make_exchange(at + 60, task_id="t", workflow="other").record(),
    )
    drain_all(engine, tmp_path)
    with engine.connect() as connection:
        tasks = connection.execute(
            text("SELECT caller, task_id, workflow, first_seen_at FROM tasks ORDER BY 1")
        ).all()
    assert [tuple(task)[:3] for task in tasks] == [("alice", "t", "tickets"), ("bob", "t", None)]
    assert tasks[0].first_seen_at.timestamp() == at - 60


def test_damaged_and_refused_lines_go_to_quarantine_alone(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    good = [make_exchange().record() for _ in range(5)]
    bad_status = make_exchange(caller="refused").record()
    bad_status["exchange"]["status"] = 10**6  # past smallint: only the database notices
    bad_outcome = outcome_record("alice", "t", "completed", 7.0, None)  # score above 1
    segment = spooled(tmp_path, *good[:2], bad_status, *good[2:], bad_outcome, {"kind": "mystery"})
    damaged = segment.read_bytes().splitlines(keepends=True)
    damaged[0] = damaged[0].replace(b"alice", b"alicf")
    segment.write_bytes(b"".join(damaged) + b'0badc0de {"kind": "exch')
    drain = drain_all(engine, tmp_path)
    assert count(engine, "exchanges") == 4
    assert count(engine, "outcomes") == 0
    (kept,) = (tmp_path / "quarantine").iterdir()
    reasons = [orjson.loads(line)["reason"] for line in kept.read_bytes().splitlines()]
    assert drain.quarantined == len(reasons) == 5
    assert reasons[0] == "damaged line"
    assert "smallint" in reasons[1]
    assert "outcomes_score_check" in reasons[2]
    assert "mystery" in reasons[3]
    assert reasons[4].startswith("torn line")
    assert list(tmp_path.glob("*.ready")) == []


def test_malformed_records_of_every_kind_do_not_stop_the_drain(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    def broken(**changes: object) -> dict[str, Any]:
        record = make_exchange().record()
        record["exchange"] |= changes
        return record

    def costing(usd: str) -> dict[str, Any]:
        record = make_exchange().record()
        record["attempts"][0]["cost_usd"] = usd
        return record

    spooled(
        tmp_path,
        broken(id="nonsense"),
        broken(id="00000000-0000-4000-8000-000000000000"),  # not a UUIDv7: it would name a wild day
        broken(id="ffffffff-ffff-7000-8000-000000000000"),  # past the year 9999
        broken(started_at="yesterday"),
        broken(started_at=None),
        broken(caller=None),
        broken(total_s="long"),
        broken(status=None),
        broken(task_id={"a": 1}),
        costing("much"),
        costing("NaN"),
        {"kind": "exchange"},
        {"kind": "exchange", "exchange": {}, "attempts": [3]},
        {"kind": "outcome", "outcome": {"id": str(uuid7())}},
        {"kind": "price", "price": {"id": "p"}},
        {},
        make_exchange().record(),
    )
    drain = drain_all(engine, tmp_path)
    assert count(engine, "exchanges") == 1
    assert drain.quarantined == 16


def test_a_record_too_large_for_an_index_does_not_stop_the_drain(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    endless = make_exchange(task_id=os.urandom(4000).hex())
    spooled(tmp_path, make_exchange().record(), endless.record(), make_exchange().record())
    assert drain_all(engine, tmp_path).quarantined == 1
    assert count(engine, "exchanges") == 2


def test_a_segment_that_cannot_be_read_holds_up_no_other(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange, caplog: pytest.LogCaptureFixture
) -> None:
    segment = spooled(tmp_path, make_exchange().record())
    unreadable = segment.with_name("w0-00000000000000000001aaaaaaaa.ready")
    unreadable.mkdir()  # a read fails for root too
    drain_all(engine, tmp_path)
    assert count(engine, "exchanges") == 1
    assert [path.name for path in (tmp_path / "quarantine").iterdir()] == [unreadable.name]
    assert f"{unreadable.name} cannot be read, and was put aside in {tmp_path / 'quarantine'}" in caplog.text


def test_one_row_that_only_the_database_refuses_costs_only_itself(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    records = [make_exchange(NOON + number).record() for number in range(64)]
    records[37]["attempts"][0]["http_status"] = 10**6  # past smallint
    spooled(tmp_path, *records)
    drain = drain_all(engine, tmp_path)
    assert (drain.exchanges, drain.quarantined) == (63, 1)
    with engine.connect() as connection:
        calls = connection.scalars(
            text("SELECT sum(calls) FROM call_sums UNION ALL SELECT sum(calls) FROM quota_usage")
        )
        assert list(calls) == [63, 63]


def test_a_batch_that_is_in_anothers_way_is_written_again(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange, caplog: pytest.LogCaptureFixture
) -> None:
    """Another locks one task, waits for the other, and is more patient: of the two, Postgres ends the drain's try."""

    def spool_calls(at: float) -> None:
        spooled(tmp_path, *(make_exchange(at, task_id=task, verdict=None).record() for task in "ab"))

    spool_calls(NOON)
    drain = drain_all(engine, tmp_path)
    spool_calls(NOON + 10)
    lock = "SELECT 1 FROM tasks WHERE task_id = :task FOR UPDATE"
    is_waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    moved: list[int] = []
    step = threading.Thread(target=lambda: moved.append(drain.step()))
    with engine.begin() as other, engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watch:
        other.execute(text("SET LOCAL deadlock_timeout = '60s'"))
        other.execute(text(lock), {"task": "b"})
        step.start()
        while not watch.scalar(text(is_waiting)):
            time.sleep(0.02)
        other.execute(text(lock), {"task": "a"})
    step.join(60)
    assert (moved, drain.exchanges, drain.quarantined, caplog.messages) == ([1], 4, 0, [])


def test_what_cannot_be_put_aside_stays_in_the_spool(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    segment = spooled(tmp_path, make_exchange().record(), {"kind": "mystery"})
    in_the_way = tmp_path / "quarantine"
    in_the_way.write_text("")
    with pytest.raises(FileExistsError):
        drain_all(engine, tmp_path)
    assert segment.exists()
    in_the_way.unlink()
    drain = drain_all(engine, tmp_path)
    assert (count(engine, "exchanges"), drain.quarantined) == (1, 1)
    assert not segment.exists()


@pytest.mark.parametrize(
    ("error", "is_its_fault"),
    [
        (psycopg.errors.NumericValueOutOfRange(), True),
        (psycopg.errors.NotNullViolation(), True),
        (psycopg.errors.ProgramLimitExceeded(), True),
        (psycopg.ProgrammingError("cannot adapt type 'dict'"), True),
        (psycopg.errors.DiskFull(), False),
        (psycopg.errors.OutOfMemory(), False),
        (psycopg.errors.DeadlockDetected(), False),
        (psycopg.errors.AdminShutdown(), False),
        (psycopg.errors.UndefinedTable(), False),
        (psycopg.OperationalError("server closed the connection unexpectedly"), False),
    ],
)
def test_only_what_is_a_records_own_fault_puts_it_aside(error: psycopg.Error, is_its_fault: bool) -> None:
    assert is_fault_of_record(error) == is_its_fault


def test_text_that_postgres_cannot_hold_is_cleaned_not_lost(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    spooled(tmp_path, make_exchange(error_code="a\0b", decision={"note": "\0", "\ud800": r"\u0000"}).record())
    assert drain_all(engine, tmp_path).quarantined == 0
    with engine.connect() as connection:
        row = connection.execute(text("SELECT error_code, decision FROM exchanges")).one()
    assert row.error_code == "ab"
    assert row.decision == {"note": "", "?": r"\u0000"}


def test_prices_are_kept_once(engine: Engine, tmp_path: Path) -> None:
    price = {"id": "p1", "target": "t", "model": "m", "source": "config", "input_usd_per_mtok": "0.14"}
    spooled(tmp_path, {"kind": "price", "price": price}, {"kind": "price", "price": price})
    drain_all(engine, tmp_path)
    with engine.connect() as connection:
        row = connection.execute(text("SELECT * FROM prices")).one()
    assert (str(row.input_usd_per_mtok), row.output_usd_per_mtok) == ("0.140000000", None)
    assert row.first_seen_at is not None


def test_the_segment_of_a_killed_worker_is_adopted(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    path = spooled(tmp_path, make_exchange().record())
    path.rename(path.with_suffix(".open"))  # what kill -9 leaves: open by name, locked by nobody
    drain_all(engine, tmp_path)
    assert count(engine, "exchanges") == 1
    assert list(tmp_path.glob("w0*")) == []


def test_two_drains_of_one_spool_write_everything_once(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    for _ in range(10):
        spooled(tmp_path, *(make_exchange(task_id="t").record() for _ in range(20)))
    drains = [Drain(engine, tmp_path), Drain(engine, tmp_path)]
    threads = [threading.Thread(target=drain.finish) for drain in drains]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert count(engine, "exchanges") == 200
    assert histogram_total(engine) == 600
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT calls FROM quota_usage")) == 200
    assert sum(drain.exchanges for drain in drains) == 200


def test_what_another_drain_is_writing_at_this_moment_is_written_once(
    engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    first, second = make_exchange(), make_exchange()
    spooled(tmp_path, first.record(), second.record())
    drain = Drain(engine, tmp_path)
    thread = threading.Thread(target=drain.step)
    with engine.begin() as connection:
        batch.write(connection, [carried(first)])
        thread.start()
        deadline = time.monotonic() + 60
        while not connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    thread.join()
    assert (drain.exchanges, drain.quarantined, count(engine, "exchanges")) == (1, 0, 2)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT sum(calls) FROM call_sums")) == 2


def test_the_drain_process_waits_for_a_database_that_is_down_then_writes_everything_once(
    tmp_path: Path, make_exchange: MakeExchange
) -> None:
    data_dir, spool_dir = tmp_path / "data", tmp_path / "spool"
    url = embedded.start(data_dir)
    try:
        migrate.upgrade(url)
        environment = os.environ | {"SPARKGATE_DATABASE_URL": url}
        command = [sys.executable, "-m", "gateway.ledger.drain", "--spool", str(spool_dir)]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            spooled(spool_dir, *(make_exchange().record() for _ in range(5)))
            _wait(lambda: not segments.ready(spool_dir))
            embedded.stop(data_dir)
            for _ in range(3):
                spooled(spool_dir, *(make_exchange().record() for _ in range(7)))
            time.sleep(1)  # several attempts fail
            assert len(segments.ready(spool_dir)) == 3
            embedded.start(data_dir)
            _wait(lambda: not segments.ready(spool_dir))
            spooled(spool_dir, make_exchange().record())
            process.send_signal(signal.SIGTERM)
            _, printed = process.communicate(timeout=30)
        assert process.returncode == 0
        assert printed.count("cannot be written") == 1
        assert printed.count("takes records again") == 1
        engine = create_engine(url)
        assert count(engine, "exchanges") == 5 + 21 + 1
        assert histogram_total(engine) == 3 * 27
        engine.dispose()
    finally:
        embedded.stop(data_dir)


def test_kill_9_of_the_drain_loses_and_repeats_nothing(
    clean_database_url: str, engine: Engine, tmp_path: Path, make_exchange: MakeExchange
) -> None:
    command = [sys.executable, "-m", "gateway.ledger.drain", "--spool", str(tmp_path)]
    command += ["--database-url", clean_database_url]
    spool = Spool(tmp_path, "w0", 100 * MIB, segment_bytes=50_000)
    for _ in range(3):
        for _ in range(2000):
            spool.append(make_exchange().record())
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            _wait_for_more_than(count(engine, "exchanges"), engine)
            process.kill()
    spool.close()
    drain_all(engine, tmp_path)
    assert count(engine, "exchanges") == count(engine, "attempts") == 6000
    assert histogram_total(engine) == 3 * 6000


def test_once_drains_and_exits(clean_database_url: str, tmp_path: Path, make_exchange: MakeExchange) -> None:
    spooled(tmp_path, make_exchange().record())
    command = [sys.executable, "-m", "gateway.ledger.drain", "--spool", str(tmp_path), "--once"]
    done = subprocess.run(
        [*command, "--database-url", clean_database_url], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert "1 exchanges written, 0 lines quarantined" in done.stderr


def test_once_fails_when_the_database_is_down_and_keeps_the_segment(
    tmp_path: Path, make_exchange: MakeExchange
) -> None:
    spooled(tmp_path, make_exchange().record())
    command = [sys.executable, "-m", "gateway.ledger.drain", "--spool", str(tmp_path), "--once"]
    done = subprocess.run(
        [*command, "--database-url", "postgresql://nobody:secret@127.0.0.1:1/none"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "records wait" in done.stderr
    assert "secret" not in done.stderr
    assert len(segments.ready(tmp_path)) == 1


def _wait_for_more_than(before: int, engine: Engine) -> None:
    _wait(lambda: count(engine, "exchanges") > before)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "gave up waiting"
        time.sleep(0.05)
