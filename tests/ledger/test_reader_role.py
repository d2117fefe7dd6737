"""The dashboard's role reads the ledger and writes nothing of it, whatever it sets."""

from __future__ import annotations

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from gateway.ledger.database import create_engine
from gateway.ledger.reader_role import ROLE, UNSEEN, reader_url
from gateway.ledger.tables import metadata


def may(connection: Connection, statement: str) -> bool:
    """Whether the rights suffice; what else is wrong is raised."""
    try:
        with connection.begin_nested():
            connection.execute(text(statement))
    except DBAPIError as error:
        if type(error.orig).__name__ != "InsufficientPrivilege":
            raise
        return False
    return True


def test_it_reads_what_there_is_and_writes_nothing(clean_database_url: str) -> None:
    assert f"//{ROLE}@" in reader_url(clean_database_url)
    owner = create_engine(clean_database_url)
    with owner.begin() as connection:
        connection.execute(text("CREATE VIEW of_a_later_version AS SELECT 1 AS x"))
    owner.dispose()
    reader = create_engine(reader_url(clean_database_url))  # as the next start does
    with reader.connect() as connection:
        assert connection.scalar(text("SHOW default_transaction_read_only")) == "on"
        connection.rollback()
        connection.execute(text("SET default_transaction_read_only = off"))
        connection.commit()
        for name in [*metadata.tables, "of_a_later_version"]:
            assert may(connection, f'SELECT * FROM "{name}"') == (name not in UNSEEN), name
        for name in metadata.tables:
            assert not may(connection, f'DELETE FROM "{name}"'), name
        assert not may(connection, "INSERT INTO policies SELECT * FROM policies")
        assert not may(connection, "CREATE TABLE mine (x int)")
        assert not may(connection, "SELECT pg_read_file('PG_VERSION')")
    reader.dispose()


def test_a_password_is_set_changed_and_left_alone_and_reaches_the_server_as_its_verifier(
    clean_database_url: str,
) -> None:
    owner = create_engine(clean_database_url)

    def verifier() -> str:
        with owner.connect() as connection:
            stored = text("SELECT rolpassword FROM pg_authid WHERE rolname = :role")
            return str(connection.scalar(stored, {"role": ROLE}))

    assert f"//{ROLE}:quo%27te@" in reader_url(clean_database_url, "quo'te")
    first = verifier()
    assert first.startswith("SCRAM-SHA-256$")
    reader_url(clean_database_url)
    assert verifier() == first
    reader_url(clean_database_url, "another")
    assert verifier() != first
    owner.dispose()
