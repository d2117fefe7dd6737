"""Tasks: what each has cost and how it ended, and their sums; written in the batch's own transaction.

In: a connection, records and outcomes that are new in the ledger, in any order. Out: rows of `tasks`, and the
differences that they make in `task_sums` and `task_costs`. A task's status is its newest outcome; without one the
verdict on the call that ended last (see `dispatch.verdicts`); where there is none either it is open, until it was
silent for too long. Only tasks that have calls count in sums.

Most calls are a task of their own and end it. Such a task has no row: its exchange says it all, and a row is made of it
when another call joins or an outcome is reported.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, text

from gateway.ledger import tables
from gateway.ledger.inserts import adding, insert
from gateway.ledger.records import nusd, request_id, usd
from gateway.ledger.rollups import SPAN_S, Workflows

Row = dict[str, Any]
Key = tuple[str, str]  # caller, task id
OPEN_FOR_S = 3600.0  # until an open task is abandoned, where its record does not say
SWEEP = 5000  # tasks at once
REUNITED_WITHIN = timedelta(days=1)
_REQUEST_ID = re.compile("req_[0-9a-f]{32}")
_NEVER = datetime(1, 1, 1, tzinfo=UTC)

_COLUMNS = (
    *(
        "caller",
        "task_id",
        "workflow",
        "counted_as",
        "first_seen_at",
        "last_at",
        "shape",
        "target",
        "verdict",
    ),
    *("outcome", "score", "outcome_at", "status", "silent_until", "calls", "attempts", "input_tokens"),
    *("output_tokens", "unpriced", "cost_usd", "spent"),
)
_NAMES = ", ".join(_COLUMNS)
_ASKED = "unnest(CAST(:callers AS text[]), CAST(:ids AS text[])) AS asked (caller, task_id)"
# a limit, so that each is looked up by its key, however many tasks there are
_THERE = f"""
SELECT asked.caller, asked.task_id FROM {_ASKED}, LATERAL (
    SELECT FROM tasks WHERE tasks.caller = asked.caller AND tasks.task_id = asked.task_id LIMIT 1
) AS task
"""
_HELD = f"""
SELECT {_NAMES} FROM tasks JOIN {_ASKED} USING (caller, task_id)
ORDER BY caller, task_id FOR UPDATE OF tasks
"""
_SILENT = f"""
SELECT {_NAMES} FROM tasks WHERE status = 'open' AND silent_until < :now
ORDER BY silent_until LIMIT :limit FOR UPDATE SKIP LOCKED
"""
_GIVEN = "json_populate_recordset(NULL::tasks, CAST(:rows AS json))"
_INSERT = f"INSERT INTO tasks ({_NAMES}) SELECT {_NAMES} FROM {_GIVEN} ON CONFLICT DO NOTHING"
_UPDATE = f"""
UPDATE tasks SET {", ".join(f"{name} = given.{name}" for name in _COLUMNS[2:])}
FROM {_GIVEN} AS given WHERE tasks.caller = given.caller AND tasks.task_id = given.task_id
"""
_EARLY_OUTCOMES = """
SELECT caller, task_id FROM tasks WHERE calls = 0 AND task_id LIKE 'req\\_%' AND last_at > :after
ORDER BY caller, task_id LIMIT :limit
"""
_TASK_OF_CALL = """
SELECT caller, id::text, task_id FROM exchanges WHERE id = ANY (CAST(:ids AS uuid[])) AND task_id IS NOT NULL
"""
_MOVE_OUTCOMES = """
UPDATE outcomes SET task_id = call.task_id FROM exchanges call
WHERE call.id = ANY (CAST(:ids AS uuid[])) AND outcomes.caller = call.caller
AND outcomes.task_id = 'req_' || replace(call.id::text, '-', '') AND call.task_id <> outcomes.task_id
RETURNING outcomes.caller, 'req_' || replace(call.id::text, '-', ''), to_jsonb(outcomes)
"""
_DROP = f"""
DELETE FROM tasks USING {_ASKED}
WHERE tasks.caller = asked.caller AND tasks.task_id = asked.task_id AND calls = 0
"""
_LONE_CALLS = """
SELECT caller, task_id, id::text, jsonb_build_object('started_at', started_at, 'total_s', total_s, 'shape', shape,
    'target', target, 'workflow', workflow, 'verdict', verdict, 'input_tokens', input_tokens,
    'output_tokens', output_tokens), (
        SELECT coalesce(jsonb_agg(jsonb_build_object('target', target, 'cost_usd', cost_usd::text)
            ORDER BY ordinal), '[]')
        FROM attempts WHERE exchange_id = call.id AND role IS NULL
        AND attempts.id >= uuid_floor(call.started_at - interval '1 hour')
        AND attempts.id < uuid_floor(call.started_at + interval '2 days')
    )
