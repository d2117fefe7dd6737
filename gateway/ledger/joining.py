"""Which task a call belongs to that named none: the task of the call that it goes on from.

In: exchanges' records, whose `thread` says in salted hashes how their messages begin (see `dispatch.threads`), and
the table `task_prefixes`. Out: a `task_id` in every exchange, and what to remember for those that follow. A call goes
on from another of the same caller when the other's messages are the start of its own, up to an answer of the model:

- Several conversations may begin alike, so a place that was gone on from is taken: the next one goes on from another,
  the newest first. What brings along the same answer as the one that took a place is a branch of its task.
- A call that went unanswered and is made again shortly after is a retry of its task.
- Workers' and gateways' records may come out of order: a call whose beginning is not there yet asks for it, and the
  beginning joins it when it comes.
- All else is a task of its own, named after its request id.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.ledger.records import request_id

Row = dict[str, Any]
OPEN, FAILED, TAKEN, WANTED, GONE = "open", "failed", "taken", "wanted", "gone"
CLOCKS_APART = timedelta(seconds=1)  # of gateways
RETRIED_WITHIN = timedelta(minutes=1)
KEPT = timedelta(hours=6)  # how long a conversation may pause
MOST = 32  # conversations that stand at the same place; older ones are forgotten

_READ = """
SELECT hash, task_id, at, state, answer FROM task_prefixes WHERE hash = ANY (string_to_array(:hashes, ','))
"""
_NOTE = """
INSERT INTO task_prefixes SELECT * FROM json_populate_recordset(NULL::task_prefixes, CAST(:rows AS json))
ON CONFLICT (hash, task_id) DO UPDATE SET at = excluded.at, state = excluded.state, answer = excluded.answer
"""
_DROP = """
DELETE FROM task_prefixes USING json_populate_recordset(NULL::task_prefixes, CAST(:rows AS json)) AS gone
WHERE task_prefixes.hash = gone.hash AND task_prefixes.task_id = gone.task_id
"""


@dataclass(slots=True)
class Place:
    """Where a conversation stands, by the hash of its messages so far: a row of `task_prefixes`.

    open: answered, and nothing goes on from it yet. failed: not answered to the end. taken: gone on from, with this
    answer. wanted: a call went on from it which is in the ledger before it. gone: to be forgotten.
    """

    hash: str
    task_id: str
    at: datetime  # end of its call; of one that is wanted, start of the call that wants it
    state: str
    answer: str | None = None


Places = defaultdict[str, list[Place]]  # by hash
Joined = dict[str, list[Place]]  # what to remember, by exchange id, in the order of time


async def salt(database: AsyncEngine) -> bytes:
    """Of the hashes, the same for all who write to this database."""
    async with database.connect() as connection:
        found: bytes = (await connection.execute(text("SELECT salt FROM task_salt"))).scalar_one()
    return found


def join(connection: Connection, records: Sequence[Row]) -> Joined:
    """Sets `task_id` in every exchange whose caller gave none."""
    seeking = [each for each in records if "thread" in each or each["exchange"].get("task_id") is None]
    places: Places = defaultdict(list)
    threads = [(record["exchange"], thread) for record in seeking if (thread := record.get("thread"))]
    _read(connection, places, {each for _, thread in threads for each in _nearest(thread)})
    unsure = (
        thread for row, thread in threads if thread["from"] and _found(places, thread["from"][0], row) is None
    )
    further = {before for thread in unsure for before, _ in thread["from"][1:]}
    _read(connection, places, further - places.keys())
    seeking.sort(key=lambda record: (record["exchange"]["started_at"], record["exchange"]["id"]))
    return {record["exchange"]["id"]: _join_one(record, places) for record in seeking}


def note(connection: Connection, joined: Joined, inserted: Collection[str]) -> None:
    """Remembers it of the exchanges that are new in the ledger."""
    changed = {
        (place.hash, place.task_id): place
        for key, places in joined.items()
        if key in inserted
        for place in places
    }
    in_order = [changed[key] for key in sorted(changed)]  # the same for all writers: no deadlocks
    for statement, places in (
        (_NOTE, [place for place in in_order if place.state != GONE]),
        (_DROP, [place for place in in_order if place.state == GONE]),
    ):
        if places:
            connection.execute(text(statement), {"rows": orjson.dumps(places).decode()})


def forget(connection: Connection, now: datetime) -> None:
    """What nobody will go on from any more."""
    connection.execute(text("DELETE FROM task_prefixes WHERE at < :before"), {"before": now - KEPT})


def check(thread: Row | None) -> None:
    """Raises `TypeError`, `ValueError` or `KeyError` for a thread that cannot be read."""
    if thread:
        hashes = [*thread["own"], *(part for before, through in thread["from"] for part in (before, through))]
        if not all(isinstance(each, str | None) for each in hashes):
            raise TypeError(f"a thread's hashes are no texts: {thread!r}")


def _nearest(thread: Row) -> Iterable[str]:
    """Where most calls are found: at their own place, or at the one before the model's last turn."""
    yield from thread["own"]
    yield from (before for before, _ in thread["from"][:1])


