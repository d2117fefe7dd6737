"""The life of API keys in a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.callers.keys import Key, KeyLimits, KeyRing
from gateway.callers.store import (
    KeyRefused,
    Terms,
    UnknownKey,
    change_key,
    create_key,
    ensure_first_key,
    list_keys,
    load_ring,
    revoke_key,
)
from gateway.ledger.database import create_async_engine

Result = TypeVar("Result")


class Database:
    """Runs an action in a transaction of its own."""

    def __init__(self, url: str) -> None:
        self._url = url

    def run(self, action: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        return asyncio.run(self._run(action))

    async def _run(self, action: Callable[[AsyncConnection], Awaitable[Result]]) -> Result:
        engine = create_async_engine(self._url)
        try:
            async with engine.begin() as conn:
                return await action(conn)
        finally:
            await engine.dispose()

    def ring(self) -> KeyRing:
        return self.run(load_ring)

    def key(self, plain: str) -> Key:
        found = self.ring().find(None, plain)
        assert found is not None
        return found

    def names(self) -> list[str]:
        return [key.name for key in self.run(list_keys)]


@pytest.fixture
def database(clean_database_url: str) -> Database:
    return Database(clean_database_url)


def test_a_created_key_is_in_force_until_it_is_revoked(database: Database) -> None:
    stored, plain = database.run(lambda conn: create_key(conn, "app", "read"))
    found = database.ring().find(f"Bearer {plain}")
    assert found is not None
    assert (found.id, found.name, found.prefix, found.scope) == (stored.id, "app", plain[:7], "read")
    assert stored.revoked_at is None

    revoked = database.run(lambda conn: revoke_key(conn, "app"))
    assert revoked.revoked_at is not None
    assert database.ring().find(f"Bearer {plain}") is None
    assert database.run(list_keys) == [revoked]


def test_the_plain_text_is_nowhere_in_the_database(database: Database) -> None:
    _, plain = database.run(lambda conn: create_key(conn, "app"))
    rows = database.run(lambda conn: conn.execute(text("SELECT api_keys::text FROM api_keys")))
    assert plain not in str(rows.all())


def test_a_name_is_never_given_twice(database: Database) -> None:
    database.run(lambda conn: create_key(conn, "app"))
    with pytest.raises(KeyRefused, match="the name 'app' is taken"):
        database.run(lambda conn: create_key(conn, "app"))
    database.run(lambda conn: revoke_key(conn, "app"))
    with pytest.raises(KeyRefused, match="was used by a key that is revoked"):
        database.run(lambda conn: create_key(conn, "app"))


def test_a_key_is_never_stored_twice(database: Database) -> None:
    database.run(lambda conn: create_key(conn, "one", key="given-by-hand"))
    with pytest.raises(KeyRefused, match="stored already"):
        database.run(lambda conn: create_key(conn, "two", key="given-by-hand"))


def test_a_key_has_the_terms_it_was_made_with_until_they_are_changed(database: Database) -> None:
    ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    made: Terms = {
        "allowed_models": ["gpt-*", "auto"],
        "rpm": 60,
        "tpm": 100_000,
        "parallel": 4,
        "daily_usd": Decimal("0.000000001"),
        "monthly_usd": Decimal("25.5"),
        "expires_at": ends,
        "tags": ["team-a"],
    }
    stored, plain = database.run(lambda conn: create_key(conn, "app", terms=made))
    assert stored.terms == made
    key = database.key(plain)
    assert key.limits == KeyLimits(("gpt-*", "auto"), 60, 100_000, 4, 1, 25_500_000_000)
    assert (key.tags, key.expires_at) == (("team-a",), ends.timestamp())

    changes: Terms = {"rpm": 5, "tpm": None, "allowed_models": []}
    assert database.run(lambda conn: change_key(conn, "app", changes)).terms == made | changes
    assert database.key(plain).limits == KeyLimits((), 5, None, 4, 1, 25_500_000_000)
    assert database.run(lambda conn: change_key(conn, "app", {})).terms == made | changes


def test_an_expired_key_is_not_in_force(database: Database) -> None:
    past: Terms = {"expires_at": datetime.now(UTC) - timedelta(seconds=1)}
    _, plain = database.run(lambda conn: create_key(conn, "app", terms=past))
    assert database.ring().find(None, plain) is None
    database.run(lambda conn: change_key(conn, "app", {"expires_at": None}))
    assert database.ring().find(None, plain) is not None


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"rpm": 0}, "rpm should be above 0"),
        ({"tpm": -1}, "tpm should be above 0"),
        ({"parallel": 10**9 + 1}, "parallel should be above 0 and at most"),
        ({"daily_usd": Decimal(0)}, "daily_usd should be above 0"),
        ({"allowed_models": ["a", " "]}, "allowed_models: ' ' should be 1 to 200"),
        ({"tags": ["a\0b"]}, "tags: .* printable"),
        ({"tags": ["a"] * 101}, "tags should have at most 100 entries"),
    ],
)
def test_terms_that_make_no_sense_are_refused(database: Database, terms: Any, message: str) -> None:
    with pytest.raises(KeyRefused, match=message):
        database.run(lambda conn: create_key(conn, "app", terms=terms))
    database.run(lambda conn: create_key(conn, "app"))
    with pytest.raises(KeyRefused, match=message):
        database.run(lambda conn: change_key(conn, "app", terms))


def test_only_a_key_in_force_can_be_changed(database: Database) -> None:
    with pytest.raises(UnknownKey, match="no key is called 'app'"):
        database.run(lambda conn: change_key(conn, "app", {"rpm": 1}))
    database.run(lambda conn: create_key(conn, "app"))
    database.run(lambda conn: revoke_key(conn, "app"))
    with pytest.raises(KeyRefused, match="revoked already"):
        database.run(lambda conn: change_key(conn, "app", {"rpm": 1}))


@pytest.mark.parametrize("name", ["", " ", " app", "a\nb", "x" * 101])
def test_unfit_names_are_refused(database: Database, name: str) -> None:
    with pytest.raises(KeyRefused, match="1 to 100 printable characters"):
        database.run(lambda conn: create_key(conn, name))


def test_only_a_key_in_force_can_be_revoked(database: Database) -> None:
    with pytest.raises(KeyRefused, match="no key is called 'app'"):
        database.run(lambda conn: revoke_key(conn, "app"))
    database.run(lambda conn: create_key(conn, "app"))
    database.run(lambda conn: revoke_key(conn, "app"))
    with pytest.raises(KeyRefused, match="revoked already"):
        database.run(lambda conn: revoke_key(conn, "app"))


def test_the_first_start_makes_one_admin_key(database: Database) -> None:
    plain = database.run(lambda conn: ensure_first_key(conn, None))
    found = database.ring().find(f"Bearer {plain}")
    assert found is not None
    assert (found.name, found.scope) == ("first", "admin")
    assert database.run(lambda conn: ensure_first_key(conn, None)) is None
    assert database.names() == ["first"]


def test_a_revoked_first_key_is_not_made_again(database: Database) -> None:
    database.run(lambda conn: ensure_first_key(conn, None))
    database.run(lambda conn: revoke_key(conn, "first"))
    assert database.run(lambda conn: ensure_first_key(conn, None)) is None


def test_a_wanted_key_is_stored_once(database: Database) -> None:
    for _ in range(3):
        assert database.run(lambda conn: ensure_first_key(conn, "sg-from-env")) == "sg-from-env"
    assert database.names() == ["first"]
    found = database.ring().find(None, "sg-from-env")
    assert found is not None
    assert found.scope == "admin"


def test_a_wanted_key_is_stored_beside_others(database: Database) -> None:
    database.run(lambda conn: ensure_first_key(conn, None))
    database.run(lambda conn: ensure_first_key(conn, "sg-from-env"))
    assert database.ring().find("Bearer sg-from-env") is not None
    assert len(database.names()) == 2


@pytest.mark.parametrize("wanted", ["short", "with a space in it", "ünïcode-key"])
def test_an_unfit_wanted_key_is_refused_without_showing_it(database: Database, wanted: str) -> None:
    with pytest.raises(KeyRefused) as caught:
        database.run(lambda conn: ensure_first_key(conn, wanted))
    assert wanted not in str(caught.value)
    assert database.names() == []


def test_a_wanted_key_that_was_revoked_is_refused(database: Database) -> None:
    database.run(lambda conn: ensure_first_key(conn, "sg-from-env"))
    database.run(lambda conn: revoke_key(conn, "first"))
    with pytest.raises(KeyRefused, match="'first', which is revoked"):
        database.run(lambda conn: ensure_first_key(conn, "sg-from-env"))


def test_two_first_starts_at_once_make_one_key(clean_database_url: str) -> None:
    database = Database(clean_database_url)

    async def start_both() -> Sequence[str | None]:
        engine = create_async_engine(clean_database_url)

        async def start() -> str | None:
            async with engine.begin() as conn:
                return await ensure_first_key(conn, None)

        try:
            return await asyncio.gather(start(), start(), start())
        finally:
            await engine.dispose()

    made = [plain for plain in asyncio.run(start_both()) if plain is not None]
    assert len(made) == 1
    assert database.ring().find(f"Bearer {made[0]}") is not None
