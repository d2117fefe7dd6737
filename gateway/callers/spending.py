"""`Spending`: what callers have spent today and this month (UTC), as far as one worker can know. No clock, no I/O.

In: what the database shows, and what this worker's own calls cost. Out: integer nano-dollars. Own costs count at
once, and until a snapshot shows them. To tell, they are gathered in batches that end with each snapshot; a worker's
records reach the database in order, so a batch is there once its last exchange is. Hence, with one drain:

- never too little by more than calls in flight and other workers' calls on their way to the database (about 3 s);
- at times too much, by what this worker spent in the last seconds: part of a batch may be in a snapshot already.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from uuid import UUID

DAY_S = 86_400
_MAX_BATCHES = 8  # a database that is away must not let them grow
_1970 = date(1970, 1, 1).toordinal()


def day_of(now: float) -> int:
    """The UTC day of a Unix second, counted from 1970."""
    return int(now // DAY_S)


def as_date(day: int) -> date:
    return date.fromordinal(_1970 + day)


def month_of(day: int) -> int:
    """The first day of its month."""
    return as_date(day).replace(day=1).toordinal() - _1970


@dataclass(slots=True)
class Spent:
    """Nano-dollars."""

    today: int = 0
    this_month: int = 0

    def as_json(self) -> dict[str, float]:
        """In dollars."""
        return {"spent_today_usd": self.today / 1e9, "spent_this_month_usd": self.this_month / 1e9}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the database shows on `day`: spending by caller, and which of the exchanges asked for are in it."""

    day: int
    spent: Mapping[str, Spent]
    found: Collection[UUID]


@dataclass(slots=True)
class _Batch:
    """Costs by caller and day of one stretch of time, and the exchange that was the last of it."""

    nusd: defaultdict[tuple[str, int], int] = field(default_factory=lambda: defaultdict(int))
    last: UUID | None = None


class Spending:
    """One worker's view; `snapshot` of `callers.usage` renews it."""

    def __init__(self) -> None:
        self._day = self._month = -1
        self._shown: Mapping[str, Spent] = {}
        self._batches = [_Batch()]  # the last one is being filled
        self._spent: dict[str, Spent] = {}  # all of it together

    def of(self, caller: str, now: float) -> Spent:
        """What the caller has spent by this Unix second."""
        day = day_of(now)
        if day != self._day:
            self._turn_to(day)
        return self._spent.get(caller) or Spent()

    def add(self, caller: str, nusd: int, day: int, exchange: UUID) -> None:
        """One call's cost. Called in the order in which exchanges are recorded."""
        batch = self._batches[-1]
        batch.nusd[caller, day] += nusd
        batch.last = exchange
        self._count(caller, nusd, day)

    def end_batch(self) -> list[UUID]:
        """The last exchanges of all batches, for the next snapshot to look for."""
        if self._batches[-1].last is not None:
            self._batches.append(_Batch())
        while len(self._batches) > _MAX_BATCHES:
            oldest = self._batches.pop(0)
            for key, nusd in oldest.nusd.items():
                self._batches[0].nusd[key] += nusd
        return [batch.last for batch in self._batches if batch.last is not None]

    def take(self, snapshot: Snapshot) -> None:
        """What the snapshot shows counts from now on, and no longer as this worker's own."""
        if snapshot.day != self._day:
            self._turn_to(snapshot.day)
        last_shown = max(
            (i for i, batch in enumerate(self._batches) if batch.last in snapshot.found), default=-1
        )
        del self._batches[: last_shown + 1]
        if not self._batches:
            self._batches.append(_Batch())
        self._shown = snapshot.spent
        self._sum_up()

    def _turn_to(self, day: int) -> None:
        """A new day begins with nothing spent, a new month too."""
        month = month_of(day)
        kept = self._shown if month == self._month else {}
        self._shown = {caller: Spent(0, spent.this_month) for caller, spent in kept.items()}
        self._day, self._month = day, month
        self._sum_up()

    def _sum_up(self) -> None:
        self._spent = {caller: replace(spent) for caller, spent in self._shown.items()}
        for batch in self._batches:
            for (caller, day), nusd in batch.nusd.items():
                self._count(caller, nusd, day)

    def _count(self, caller: str, nusd: int, day: int) -> None:
        spent = self._spent.get(caller)
        if spent is None:
            spent = self._spent[caller] = Spent()
        if day == self._day:
            spent.today += nusd
        if day >= self._month:
            spent.this_month += nusd
