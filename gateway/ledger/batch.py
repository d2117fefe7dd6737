"""One batch of spooled records into Postgres: idempotent, in the caller's transaction.

In: a connection and records (see `ledger.records`). Rows whose key is there already are left alone;
histograms and callers' usage count only exchanges that were really inserted, so a batch delivered twice changes
nothing. Knows no files.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Connection, Table, insert, text

from gateway.ledger import tables
from gateway.ledger.partitions import day_of, ensure_partitions
from gateway.ledger.records import usd, uuid7
from router.histogram import bucket

Row = dict[str, Any]
_DEFAULTED = {"first_seen_at"}  # of prices: filled by the database


@dataclass(frozen=True, slots=True)
class Written:
    """Rows really inserted."""

    exchanges: int
    attempts: int
    outcomes: int


def problem(record: Row) -> str | None:
    """Why a record cannot be written, as far as that shows without the database."""
    try:
        match record:
            case {"kind": "exchange", "exchange": dict(row), "attempts": list(attempts)}:
                for part in (row, *attempts):
                    day_of(UUID(part["id"]))
                _check_exchange(row)
                _used(attempts)
            case {"kind": "shadow", "attempt": dict(row)}:
                day_of(UUID(row["id"]))
                UUID(row["exchange_id"])
                _moment(row["started_at"])
            case {"kind": "outcome", "outcome": dict(row)}:
                UUID(row["id"])
                _moment(row["reported_at"])
                _check_text(row, "caller", "task_id")
            case {"kind": "price", "price": {"id": str()}}:
                pass
            case {"kind": "response_home", "response_home": dict(row)}:
                _moment(row["created_at"])
                _check_text(row, "id", "target", "caller")
            case _:
                return f"unknown kind of record: {record.get('kind')!r}"
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        return f"malformed record: {type(error).__name__}: {error}"
    return None


def _check_exchange(row: Row) -> None:
    _minute(row)
    _check_text(row, "caller")
    for _, seconds in _latencies(row):
        bucket(seconds)


def _check_text(row: Row, *keys: str) -> None:
    for key in keys:
        if not isinstance(row[key], str):
            raise TypeError(f"{key} is no text: {row[key]!r}")


def write(connection: Connection, records: Sequence[Row]) -> Written:
    """Write records that have no `problem`. Raises what the database raises; the caller commits."""
    by_id = {UUID(record["exchange"]["id"]): record for record in records if record["kind"] == "exchange"}
    exchanges = [record["exchange"] for record in by_id.values()]
    attempts = [row for record in by_id.values() for row in record["attempts"]]
    attempts += [record["attempt"] for record in records if record["kind"] == "shadow"]
    outcomes = [record["outcome"] for record in records if record["kind"] == "outcome"]
    prices = [record["price"] for record in records if record["kind"] == "price"]
    homes = [record["response_home"] for record in records if record["kind"] == "response_home"]
    ensure_partitions(connection, _days(exchanges, attempts))
    inserted = [by_id[key] for key in _insert(connection, tables.exchanges, exchanges)]
    inserted_attempts = _insert(connection, tables.attempts, attempts)
    _insert_tasks(connection, exchanges, outcomes)
    inserted_outcomes = _insert(connection, tables.outcomes, outcomes)
    _insert(connection, tables.prices, prices)
    _insert(connection, tables.response_homes, homes)
    _insert_histograms(connection, (record["exchange"] for record in inserted))
    _add_usage(connection, inserted)
    return Written(len(inserted), len(inserted_attempts), len(inserted_outcomes))


def _days(exchanges: Iterable[Row], attempts: Iterable[Row]) -> set[date]:
    return {day_of(UUID(row["id"])) for rows in (exchanges, attempts) for row in rows}


def _insert(connection: Connection, table: Table, rows: list[Row]) -> list[Any]:
    """Insert what is new; Postgres itself reads the values out of the JSON. Returns the keys inserted."""
    if not rows:
        return []
    columns = ", ".join(column.name for column in table.columns if column.name not in _DEFAULTED)
    rows = sorted(rows, key=lambda row: str(row["id"]))  # one order for all writers: no deadlocks
    statement = text(
        f"INSERT INTO {table.name} ({columns}) "
        f"SELECT {columns} FROM jsonb_populate_recordset(NULL::{table.name}, CAST(:rows AS jsonb)) "
        "ON CONFLICT DO NOTHING RETURNING id"
    )
    return list(connection.scalars(statement, {"rows": _json(rows)}))


def _insert_tasks(connection: Connection, exchanges: list[Row], outcomes: list[Row]) -> None:
    """A task is known from its first exchange or outcome, its workflow from the first that names one."""
    tasks: dict[tuple[str, str], Row] = {}
    seen = [(row, row["started_at"]) for row in exchanges if row.get("task_id") is not None]
    seen += [(row, row["reported_at"]) for row in outcomes]
    for row, at in sorted(seen, key=lambda pair: _moment(pair[1])):
        key = (row["caller"], row["task_id"])
        task = tasks.setdefault(
            key, {"caller": key[0], "task_id": key[1], "first_seen_at": at, "workflow": None}
        )
        task["workflow"] = task["workflow"] or row.get("workflow")
    if not tasks:
        return
    statement = text(
        "INSERT INTO tasks (caller, task_id, workflow, first_seen_at) "
        "SELECT caller, task_id, workflow, first_seen_at "
        "FROM jsonb_populate_recordset(NULL::tasks, CAST(:rows AS jsonb)) "
        "ON CONFLICT (caller, task_id) DO UPDATE SET "
        "workflow = coalesce(tasks.workflow, excluded.workflow), "
        "first_seen_at = least(tasks.first_seen_at, excluded.first_seen_at) "
        "WHERE (tasks.workflow IS NULL AND excluded.workflow IS NOT NULL) "
        "OR excluded.first_seen_at < tasks.first_seen_at"
    )
    connection.execute(statement, {"rows": _json([tasks[key] for key in sorted(tasks)])})


def _insert_histograms(connection: Connection, exchanges: Iterable[Row]) -> None:
    counts: defaultdict[tuple[datetime, str, str, str], Counter[int]] = defaultdict(Counter)
    for row in exchanges:
        if row.get("target") is None:
            continue
        for metric, seconds in _latencies(row):
            key = (_minute(row), row["target"], row.get("shape") or "general", metric)
            counts[key][bucket(seconds)] += 1
    batch_id = uuid7()
    rows = [
        {
            "batch_id": batch_id,
            "minute": minute,
            "target": target,
            "shape": shape,
            "metric": metric,
            "k": sorted(histogram),
            "n": [histogram[k] for k in sorted(histogram)],
        }
        for (minute, target, shape, metric), histogram in counts.items()
    ]
    if rows:
        connection.execute(insert(tables.latency_histograms), rows)


def _add_usage(connection: Connection, records: Iterable[Row]) -> None:
    """Adds what these exchanges used to their callers' days."""
    sums: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for record in records:
        exchange = record["exchange"]
        day = _moment(exchange["started_at"]).date().isoformat()
        sums[day, exchange["caller"]].update(_used(record["attempts"]))
    rows = [
        {"day": day, "caller": caller, "cost_usd": usd(used["cost_nusd"])} | used
        for (day, caller), used in sorted(sums.items())  # one order for all writers: no deadlocks
    ]
    columns = ("calls", "tokens", "cost_usd", "attempts_of_unknown_cost")
    statement = text(
        "INSERT INTO quota_usage SELECT * FROM jsonb_populate_recordset(NULL::quota_usage, CAST(:rows AS jsonb)) "
        "ON CONFLICT (day, caller) DO UPDATE SET "
        + ", ".join(f"{name} = quota_usage.{name} + excluded.{name}" for name in columns)
    )
    if rows:
        connection.execute(statement, {"rows": _json(rows)})


