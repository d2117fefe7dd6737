"""The embedded Postgres under its keeper: started, adopted, started again after kill -9, stopped."""

from __future__ import annotations

import asyncio
import io
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from gateway.ledger import embedded, postmaster
from gateway.supervise.parts import POSTGRES
from gateway.supervise.postgres import PostgresKeeper
from gateway.supervise.status import Board
from gateway.supervise.supervisor import Supervisor
from tests.supervise.conftest import until


@pytest.fixture
def data_dir() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sparkgate-test-"))  # a short path, for the server's socket
    yield folder
    embedded.stop(folder)
    shutil.rmtree(folder)


def keep(data_dir: Path, board: Board, scene: Callable[[PostgresKeeper], Awaitable[None]]) -> None:
    async def with_keeper() -> None:
        record = data_dir / "parts.json"
        async with Supervisor(board, record, data_dir / "logs", asyncio.Event()) as supervisor:
            keeper = PostgresKeeper(data_dir, board)
            supervisor.add(POSTGRES, keeper)
            await scene(keeper)

    asyncio.run(with_keeper())


def answer(url: str) -> bool:
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def test_it_is_started_started_again_when_killed_and_stopped(
    data_dir: Path, board: Board, shown: io.StringIO
) -> None:
    async def scene(keeper: PostgresKeeper) -> None:
        url = await keeper.first_url
        assert answer(url)
        server = postmaster.find(data_dir / "pg")
        assert server is not None
        psutil.Process(server.pid).kill()
        await until(lambda: shown.getvalue().count("ready") == 2)
        assert embedded.running_url(data_dir) == url
        assert answer(url)

    keep(data_dir, board, scene)
    assert embedded.running_url(data_dir) is None
    assert "is gone; again in 0.5 s" in shown.getvalue()


def test_one_that_an_earlier_start_left_running_is_adopted(
    data_dir: Path, board: Board, shown: io.StringIO
) -> None:
    url = embedded.start(data_dir)

    async def scene(keeper: PostgresKeeper) -> None:
        assert await keeper.first_url == url

    keep(data_dir, board, scene)
    assert "was running already" in shown.getvalue()
    assert embedded.running_url(data_dir) is None


def test_one_that_cannot_be_started_is_given_up_with_its_reason(
    data_dir: Path, board: Board, shown: io.StringIO
) -> None:
    (data_dir / "pg").mkdir()

    async def scene(keeper: PostgresKeeper) -> None:
        await until(lambda: keeper.gave_up)

    keep(data_dir, board, scene)
    assert "is no Postgres data directory" in shown.getvalue()
