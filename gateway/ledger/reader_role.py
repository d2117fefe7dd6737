"""The database role that may only read: as what the dashboard connects to the embedded Postgres.

In: the URL of its owner. Out: that of `sparkgate_reader`, made when it is not there yet, with the right to read all
tables and views but those that could tell which messages were sent. On a Postgres of yours you make such a role
(docs/dashboard.md).
"""

from __future__ import annotations

from sqlalchemy import make_url, text

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


def reader_url(owner_url: str) -> str:
    """Gives the right anew each time, as migrations add tables. Raises OperationalError when no database answers."""
    engine = create_engine(owner_url, application="sparkgate reader role", pool_size=1)
    try:
        with engine.begin() as connection:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            connection.execute(text(_MADE))
            seen = connection.scalar(text(_SEEN), {"unseen": list(UNSEEN)})
            if seen:
                connection.execute(text(f"GRANT SELECT ON {seen} TO {ROLE}"))
    finally:
        engine.dispose()
    return make_url(owner_url).set(username=ROLE).render_as_string(hide_password=False)
