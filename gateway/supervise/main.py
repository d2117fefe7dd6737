"""`up` and `gateway`: check everything, bring the parts up, watch them, stop them in order.

In: `Options`. Out: an exit code: 0 stopped as asked, 1 a part could not be started. What else could stand in
the way is looked at before the first process starts, and raises: both files (ConfigError), packages
(PartMissing), the lock of the data directory (AlreadyRunning), every port (PortTaken).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gateway.supervise import parts
from gateway.supervise.lock import DataDirLock
from gateway.supervise.options import Options, Plan, make_plan
from gateway.supervise.orphans import end_orphans
from gateway.supervise.ports import PortTaken, check_free, listen
from gateway.supervise.start import Start, bring_up, bring_up_gateway
from gateway.supervise.status import Board
from gateway.supervise.supervisor import Supervisor
from gateway.supervise.waiting import first_of

EXIT_STOPPED, EXIT_FAILED = 0, 1
_ORPHAN_GRACE_S = 5.0
BringUp = Callable[[Start], Awaitable[None]]


def up(options: Options) -> int:
    """Everything on this machine, until SIGINT or SIGTERM."""
    return _run(options, bring_up)


def gateway(options: Options) -> int:
    """Only the gateway's workers and their drain, for machines where the other parts run elsewhere."""
    return _run(replace(options, engine=False, dashboard=False), bring_up_gateway)


def _run(options: Options, bring: BringUp) -> int:
    plan = make_plan(options, os.environ)
    parts.check_installed(plan)
    _make_folders(plan.data_dir)
    with DataDirLock(plan.data_dir / "run" / "up.lock"):
        return asyncio.run(_supervise(plan, bring))


async def _supervise(plan: Plan, bring: BringUp) -> int:
    began = time.monotonic()
    stop, hurry, renew = asyncio.Event(), asyncio.Event(), asyncio.Event()
    _heed_signals(stop, hurry, renew)
    record = plan.data_dir / "run" / "parts.json"
    ended = await asyncio.to_thread(end_orphans, record, _ORPHAN_GRACE_S)
    with Board(Console()) as board:
        if ended:
            board.say(f"ended what an earlier start had left running: {', '.join(ended)}")
        _forget_metrics(plan.data_dir)
        listening = _claim_ports(plan)
        async with Supervisor(board, record, plan.data_dir / "logs", hurry) as supervisor:
            start = Start(plan, board, supervisor, listening, began)
            try:
                await first_of(_stay_up(start, bring, renew), stop.wait(), _until_given_up(start))
            finally:
                delay_s = plan.deployment.shutdown_delay_s if stop.is_set() else 0.0
                await _stop_in_order(supervisor, listening, delay_s, hurry)
    return EXIT_STOPPED if stop.is_set() else EXIT_FAILED


async def _stay_up(start: Start, bring: BringUp, renew: asyncio.Event) -> None:
    await bring(start)
    while True:
        await renew.wait()
        renew.clear()
        await start.supervisor.renew([*_gateways(start.supervisor), "drain"])


async def _until_given_up(start: Start) -> None:
    name = await start.supervisor.first_given_up()
    start.board.say(
        f"{name} cannot be started, so everything is stopped again. See {start.plan.data_dir / 'logs'}."
    )


def _gateways(supervisor: Supervisor) -> list[str]:
    return [name for name in supervisor.names if name.startswith("gateway")]


async def _stop_in_order(
    supervisor: Supervisor, listening: socket.socket, delay_s: float, hurry: asyncio.Event
) -> None:
    """What others need goes later: an engine still serves the gateway's last streams, Postgres the drain."""
    gateways = _gateways(supervisor)
    if delay_s:
        supervisor.tell(gateways, signal.SIGUSR1)
        await first_of(hurry.wait(), timeout_s=delay_s)
    stopping = asyncio.create_task(supervisor.stop(gateways))
    await asyncio.sleep(0)  # they are told: none is started again with the socket closed below
    listening.close()  # or new connections would wait in it for workers that are leaving
    await stopping
    await supervisor.stop(["drain"])
    await supervisor.stop(["dashboard", "engine"])
    await supervisor.stop([parts.POSTGRES])


def _heed_signals(stop: asyncio.Event, hurry: asyncio.Event, renew: asyncio.Event) -> None:
    """The first signal stops, a second one cuts the grace short. SIGHUP renews the gateway's processes one after the
    other, but stops where it says that the terminal has gone."""

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(signum, on_signal)
    loop.add_signal_handler(signal.SIGHUP, on_signal if _has_terminal() else renew.set)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _claim_ports(plan: Plan) -> socket.socket:
    """The gateway's listening socket, once every port we need is known to be free."""
    deployment, loopback = plan.deployment, "127.0.0.1"
    wanted = [(deployment.host, deployment.port, "--port")]
    if plan.starts_engine:
        wanted.append((loopback, deployment.engine_port, "--engine-port"))
    if plan.starts_dashboard:
        wanted.append((loopback, deployment.dashboard_port, "--dashboard-port"))
    refusals = []
    for host, port, option in wanted:
        try:
            check_free(host, port, option)
        except PortTaken as taken:
            refusals.append(str(taken))
    if refusals:
        raise PortTaken("\n".join(refusals))
    return listen(deployment.host, deployment.port, "--port")


def _make_folders(data_dir: Path) -> None:
    """The data directory can be entered by others, as Postgres runs as another user when we are root; what is
    private in it is private by itself."""
    for folder in (data_dir, data_dir / "logs"):
        folder.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    for folder in (data_dir / "run", data_dir / "spool"):
        folder.mkdir(mode=0o700, exist_ok=True)


def _forget_metrics(data_dir: Path) -> None:
    """The workers' counters live in files by pid; those of an earlier start would be counted again."""
    shutil.rmtree(data_dir / "run" / "metrics", ignore_errors=True)