def _read(connection: Connection, places: Places, hashes: set[str]) -> None:
    if hashes:
        for row in connection.execute(text(_READ), {"hashes": ",".join(hashes)}).all():
            places[row[0]].append(Place(*row))


def _found(places: Places, level: Sequence[Any], row: Row) -> Place | None:
    """What a call goes on from at this level of its thread."""
    before, through = level
    return _gone_on_from(places[before], through, datetime.fromisoformat(row["started_at"]))


def _join_one(record: Row, places: Places) -> list[Place]:
    """Sets its task, changes `places` by it, and returns what of them is new or changed."""
    row, thread = record["exchange"], record.get("thread")
    own_name = request_id(row["id"])
    if not thread:
        row["task_id"] = own_name
        return []
    began = datetime.fromisoformat(row["started_at"])
    ended = began + timedelta(seconds=row["total_s"])
    changed: list[Place] = []
    answer: str | None = None  # that an earlier record brought to where this one stands
    for level in thread["from"]:
        if found := _found(places, level, row):
            if found.state != TAKEN:
                found.state, found.answer = TAKEN, level[1]
                changed.append(found)
            break
    else:
        found = _retried_or_wanted([place for each in thread["own"] for place in places[each]], began, ended)
        answer = found.answer if found else None
        for before, through in thread["from"] if found is None or found.state == WANTED else ():
            if all(place.state != WANTED for place in places[before]):  # else many calls begin so: examples
                changed.append(Place(before, found.task_id if found else own_name, began, WANTED, through))
    row["task_id"] = found.task_id if found else own_name
    state = TAKEN if answer else FAILED if row["status"] >= 400 or row.get("error_code") else OPEN
    changed += [Place(each, row["task_id"], ended, state, answer) for each in thread["own"]]
    for place in tuple(changed):
        there = [other for other in places[place.hash] if other.task_id != place.task_id] + [place]
        if len(there) > MOST:
            oldest = min(there, key=lambda place: place.at)
            there.remove(oldest)
            changed.append(replace(oldest, state=GONE))
        places[place.hash] = there
    return changed


def _gone_on_from(places: list[Place], through: str | None, began: datetime) -> Place | None:
    """The newest that is open, rather one that had ended by then; else the newest taken with the same answer."""
    there = [place for place in places if place.at <= began + CLOCKS_APART]
    free = [place for place in there if place.state in (OPEN, FAILED)]
    if free:
        return max(free, key=lambda place: (place.at <= began, place.at))
    taken = [p for p in there if p.state == TAKEN and (through is None or p.answer == through)]
    return max(taken, key=lambda place: place.at, default=None)


def _retried_or_wanted(own: list[Place], began: datetime, ended: datetime) -> Place | None:
    for place in own:
        if place.state == FAILED and began - RETRIED_WITHIN <= place.at <= began + CLOCKS_APART:
            return place
        if place.state == WANTED and ended <= place.at + CLOCKS_APART:
            return place
    return None
