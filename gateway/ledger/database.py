"""Connections to the ledger's Postgres: which URL, and engines with small pools.

In: `database_url` of the deployment. Out: SQLAlchemy engines on psycopg 3. Knows nothing of tables.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import sqlalchemy
from sqlalchemy import URL, Connection, Engine, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext import asyncio as sqlalchemy_async
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.ledger import embedded
from gateway.ledger.errors import DatabaseUrlError

DRIVER = "postgresql+psycopg"


def resolve_url(database_url: str, data_dir: Path) -> str:
    """The URL to connect to. `embedded` must be running already."""
    if database_url != "embedded":
        return with_driver(database_url)
    url = embedded.running_url(data_dir)
    if url is None:
        raise DatabaseUrlError(
            f"database_url is 'embedded', but no Postgres runs in {data_dir.resolve()}. "
            "Start it with: sparkgate up"
        )
    return url


def with_driver(database_url: str) -> str:
    """`postgres://` and `postgresql://` in the form that names our driver."""
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):  # neither shown: a broken URL may still hold a password
        raise DatabaseUrlError(
            "database_url cannot be read; write 'embedded' or postgresql://user:password@host:port/database "
            "(with %-escapes for special characters in the password)"
        ) from None
    if url.drivername not in ("postgres", "postgresql", DRIVER):
        raise DatabaseUrlError(
            f"database_url {redact(database_url)} is not Postgres; write 'embedded' or postgresql://…"
        )
    return url.set(drivername=DRIVER).render_as_string(hide_password=False)


def redact(url: str) -> str:
    """The URL with its password hidden, for logs and messages."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "<unreadable URL>"
    if "password" in parsed.query:
        parsed = parsed.update_query_dict({"password": "***"})
    return parsed.render_as_string(hide_password=True)


def create_engine(url: str, *, application: str = "sparkgate", pool_size: int = 2) -> Engine:
    return sqlalchemy.create_engine(_parsed(url), **_options(application, pool_size))


def create_async_engine(url: str, *, application: str = "sparkgate", pool_size: int = 4) -> AsyncEngine:
    return sqlalchemy_async.create_async_engine(_parsed(url), **_options(application, pool_size))


def check_encoding(connection: Connection) -> None:
    """Raises DatabaseUrlError for a database that refuses some of the characters that apps send."""
    query = "SELECT current_database(), current_setting('server_encoding')"
    name, encoding = connection.execute(text(query)).one()
    if encoding != "UTF8":
        raise DatabaseUrlError(
            f"the database {name} is encoded in {encoding}, which cannot hold all that apps send; name one in UTF8 "
            "in database_url: CREATE DATABASE … ENCODING 'UTF8' LOCALE 'C' TEMPLATE template0"
        )


def _parsed(url: str) -> URL:
    return make_url(with_driver(url))


def _options(application: str, pool_size: int) -> dict[str, Any]:
    return {
        "pool_size": pool_size,
        "max_overflow": pool_size,
        "pool_timeout": 10,
        "pool_pre_ping": True,
        "connect_args": {
            "application_name": application,
            "client_encoding": "utf8",  # of the connection, whatever the database's own: else names come as bytes
            "connect_timeout": 5,
            "tcp_user_timeout": 10_000,  # ms: a network that swallows packets is an error, not a wait of minutes
        },
        "json_serializer": lambda value: orjson.dumps(value).decode(),
        "json_deserializer": orjson.loads,
    }