FROM exchanges call
WHERE id = ANY (CAST(:ids AS uuid[])) AND verdict IS NOT NULL AND task_id = 'req_' || replace(id::text, '-', '')
"""


@dataclass(slots=True)
class Task:
    """A row of `tasks`, money in nano-dollars."""

    caller: str
    task_id: str
    workflow: str | None = None
    counted_as: str = ""
    first_seen_at: datetime = _NEVER
    last_at: datetime = _NEVER
    shape: str | None = None
    target: str | None = None
    verdict: str | None = None
    outcome: str | None = None
    score: float | None = None
    outcome_at: datetime | None = None
    status: str = "open"
    silent_until: datetime | None = None
    calls: int = 0
    attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    unpriced: int = 0
    cost_nusd: int = 0
    spent: dict[str, list[int]] = field(default_factory=dict)  # by target: attempts, nano-dollars, unpriced

    @property
    def key(self) -> Key:
        return self.caller, self.task_id

    def add_call(self, record: Row) -> None:
        row, attempts = record["exchange"], record["attempts"]
        began = moment(row["started_at"])
        ended = began + timedelta(seconds=row["total_s"])
        if not self.calls or began < self.first_seen_at:
            self.first_seen_at, self.shape = began, row.get("shape")
            self.target = attempts[0]["target"] if attempts else row.get("target")
        if not self.calls or ended >= self.last_at:
            self.last_at, self.verdict = ended, row.get("verdict")
            self.silent_until = ended + timedelta(seconds=record.get("open_for_s") or OPEN_FOR_S)
        self.workflow = self.workflow or row.get("workflow")
        self.calls += 1
        self.attempts += len(attempts)
        self.input_tokens += row.get("input_tokens") or 0
        self.output_tokens += row.get("output_tokens") or 0
        for attempt in attempts:
            cost = nusd(attempt.get("cost_usd"))
            self.cost_nusd, self.unpriced = self.cost_nusd + (cost or 0), self.unpriced + (cost is None)
            _plus(self.spent, attempt["target"], (1, cost or 0, int(cost is None)))

    def add_outcome(self, row: Row) -> None:
        at = moment(row["reported_at"])
        if self.outcome_at is None or at >= self.outcome_at:
            self.outcome, self.score, self.outcome_at = row["status"], row.get("score"), at
        if not self.calls:
            self.first_seen_at = min(at, self.first_seen_at) if self.first_seen_at > _NEVER else at
            self.last_at = max(at, self.last_at)
        self.workflow = self.workflow or row.get("workflow")

    def settle(self, workflows: Workflows) -> None:
        """After what was added."""
        self.status = self.outcome or self.verdict or "open"
        if self.workflow and not self.counted_as:
            hour = self.first_seen_at.astimezone(UTC).isoformat()[:13]
            self.counted_as = workflows.named(hour, self.workflow)

    def row(self) -> Row:
        return {name: getattr(self, name) for name in _COLUMNS if name != "cost_usd"} | {
            "cost_usd": usd(self.cost_nusd)
        }


class _Sums:
    """Differences of the two tables of sums."""

    def __init__(self) -> None:
        self._tasks: dict[tuple[Any, ...], list[int]] = {}
        self._costs: dict[tuple[Any, ...], list[int]] = {}

    def count(self, task: Task, sign: int = 1) -> None:
        """-1 takes out what it counted as."""
        if not task.calls:
            return
        at = task.first_seen_at.replace(second=0, microsecond=0)
        key = (at, task.counted_as, task.shape or "", task.target or "", task.status)
        _plus(self._tasks, key, (1, task.calls, task.attempts, task.cost_nusd, task.unpriced), sign)
        for target, spent in task.spent.items():
            _plus(self._costs, (at, task.counted_as, task.status, target), spent, sign)

    def write(self, connection: Connection) -> None:
        for table, sums in ((tables.task_sums, self._tasks), (tables.task_costs, self._costs)):
            names = [str(column.name) for column in table.columns]
            rows = [
                dict(zip(names, (key[0], SPAN_S, *key[1:], *sums[key]), strict=True))
                for key in sorted(sums)
                if any(sums[key])
            ]
            for row in rows:
                row["cost_usd"] = usd(row["cost_usd"])
            insert(connection, table, rows, adding(table))


def write(
    connection: Connection, records: Iterable[Row], outcomes: Iterable[Row], workflows: Workflows
) -> None:
    """Books exchanges (every one has its `task_id`) and outcomes."""
    said = _Said(records, outcomes, workflows)
    lone = said.lone_calls(connection)
    sums = _write_rows(connection, said, sorted(said.keys - {task.key for task in lone}))
    for task in lone:
        sums.count(task)
    sums.write(connection)


class _Said:
    """What a batch says of tasks, each in the order of time."""

    def __init__(self, records: Iterable[Row], outcomes: Iterable[Row], workflows: Workflows) -> None:
        self._workflows = workflows
        self._calls: defaultdict[Key, list[Row]] = defaultdict(list)
        self._ends: defaultdict[Key, list[Row]] = defaultdict(list)
        for record in sorted(records, key=lambda record: str(record["exchange"]["started_at"])):
            self._calls[record["exchange"]["caller"], record["exchange"]["task_id"]].append(record)
        for row in sorted(outcomes, key=lambda row: (moment(row["reported_at"]), row["id"])):
            self._ends[row["caller"], row["task_id"]].append(row)

    @property
    def keys(self) -> set[Key]:
        return {*self._calls, *self._ends}

    @property
    def calls(self) -> Iterable[Row]:
        return (record["exchange"] for records in self._calls.values() for record in records)

    def lone_calls(self, connection: Connection) -> list[Task]:
        """Tasks that need no row and have none, as nothing but one call is known of them."""
        alone = [
            key
            for key, (record, *others) in self._calls.items()
            if not others
            and record["exchange"].get("verdict") is not None
            and key[1] == request_id(record["exchange"]["id"])
            and key not in self._ends
        ]
        there = _there(connection, alone)
        tasks = (self.told(Task(*key)) for key in alone if key not in there)
        return [task for task in tasks if task.counted_as == (task.workflow or "")]

    def told(self, task: Task, first: Row | None = None) -> Task:
        """The task with all that this batch says, after its `first` call, which had no row until now."""
        if first is not None:
            task.add_call(first)
            task.counted_as = task.workflow or ""
        for record in self._calls.get(task.key, ()):
            task.add_call(record)
        for row in self._ends.get(task.key, ()):
            task.add_outcome(row)
        task.settle(self._workflows)
        return task


def _write_rows(connection: Connection, said: _Said, keys: Sequence[Key]) -> _Sums:
    """Changes and makes rows. Returns what that makes of the sums.

    No deadlocks: all writers lock what is there, then make what lacks, each in one order, and change rows when they
    have them all. Where another drain was quicker to make one, all is done anew: its lock would come too late.
    """
    while keys:
        with connection.begin_nested() as savepoint:
            sums = _Sums()
            held = _held(connection, keys)
            with_calls = {task.key for task in held if task.calls}
            firsts = _lone_calls(connection, [key for key in keys if key not in with_calls], said)
            for task in held:
                sums.count(task, -1)
                _uncount(sums, task.key, firsts)
                sums.count(said.told(task, firsts.get(task.key)))
            there = {task.key for task in held}
            made = [said.told(Task(*key), firsts.get(key)) for key in keys if key not in there]
            for task in made:
                _uncount(sums, task.key, firsts)
                sums.count(task)
            if _insert(connection, made) == len(made):
                _update(connection, held)
                return sums
            savepoint.rollback()
    return _Sums()


def _uncount(sums: _Sums, key: Key, firsts: Mapping[Key, Row]) -> None:
    """A call that was a task without a row."""
    if key in firsts:
        task = Task(*key)
        task.add_call(firsts[key])
        task.counted_as, task.status = task.workflow or "", task.verdict or ""
        sums.count(task, -1)


def name(connection: Connection, outcomes: Iterable[Row]) -> None:
    """An outcome may name a task by the request id of any of its calls."""
    by_call = [row for row in outcomes if _REQUEST_ID.fullmatch(row["task_id"])]
    if not by_call:
        return
    found = connection.execute(text(_TASK_OF_CALL), {"ids": [row["task_id"][4:] for row in by_call]})
    tasks = {(caller, request_id(exchange)): task_id for caller, exchange, task_id in found.all()}
    for row in by_call:
        row["task_id"] = tasks.get((row["caller"], row["task_id"]), row["task_id"])


def reunite(connection: Connection, now: datetime, workflows: Workflows) -> None:
    """Outcomes that came before the call they name: by now it may be a task's, or one that had no row."""
    after = {"after": now - REUNITED_WITHIN, "limit": SWEEP}
    keys = [(row[0], row[1]) for row in connection.execute(text(_EARLY_OUTCOMES), after).all()]
    said = _Said((), _moved(connection, keys), workflows)
    found = _lone_calls(connection, keys, said)
    _write_rows(connection, said, sorted(said.keys | found.keys())).write(connection)


