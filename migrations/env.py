"""Alembic's environment: where the tables are defined, and which connection to use.

In: `config.attributes["connection"]` (see `gateway.ledger.migrate`), or SPARKGATE_DATABASE_URL when alembic's
own command is run. Partitions come and go by day, so they are no part of any revision and are not compared.
"""

from __future__ import annotations

import os
import re
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine

from gateway.ledger.tables import metadata

_PARTITION = re.compile(r"(exchanges|attempts)_(default|\d{8})")


def include_name(name: str | None, type_: str, _parents: Any) -> bool:
    return type_ != "table" or name is None or _PARTITION.fullmatch(name) is None


def include_object(_thing: Any, name: str | None, type_: str, _reflected: bool, _other: Any) -> bool:
    return include_name(name, type_, None)


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_name=include_name,
        include_object=include_object,
        compare_server_default=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def connect_and_run() -> None:
    url = os.environ.get("SPARKGATE_DATABASE_URL")
    if not url:
        raise CommandError("set SPARKGATE_DATABASE_URL, or use: sparkgate db upgrade")
    engine = create_engine(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url))
    with engine.begin() as connection:
        run(connection)
    engine.dispose()


if context.is_offline_mode():
    raise CommandError("offline mode (--sql) is not supported; revisions look at the database")
given = context.config.attributes.get("connection")
if given is None:
    connect_and_run()
else:
    run(given)
