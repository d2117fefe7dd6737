"""`Keeper`: keeps one part running: starts it, sees it ready, restarts it when it dies, ends it when told to.

In: a `Part`. Out: its state on the board, its pid in the child record, its output in its log. Each process
leads a session of its own, so Ctrl-C reaches only the supervisor. Knows no other part (see `supervisor`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping
from pathlib import Path

from gateway.config.variables import API_KEY_VARIABLE
from gateway.supervise import launch
from gateway.supervise.answering import answers
from gateway.supervise.backoff import delay_s, failures_in_a_row
from gateway.supervise.logs import PartLog
from gateway.supervise.orphans import ChildRecord, end_processes, session_members
from gateway.supervise.part import GIVE_UP_AFTER, SETTLED_S, Part
from gateway.supervise.status import Board
from gateway.supervise.waiting import first_of

_POLL_S = 0.1
_TAIL_LINES = 15
# Rich draws its progress bar into the log, narrow and plain; its newest state is shown on the board.
_DRAWS_PROGRESS = {"TTY_COMPATIBLE": "1", "NO_COLOR": "1", "COLUMNS": "72"}
_NOT_PASSED_ON = (API_KEY_VARIABLE,)  # the supervisor alone needs it


class Keeper:
    """One part's life. `run` is its task; it ends after `stop`, or when a needed part cannot be started."""

    def __init__(self, part: Part, board: Board, record: ChildRecord, log_folder: Path) -> None:
        self.part = part
        self.gave_up = False
        self.was_ready, self.was_tried = asyncio.Event(), asyncio.Event()  # tried: ready, or failed, once
        self._board, self._record = board, record
        self._log = PartLog(log_folder, part.name)
        self._stopping, self._hurrying = asyncio.Event(), asyncio.Event()
        self._renewing, self._renewed = asyncio.Event(), asyncio.Event()
        self._process: Process | None = None
        self._is_prepared = part.prepare is None
        self._lacks_another = False  # it ended for want of what another has to start
        self._shown_lines: list[str] = []  # of the log: the same failure is shown once
        board.show(part.name, "waiting")

    def stop(self) -> None:
        """SIGTERM, the part's grace, SIGKILL; the task ends when nothing of the part is left."""
        self._stopping.set()

    def hurry(self) -> None:
        """`stop` without grace, or what is left of it."""
        self._hurrying.set()
        self._stopping.set()

    def tell(self, signum: signal.Signals) -> None:
        """Sends the running process a signal, if there is one."""
        if self._process is not None and self._process.returncode is None:
            _send(self._process, signum)

    async def renew(self) -> bool:
        """Ends the process as `stop` does and starts another. Whether that was ready in time."""
        self._renewed.clear()
        self._renewing.set()
        within_s = self.part.stop_grace_s + self.part.start_timeout_s
        await first_of(self._renewed.wait(), self._stopping.wait(), timeout_s=within_s)
        return self._renewed.is_set()

    async def run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            self._renewing.clear()
            try:
                reason = await self._live_once()
            except OSError as error:  # a full disk takes no log, a full machine no process
                reason = f"cannot be started: {error}"
            if self._renewing.is_set():
                failures = 0
                continue
            failures = failures_in_a_row(failures, time.monotonic() - began)
            is_hopeless = failures >= GIVE_UP_AFTER and not self._lacks_another
            self.gave_up = self.part.needed and not self.was_ready.is_set() and is_hopeless
            self.was_tried.set()
            if self.gave_up and not self._stopping.is_set():
                self._board.show(self.part.name, "stopped", reason)
                return
            if not self._stopping.is_set():
                self._board.show(self.part.name, "restarting", f"{reason}; again in {delay_s(failures):g} s")
                await first_of(self._stopping.wait(), timeout_s=delay_s(failures))
        self._board.show(self.part.name, "stopped")
        self.was_tried.set()

    async def _live_once(self) -> str:
        """From start to end of one process; returns why it ended."""
        if not self._is_prepared and self.part.prepare is not None:
            self._board.show(self.part.name, "starting")
            process = await self._spawn(self.part.prepare, _DRAWS_PROGRESS)
            reason = await self._run_to_end(process, show_progress=True)
            self._is_prepared = reason == "exited with code 0"
            if not self._is_prepared:
                return self._failed_to_start(f"preparing it failed: it {reason}")
        began = time.monotonic()
        process = self._process = await self._spawn(self.part.argv)
        self._board.show(self.part.name, "starting", f"pid {process.pid}")
        if await self._becomes_ready(process, began + self.part.start_timeout_s):
            self.was_ready.set()
            self._renewed.set()
            detail = f"pid {process.pid}, {time.monotonic() - began:.1f} s"
            self._board.show(self.part.name, "ready", f"{detail}  {self.part.address}".rstrip())
            self.was_tried.set()
            return await self._run_to_end(process)
        if process.returncode is None and not self._stopping.is_set():
            await self._end(process)
            await self._run_to_end(process)
            return self._failed_to_start(f"was not ready within {self.part.start_timeout_s:g} s")
        return self._failed_to_start(await self._run_to_end(process))

    async def _spawn(self, argv: tuple[str, ...], env_too: Mapping[str, str] = {}) -> Process:
        env = {name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON}
        with self._log.open() as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), *argv),
                stdin=DEVNULL,
                stdout=output,
                stderr=output,
                env={**env, "PYTHONUNBUFFERED": "1", **self.part.env, **env_too},
                pass_fds=self.part.pass_fds,
                start_new_session=True,
            )
        self._record.add(self.part.name, process.pid)
        return process

    async def _becomes_ready(self, process: Process, deadline: float) -> bool:
        """False if it ends, or is told to, or `deadline` (monotonic) passes before."""
        settled_at = time.monotonic() + SETTLED_S
        while process.returncode is None and not self._stopping.is_set() and time.monotonic() < deadline:
            if self.part.ready_url is None:
                if time.monotonic() >= settled_at:
                    return True
            elif await answers(
                self.part.ready_url, says=f":{process.pid}}}" if self.part.ready_says_pid else ""
            ):
                return process.returncode is None
            await asyncio.sleep(_POLL_S)
        return False

    async def _run_to_end(self, process: Process, *, show_progress: bool = False) -> str:
        """Wait until `process` ends, or end it once the part is told to stop; returns how it ended."""
        while process.returncode is None and not self._stopping.is_set() and not self._renewing.is_set():
            ended = process.wait(), self._stopping.wait(), self._renewing.wait()
            await first_of(*ended, timeout_s=1.0 if show_progress else None)
            if show_progress:
                self._board.progress(self.part.name, "".join(self._log.last_lines(1)))
        if process.returncode is None:
            await self._end(process)
        code = await process.wait()
        self._lacks_another = code == os.EX_TEMPFAIL
        await asyncio.to_thread(end_processes, session_members(process.pid), 1.0)
        self._record.remove(self.part.name)
        return f"exited with code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"

    async def _end(self, process: Process) -> None:
        grace_s = self.part.stop_grace_s
        self._board.show(self.part.name, "stopping", f"up to {grace_s:g} s")
        _send(process, signal.SIGTERM)
        await first_of(process.wait(), self._hurrying.wait(), timeout_s=grace_s)
        if process.returncode is None:
            _send(process, signal.SIGKILL)
            await process.wait()

    def _failed_to_start(self, reason: str) -> str:
        if self._lacks_another:
            return f"what it needs does not answer yet, see {self._log.path}"
        last_lines = self._log.last_lines(_TAIL_LINES) or ["(it wrote nothing)"]
        if not self._stopping.is_set() and last_lines != self._shown_lines:
            self._shown_lines = last_lines
            self._board.say(f"{self.part.name} did not start: {reason}. The end of {self._log.path}:")
            self._board.say("\n".join(f"    {line}" for line in last_lines))
        return reason


def _send(process: Process, signum: signal.Signals) -> None:
    try:
        process.send_signal(signum)
    except ProcessLookupError:  # it ended just now
        pass
