"""`Feed`: what the drain has written, on its way to the process that exports it.

Spans and their protobufs take more of a processor than writing rows does, so they are made in a process of their own
(see `exporting`), which the drain starts and feeds through a pipe. In: records, on the drain's thread, which only
encodes them. Where that process falls behind by MAX_WAITING_BYTES, or has died, telemetry lacks records, which are
counted, and nothing else does.
"""

from __future__ import annotations

import importlib.util
import logging
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import orjson

from gateway.config.variables import DATABASE_URL_VARIABLE
from gateway.telemetry.settings import handed_over

log = logging.getLogger("sparkgate.telemetry")
MAX_WAITING_BYTES = 64 << 20
RESTART_AFTER_S = 10.0
CLOSE_WITHIN_S = 8.0


class Feed:
    """One exporting process, started anew when it dies. `close` waits until it has sent what it has, but not long."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = {name: value for name, value in env.items() if name != DATABASE_URL_VARIABLE}
        self._process: subprocess.Popen[bytes] | None = None
        self._not_before_s = 0.0  # monotonic: when it may be started again
        self._waiting: queue.SimpleQueue[tuple[int, bytes] | None] = queue.SimpleQueue()
        self._taken_bytes = self._refused_records = 0  # changed by the drain's thread only
        self._passed_bytes = self._lost_records = 0  # changed by the writer's only
        self._writer = threading.Thread(target=self._write_all, daemon=True)
        self._writer.start()

    def take(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Never waits, never fails."""
        data = b""
        if self._taken_bytes - self._passed_bytes <= MAX_WAITING_BYTES:
            with suppress(orjson.JSONEncodeError):
                data = orjson.dumps(records, default=str) + b"\n"
        if not data:
            self._refused_records += len(records)
            return
        self._taken_bytes += len(data)
        self._waiting.put((len(records), data))

    @property
    def dropped_records(self) -> int:
        return self._refused_records + self._lost_records

    @property
    def pid(self) -> int | None:
        """The exporting process's; None while there is none."""
        process = self._process
        return process.pid if process else None

    def close(self) -> None:
        deadline = time.monotonic() + CLOSE_WITHIN_S
        self._waiting.put(None)
        self._writer.join(CLOSE_WITHIN_S)
        self._not_before_s = float("inf")
        if process := self._process:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()  # which lets the writer go, too
        self._writer.join()

    def _write_all(self) -> None:
        while (item := self._waiting.get()) is not None:
            count, data = item
            self._passed_bytes += len(data)
            if not self._write(data):
                self._lost_records += count
        if self._process is not None:
            _hang_up(self._process)

    def _write(self, data: bytes) -> bool:
        """Whether the exporting process has it."""
        try:
            if self._process is None and time.monotonic() >= self._not_before_s:
                command = [sys.executable, "-P", "-m", "gateway.telemetry.exporting"]
                self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=self._env)
            if self._process is None or self._process.stdin is None:
                return False
            self._process.stdin.write(data)
            self._process.stdin.flush()
        except OSError as error:
            log.error("no process exports telemetry (%s); if it ended, its own words are above", error)
            if self._process is not None:
                _hang_up(self._process)
                self._process.wait()
            self._process = None
            self._not_before_s = max(self._not_before_s, time.monotonic() + RESTART_AFTER_S)
            return False
        return True


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def feeding(env: Mapping[str, str]) -> Iterator[Feed | None]:
    """A feed for as long as the block; None where telemetry is off or not installed."""
    telemetry = handed_over(env)
    if telemetry is not None and importlib.util.find_spec("opentelemetry.sdk") is None:
        log.error('telemetry is off, as opentelemetry is not installed: pip install "sparkgate[otel]"')
        telemetry = None
    if telemetry is None:
        yield None
        return
    log.info(
        "telemetry goes to %s", telemetry.endpoint or "the endpoint of OpenTelemetry's environment variables"
    )
    feed = Feed(env)
    try:
        yield feed
    finally:
        feed.close()