def _moved(connection: Connection, keys: Iterable[Key]) -> list[Row]:
    """Outcomes whose calls belong to other tasks than they are reported for, given to these."""
    ids = [task_id[4:] for _, task_id in keys if _REQUEST_ID.fullmatch(task_id)]
    found = connection.execute(text(_MOVE_OUTCOMES), {"ids": ids}).all() if ids else []
    if found:
        connection.execute(text(_DROP), _asked({(caller, task_id) for caller, task_id, _ in found}))
    return [row for _, _, row in found]


def abandon_silent(connection: Connection, now: datetime) -> int:
    """Marks open tasks that were silent for too long, at most `SWEEP` of them. Returns how many."""
    found = connection.execute(text(_SILENT), {"now": now, "limit": SWEEP}).all()
    tasks = sorted(map(_task, found), key=lambda task: task.key)
    sums = _Sums()
    for task in tasks:
        sums.count(task, -1)
        task.status = "abandoned"
        sums.count(task)
    _update(connection, tasks)
    sums.write(connection)
    return len(tasks)


def _plus(sums: dict[Any, list[int]], key: Any, values: Sequence[int], sign: int = 1) -> None:
    held = sums.get(key)
    if held is None:
        sums[key] = [sign * value for value in values]
    else:
        for i, value in enumerate(values):
            held[i] += sign * value


