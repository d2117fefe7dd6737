"""`ResponseHomes`: which target keeps which response, and whose it is.

In: ids of responses as targets give them. Out: the target to ask, for the caller whose response it is and nobody
else. A worker remembers its newest ones; any other it looks up in the ledger, while it may be on its way there.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Collection

from gateway.ledger.errors import DatabaseAway
from gateway.ledger.response_homes import Home, HomeLedger
from gateway.wire.errors import LedgerAway, NoTarget

MAX_RESPONSES = 50_000  # about 10 MB
LAG_S = 1.5  # a record is in the database a second after it was written
LOOK_EVERY_S = 0.25
RETRY_S = 1.0
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_=+:~.-]{0,511}")  # fit for a path and for an index


class ResponseHomes:
    def __init__(
        self, keepers: Collection[str], ledger: HomeLedger | None = None, max_responses: int = MAX_RESPONSES
    ) -> None:
        """`keepers`: the targets that keep responses. Without a ledger this worker's own are all there are."""
        self._keepers, self._ledger, self._max_responses = frozenset(keepers), ledger, max_responses
        self._homes: OrderedDict[str, Home] = OrderedDict()

    @property
    def has_keepers(self) -> bool:
        return bool(self._keepers)

    def keep(self, response_id: str, target: str, caller: str) -> None:
        """Takes note of a response, here and in the ledger; telling it again costs a look."""
        home = Home(target, caller)
        if self._homes.get(response_id) == home or not _ID.fullmatch(response_id):
            return
        self._remember(response_id, home)
        if self._ledger is not None:
            self._ledger.write(response_id, home)

    def of(self, response_id: str, caller: str) -> str | None:
        """The target, if this worker remembers it as the caller's."""
        home = self._homes.get(response_id)
        return home.target if home is not None and home.caller == caller else None

    async def find(self, response_id: str, caller: str) -> str | None:
        """The target; None = this caller has no such response. Remembers what it finds.

        Raises `LedgerAway` where that cannot be known now, and `NoTarget` for a target that is no more.
        """
        home = self._homes.get(response_id) or await self._look_up(response_id)
        if home is None or home.caller != caller:
            return None
        if home.target not in self._keepers:
            raise NoTarget(f"target '{home.target}', which keeps '{response_id}', is not in use")
        return home.target

    async def _look_up(self, response_id: str) -> Home | None:
        if self._ledger is None or not _ID.fullmatch(response_id):
            return None
        asked_at, end = time.time(), time.monotonic() + LAG_S
        try:
            while True:
                home = await self._ledger.read(response_id)
                if home is not None:
                    self._remember(response_id, home)
                    return home
                if time.monotonic() >= end:
                    break
                await asyncio.sleep(LOOK_EVERY_S)
        except DatabaseAway as away:
            raise _cannot_tell(response_id, str(away)) from away
        if await self._ledger.is_behind(asked_at):
            raise _cannot_tell(response_id, "not all records are in the database yet")
        return None

    def _remember(self, response_id: str, home: Home) -> None:
        self._homes[response_id] = home
        self._homes.move_to_end(response_id)
        if len(self._homes) > self._max_responses:
            self._homes.popitem(last=False)


def _cannot_tell(response_id: str, why: str) -> LedgerAway:
    message = f"the gateway cannot tell now where '{response_id}' is: {why}"
    return LedgerAway(message, retry_after_s=RETRY_S)


NO_HOMES = ResponseHomes(())
