"""The ledger's database for every test that needs one: a real Postgres 18, migrated once, copied cheaply.

`database_url` is shared by a session's tests; `clean_database_url` is a test's own, made from a migrated
template. `postgres` is the server: an object that makes databases.
"""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
from sqlalchemy import make_url

from gateway.ledger import embedded, migrate

# Properties are about values: how long a busy machine takes for an example is no failure.
# Each run draws the same examples; `--hypothesis-profile untimed` draws others every time.
_untimed = hypothesis.settings(deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.register_profile("untimed", _untimed)
hypothesis.settings.register_profile("repeatable", _untimed, derandomize=True)
hypothesis.settings.load_profile("repeatable")
# Of torch, here or in an engine that a test starts: two threads that wait for one another while other tests have the
# cores take half as long again as one, and a thread that waits leaves its core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
_TEMPLATE = "migrated"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: of two processes that share the files, neither waits long for the other."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_collection() -> None:
    gc.disable()


def pytest_collection_finish() -> None:
    """What the libraries brought stays: to look through it at each collection of garbage takes half a second."""
    gc.enable()
    gc.collect()
    gc.freeze()


class PostgresServer:
    """A running embedded Postgres with a migrated template database."""

    def __init__(self, data_dir: Path, url: str) -> None:
        self.data_dir, self.url = data_dir, url
        self._numbers = itertools.count(1)
        self._run("ALTER SYSTEM SET fsync = off")  # nothing here must survive a power loss
        self._run("SELECT pg_reload_conf()")
        self._run(f"CREATE DATABASE {_TEMPLATE}")
        migrate.upgrade(self.url_of(_TEMPLATE))

    def url_of(self, database: str) -> str:
        return make_url(self.url).set(database=database).render_as_string(hide_password=False)

    def create(self, *, migrated: bool = True, encoding: str | None = None) -> str:
        """The URL of a new database; one in another `encoding` than UTF8 can only be without tables."""
        name = f"test_{next(self._numbers)}"
        how = f"ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C'" if encoding else "STRATEGY file_copy"
        self._run(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE if migrated else 'template0'} {how}")
        return self.url_of(name)

    def drop(self, url: str) -> None:
        self._run(f"DROP DATABASE IF EXISTS {make_url(url).database} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        where = make_url(self.url).query
        with psycopg.connect(
            host=str(where["host"]),
            port=int(str(where["port"])),
            user="postgres",
            dbname="postgres",
            autocommit=True,
        ) as connection:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    data_dir = Path(tempfile.mkdtemp(prefix="sparkgate-test-"))
    with embedded.running(data_dir) as url:
        yield PostgresServer(data_dir, url)
    shutil.rmtree(data_dir)


@pytest.fixture(scope="session")
def database_url(postgres: PostgresServer) -> str:
    """A migrated database that the session's tests share."""
    return postgres.create()


@pytest.fixture
def clean_database_url(postgres: PostgresServer) -> Iterator[str]:
    """A migrated, empty database of the test's own."""
    url = postgres.create()
    yield url
    postgres.drop(url)
