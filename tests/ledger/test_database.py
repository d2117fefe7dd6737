"""URLs in every usual form, wrong ones explained, and never a password in sight."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.ledger.database import create_async_engine, create_engine, redact, resolve_url, with_driver
from gateway.ledger.errors import DatabaseUrlError
from tests.conftest import PostgresServer


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_usual_scheme_gets_our_driver(scheme: str, tmp_path: Path) -> None:
    url = resolve_url(f"{scheme}://me:p%40ss@db.example:5433/ledger?sslmode=require", tmp_path)
    assert url == "postgresql+psycopg://me:p%40ss@db.example:5433/ledger?sslmode=require"


@pytest.mark.parametrize(
    "url", ["mysql://me:secret@h/d", "sqlite:///secret.db", "postgresql+asyncpg://me:secret@h/d"]
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(DatabaseUrlError, match="not Postgres") as refused:
        with_driver(url)
    assert ":secret@" not in str(refused.value)


@pytest.mark.parametrize("url", ["", "localhost", "postgres://me:secret@host:port/d"])
def test_an_unreadable_url_is_explained_without_showing_it(url: str) -> None:
    with pytest.raises(DatabaseUrlError, match="cannot be read") as refused:
        with_driver(url)
    assert "secret" not in str(refused.value)


def test_the_embedded_database_must_run(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUrlError, match="sparkgate up"):
        resolve_url("embedded", tmp_path)


def test_the_embedded_database_is_found_by_its_data_directory(postgres: PostgresServer) -> None:
    assert resolve_url("embedded", postgres.data_dir) == postgres.url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@h:5432/d", "postgresql://me:***@h:5432/d"),
        ("postgresql://h/d?password=secret&user=me", "postgresql://h/d?password=%2A%2A%2A&user=me"),
        ("postgresql://me@h/d", "postgresql://me@h/d"),
        ("not a url: secret", "<unreadable URL>"),
    ],
)
def test_redact_hides_passwords(url: str, shown: str) -> None:
    assert redact(url) == shown


def test_engines_connect_under_their_name(database_url: str) -> None:
    engine = create_engine(database_url, application="sparkgate test")
    with engine.connect() as connection:
        assert connection.scalar(text("SHOW application_name")) == "sparkgate test"
    engine.dispose()

    async def ask() -> object:
        other = create_async_engine(database_url, application="sparkgate test 2")
        async with other.connect() as connection:
            name = await connection.scalar(text("SHOW application_name"))
        await other.dispose()
        return name

    assert asyncio.run(ask()) == "sparkgate test 2"
