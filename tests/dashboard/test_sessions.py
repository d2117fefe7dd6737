"""Who may look, for how long, and how often a wrong key may be tried."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from dashboard.database import LedgerUnavailable
from dashboard.sessions import (
    CONFIRMED_EVERY_S,
    LASTS_S,
    WITHIN_S,
    WRONG_KEYS,
    Known,
    Refused,
    Sessions,
    TriedTooOften,
    digest,
)
from gateway.callers import keys

KEYS = {"sg-admin": Known("ann", "admin"), "sg-reader": Known("bob", "read"), "sg-app": Known("app", "call")}
HERE, ELSEWHERE = "10.0.0.1", "10.0.0.2"


class Ledger:
    """Knows `KEYS`, until it forgets or goes away."""

    def __init__(self) -> None:
        self.known = {digest(key): known for key, known in KEYS.items()}
        self.asked, self.is_away = 0, False

    def find(self, key_digest: str) -> Known | None:
        self.asked += 1
        if self.is_away:
            raise LedgerUnavailable("away", "come back")
        return self.known.get(key_digest)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(ledger: Ledger, clock: Clock) -> Sessions:
    return Sessions(ledger.find, clock)


def test_keys_are_recognised_as_the_gateway_stores_them() -> None:
    for key in ("sg-admin", "grüße\udc80", ""):
        assert digest(key) == keys.digest(key)


def test_a_session_knows_its_reader_and_ends(sessions: Sessions, clock: Clock) -> None:
    token = sessions.open("sg-admin", HERE)
    reader = sessions.find(token)
    assert reader is not None
    assert (reader.name, reader.may_edit, reader.key) == ("ann", True, "sg-admin")
    assert "sg-admin" not in repr(reader) + token
    clock.now += LASTS_S
    assert sessions.find(token) is None
    other = sessions.open("sg-reader", HERE)
    assert [it.may_edit for it in [sessions.find(other)] if it] == [False]
    sessions.end(other)
    assert [sessions.find(it) for it in (other, None, "", "made up")] == [None] * 4


def test_a_key_for_calls_only_opens_nothing(sessions: Sessions) -> None:
    with pytest.raises(Refused, match="scope call"):
        sessions.open("sg-app", HERE)


def test_wrong_keys_are_held_back_by_address_for_a_while(
    sessions: Sessions, ledger: Ledger, clock: Clock
) -> None:
    for _ in range(WRONG_KEYS):
        with pytest.raises(Refused, match="unknown, expired or revoked"):
            sessions.open("sg-guess", HERE)
        clock.now += 2
    asked = ledger.asked
    with pytest.raises(TriedTooOften) as refused:
        sessions.open("sg-admin", HERE)  # not even the right one
    assert refused.value.wait_s == WITHIN_S - 2 * WRONG_KEYS
    assert ledger.asked == asked
    assert sessions.find(sessions.open("sg-admin", ELSEWHERE)) is not None
    clock.now += refused.value.wait_s
    assert sessions.find(sessions.open("sg-admin", HERE)) is not None


def test_keys_tried_at_once_are_counted_before_the_ledger_answers() -> None:
    asked = 0

    def slow(_: str) -> None:
        nonlocal asked
        asked += 1
        with suppress(Refused):
            door.open("sg-guess", HERE)  # while the first is still looked up

    door = Sessions(slow)
    with pytest.raises(Refused):
        door.open("sg-guess", HERE)
    assert asked == WRONG_KEYS


@pytest.mark.parametrize(
    "change",
    [
        lambda known: known.clear(),
        lambda known: known.update({digest("sg-admin"): Known("ann", "call")}),
    ],
    ids=["revoked", "of another scope"],
)
def test_a_key_that_no_longer_stands_ends_its_session(
    sessions: Sessions, ledger: Ledger, clock: Clock, change: Callable[[dict[str, Known]], None]
) -> None:
    token = sessions.open("sg-admin", HERE)
    change(ledger.known)
    assert sessions.confirm(token) is not None  # asked a moment ago
    clock.now += CONFIRMED_EVERY_S + 1
    assert sessions.confirm(token) is None
    assert sessions.find(token) is None


def test_a_ledger_that_is_away_ends_no_session_and_opens_none(
    sessions: Sessions, ledger: Ledger, clock: Clock
) -> None:
    token = sessions.open("sg-admin", HERE)
    ledger.is_away = True
    clock.now += CONFIRMED_EVERY_S + 1
    assert sessions.confirm(token) is not None
    with pytest.raises(LedgerUnavailable):
        sessions.open("sg-admin", HERE)
    ledger.is_away = False
    assert sessions.confirm(token) is not None
