"""The database role that may only read: as what the dashboard connects to Postgres.

In: the URL of its owner, and a password where the server asks for one. Out: the URL of `sparkgate_reader`, made when
it is not there yet, with the right to read all tables and views but those that could tell which messages were sent.
"""

from __future__ import annotations

import psycopg
from sqlalchemy import Connection, make_url, text

from gateway.ledger import tables
from gateway.ledger.database import create_engine

ROLE = "sparkgate_reader"
UNSEEN = (tables.task_salt.name, tables.task_prefixes.name)
_LOCK = 0x5BA2C6A84
_MADE = f"""DO $$ BEGIN
  CREATE ROLE {ROLE} LOGIN;
  ALTER ROLE {ROLE} SET default_transaction_read_only = on;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$"""
_SEEN = """SELECT string_agg(quote_ident(relname), ', ') FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') AND NOT relispartition
      AND relname <> ALL(:unseen)"""


def reader_url(owner_url: str, password: str | None = None) -> str:
    """Gives the right anew each time, as migrations add tables. None leaves the role's password as it is.

    Raises OperationalError when no database answers, ProgrammingError when the owner may not make roles.
    """
    engine = create_engine(owner_url, application="sparkgate reader role", pool_size=1)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            connection.execute(text(_MADE))
            if password is not None:
                _set_password(connection, password)
            seen = connection.scalar(text(_SEEN), {"unseen": list(UNSEEN)})
            if seen:
                connection.execute(text(f"GRANT SELECT ON {seen} TO {ROLE}"))
    finally:
        engine.dispose()
    return make_url(owner_url).set(username=ROLE, password=password).render_as_string(hide_password=False)


def _set_password(connection: Connection, password: str) -> None:
    """What is sent is its SCRAM verifier: a server that logs statements does not log the password."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    verifier = driver.pgconn.encrypt_password(password.encode(), ROLE.encode(), b"scram-sha-256").decode()
    connection.exec_driver_sql(f"ALTER ROLE {ROLE} PASSWORD '{verifier}'")