def moment(iso: str) -> datetime:
    found = datetime.fromisoformat(iso)
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _task(row: Sequence[Any]) -> Task:
    values = dict(zip(_COLUMNS, row, strict=True))
    return Task(cost_nusd=int(values.pop("cost_usd").scaleb(9)), **values)


def _asked(keys: Collection[Key]) -> dict[str, list[str]]:
    return {"callers": [caller for caller, _ in keys], "ids": [task_id for _, task_id in keys]}


def _there(connection: Connection, keys: Sequence[Key]) -> set[Key]:
    """Those that have a row."""
    found = connection.execute(text(_THERE), _asked(keys)).all() if keys else ()
    return {(row[0], row[1]) for row in found}


def _held(connection: Connection, keys: Sequence[Key]) -> list[Task]:
    return [*map(_task, connection.execute(text(_HELD), _asked(keys)).all())]


def _lone_calls(connection: Connection, keys: Iterable[Key], said: _Said) -> dict[Key, Row]:
    """Of these tasks, the calls of earlier batches that were one without a row."""
    ids = {task_id[4:] for _, task_id in keys if _REQUEST_ID.fullmatch(task_id)}
    ids -= {row["id"].replace("-", "") for row in said.calls}
    if not ids:
        return {}
    wanted, found = set(keys), connection.execute(text(_LONE_CALLS), {"ids": sorted(ids)}).all()
    return {
        (caller, task_id): {"exchange": {**row, "id": key}, "attempts": attempts}
        for caller, task_id, key, row, attempts in found
        if (caller, task_id) in wanted
    }


def _insert(connection: Connection, tasks: Sequence[Task]) -> int:
    """Those that lack. Returns how many did."""
    return connection.execute(text(_INSERT), {"rows": _json(tasks)}).rowcount if tasks else 0


def _update(connection: Connection, tasks: Sequence[Task]) -> None:
    if tasks:
        connection.execute(text(_UPDATE), {"rows": _json(tasks)})


def _json(tasks: Iterable[Task]) -> str:
    return orjson.dumps([task.row() for task in tasks]).decode()
