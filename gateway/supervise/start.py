"""The order in which the parts are brought up, for `up` and for `gateway`.

In: a `Start` (plan, board, supervisor, listening socket). Out: running parts and the message that says how
to call them. What can go on side by side does: the engine loads while Postgres starts. Stops nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config.variables import API_KEY_VARIABLE
from gateway.supervise import parts
from gateway.supervise.answering import answers
from gateway.supervise.backoff import delay_s
from gateway.supervise.banner import FirstKey, ready_text
from gateway.supervise.keeper import Keeper
from gateway.supervise.options import Plan
from gateway.supervise.status import Board
from gateway.supervise.supervisor import Supervisor
from gateway.supervise.waiting import first_of

if TYPE_CHECKING:  # slow to import: `gateway` asks the database when its workers are up, or have failed
    from gateway.supervise.postgres import PostgresKeeper

DATABASE = "database"  # not a process: its tables and the first key
ASK_AFTER_S = 3.0  # that workers are not up by then may be the database's fault, which should be said
KNOWN_AFTER_S = 5.0  # workers look for new keys more often than that


@dataclass(frozen=True, slots=True)
class Start:
    """One start of a data directory. `began` is monotonic seconds."""

    plan: Plan
    board: Board
    supervisor: Supervisor
    listening: socket.socket
    began: float

    @property
    def port(self) -> int:
        return int(self.listening.getsockname()[1])

    @property
    def gateway_url(self) -> str:
        return parts.local_url(self.plan.deployment.host, self.port)


async def bring_up(start: Start) -> None:
    """Postgres, tables, key, engine, gateway, drain, dashboard."""
    from gateway.ledger.database import with_driver
    from gateway.supervise.first_key import make_ready

    plan, supervisor = start.plan, start.supervisor
    postgres = _own_postgres(start) if plan.deployment.database_url == "embedded" else None
    engine = supervisor.keep(parts.engine_part(plan)) if plan.starts_engine else None
    database_url = with_driver(plan.deployment.database_url if postgres is None else await postgres.first_url)
    key = await _ask_database(start, database_url, make_ready)
    workers = _workers(start)
    supervisor.keep(parts.drain_part(plan, database_url))
    for worker in workers:
        await worker.was_ready.wait()
    dashboard_url = None
    if plan.starts_dashboard:
        told = await asyncio.to_thread(parts.dashboard_env, plan, database_url, start.gateway_url)
        dashboard = parts.dashboard_part(plan, told)
        supervisor.keep(dashboard)
        dashboard_url = dashboard.address
    if engine is not None:
        await engine.was_tried.wait()
    _announce(start, key, dashboard_url, engine)


async def bring_up_gateway(start: Start) -> None:
    """The workers and their drain, on a database that others run and migrate. Calls are served as soon as can be."""
    workers = _workers(start)
    for worker in workers:
        await first_of(worker.was_tried.wait(), timeout_s=ASK_AFTER_S)
    from gateway.ledger.database import resolve_url
    from gateway.supervise.first_key import first_key

    database_url = resolve_url(start.plan.deployment.database_url, start.plan.data_dir)
    key = await _ask_database(start, database_url, first_key)
    start.supervisor.keep(parts.drain_part(start.plan, database_url))
    for worker in workers:
        await worker.was_ready.wait()
    await _until_known(start, key)
    _announce(start, key, None, None)


def _own_postgres(start: Start) -> PostgresKeeper:
    from gateway.supervise.postgres import PostgresKeeper

    keeper = PostgresKeeper(start.plan.data_dir, start.board)
    start.supervisor.add(parts.POSTGRES, keeper)
    return keeper


async def _ask_database(
    start: Start, database_url: str, ask: Callable[[str, str | None, Path], Awaitable[FirstKey]]
) -> FirstKey:
    """`ask` until the database answers: one of yours may be later than we are."""
    from sqlalchemy.exc import OperationalError

    from gateway.ledger.database import redact

    board, began, failures = start.board, time.monotonic(), 0
    key_file = start.plan.data_dir / "run" / "first_key"
    board.show(DATABASE, "starting", "tables and first key")
    while True:
        try:
            key = await ask(database_url, os.environ.get(API_KEY_VARIABLE), key_file)
        except OperationalError as error:
            failures += 1
            reason = str(error.orig).strip().partition("\n")[0]
            board.show(
                DATABASE, "restarting", f"{redact(database_url)}: {reason}; again in {delay_s(failures):g} s"
            )
            await asyncio.sleep(delay_s(failures))
            continue
        board.show(DATABASE, "ready", f"{time.monotonic() - began:.1f} s")
        return key


def _workers(start: Start) -> list[Keeper]:
    described = parts.gateway_parts(start.plan, start.listening.fileno(), start.port)
    return [start.supervisor.keep(part) for part in described]


async def _until_known(start: Start, key: FirstKey) -> None:
    """Workers that were there before a key was made learn of it a little later."""
    known = key.key or os.environ.get(API_KEY_VARIABLE)
    deadline = time.monotonic() + KNOWN_AFTER_S
    while known and time.monotonic() < deadline:
        if await answers(f"{start.gateway_url}/v1/models", {"Authorization": f"Bearer {known}"}):
            return
        await asyncio.sleep(0.1)


def _announce(start: Start, key: FirstKey, dashboard_url: str | None, engine: Keeper | None) -> None:
    notes = [f"target {name} is disabled: {reason}" for name, reason in start.plan.disabled.items()]
    if engine is not None and not engine.was_ready.is_set():
        notes.append("the engine did not start yet; it is being tried again, see above")
    took_s = time.monotonic() - start.began
    start.board.say(ready_text(start.gateway_url, key, dashboard_url, took_s, notes))