def _used(attempts: list[Row]) -> dict[str, int]:
    """What one exchange used, over all its attempts."""
    costs = [row.get("cost_usd") for row in attempts]
    return {
        "calls": 1,
        "tokens": sum((row.get("input_tokens") or 0) + (row.get("output_tokens") or 0) for row in attempts),
        "cost_nusd": sum(int(Decimal(cost).scaleb(9)) for cost in costs if cost is not None),
        "attempts_of_unknown_cost": costs.count(None),
    }


def _latencies(row: Row) -> Iterator[tuple[str, float]]:
    """(metric, seconds): first token and time per output token of streams, the whole of successes."""
    ttft_s, total_s, output_tokens = row.get("ttft_s"), row["total_s"], row.get("output_tokens")
    if row["stream"] and ttft_s is not None:
        yield "ttft_s", ttft_s
        if output_tokens is not None and output_tokens >= 2 and total_s > ttft_s:
            yield "tpot_s", (total_s - ttft_s) / (output_tokens - 1)
    if row["status"] == 200 and row.get("error_code") is None:
        yield "total_s", total_s


def _minute(row: Row) -> datetime:
    return _moment(row["started_at"]).replace(second=0, microsecond=0)


def _moment(iso: str) -> datetime:
    moment = datetime.fromisoformat(iso)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def _json(rows: list[Row]) -> str:
    """JSON text that Postgres takes: it has no character NUL."""
    encoded = orjson.dumps(rows)
    if b"\\u0000" in encoded:
        encoded = orjson.dumps(_without_nul(rows))
    return encoded.decode()


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    return [_without_nul(item) for item in value] if isinstance(value, list) else value
