"""The life of API keys in a real Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.callers.keys import KeyRing
from gateway.callers.store import (
    KeyRefused,
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
