"""The drain: a process of its own that moves spooled records into Postgres exactly once, and only then drops
them.

`python -m gateway.ledger.drain --spool DIR [--database-url URL] [--once]`; the URL may come from
SPARKGATE_DATABASE_URL, which keeps a password out of the process list. A database that is down is waited for.
A line that is damaged or that the database refuses goes to `<spool>/quarantine/` with its reason, alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from gateway.config.variables import DATABASE_URL_VARIABLE
from gateway.ledger import batch, segments
from gateway.ledger.database import create_engine, redact
from gateway.ledger.errors import DatabaseUrlError

log = logging.getLogger("sparkgate.drain")
POLL_S = 0.3
BACKOFF_S = (0.2, 5.0)
FINAL_DRAIN_S = 5.0
BATCH_BYTES = 8 << 20
_RECORD_FAULTS = ("22", "23", "54")  # SQLSTATE classes: bad data, broken constraint, too large (for an index)


@dataclass(slots=True)
class _Line:
    """One line of a segment: its record, or why it has none."""

    raw: bytes
    record: dict[str, Any] | None
    reason: str = ""


@dataclass(slots=True)
class Drain:
    """Moves segments of `spool`. Counters are of this process."""

    engine: Engine
    spool: Path
    exchanges: int = 0  # inserted
    quarantined: int = 0  # lines
    _database_up: bool = field(default=True)

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; then once more what is ready, for at most FINAL_DRAIN_S."""
        wait_s = BACKOFF_S[0]
        while not stop.is_set():
            try:
                moved = self.step()
            except (SQLAlchemyError, OSError) as error:
                self._report(error)
                stop.wait(wait_s)
                wait_s = min(wait_s * 2, BACKOFF_S[1])
                continue
            wait_s = BACKOFF_S[0]
            if not moved:
                stop.wait(POLL_S)
        self.finish()

    def finish(self) -> None:
        """Drain what is there, as long as it goes well and quickly."""
        deadline = time.monotonic() + FINAL_DRAIN_S
        try:
            while time.monotonic() < deadline and self.step():
                pass
        except (SQLAlchemyError, OSError) as error:
            self._report(error)

    def step(self) -> int:
        """Move one batch of whole segments. Returns how many; raises while the database cannot be written."""
        segments.adopt(self.spool)
        taken = _batch_of(segments.ready(self.spool))
        if not taken:
            return 0
        lines = {path: _read(path) for path in taken}
        self._write([line for of_segment in lines.values() for line in of_segment if line.record is not None])
        for path, of_segment in lines.items():
            self._quarantine(path, [(line.raw, line.reason) for line in of_segment if line.record is None])
            path.unlink(missing_ok=True)
        if not self._database_up:
            self._database_up = True
            log.info("the database takes records again")
        return len(taken)

    def _write(self, lines: list[_Line]) -> None:
        """All in one transaction; when a record is refused, halve until it stands alone, and mark it."""
        if not lines:
            return
        try:
            with self.engine.begin() as connection:
                written = batch.write(connection, [line.record for line in lines if line.record is not None])
        except (DBAPIError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, DBAPIError) and not _is_fault_of_record(error):
                raise
            if len(lines) == 1:
                cause = getattr(error, "orig", None) or repr(error)
                lines[0].record, lines[0].reason = None, str(cause).strip()
                return
            middle = len(lines) // 2
            self._write(lines[:middle])
            self._write(lines[middle:])
        else:
            self.exchanges += written.exchanges

    def _quarantine(self, segment: Path, refused: list[tuple[bytes, str]]) -> None:
        if not refused:
            return
        kept = segments.quarantine(segment, refused)
        self.quarantined += len(refused)
        log.error("%d lines of %s were put aside in %s: %s", len(refused), segment.name, kept, refused[0][1])

    def _report(self, error: Exception) -> None:
        """One log line when trouble begins; `step` logs its end."""
        if self._database_up:
            self._database_up = False
            cause = getattr(error, "orig", None) or error
            log.warning("records wait in %s, as they cannot be written: %s", self.spool, cause)


def _batch_of(ready: list[Path]) -> list[Path]:
    """The oldest segments, up to BATCH_BYTES, at least one."""
    taken: list[Path] = []
    size = 0
    for path in ready:
        try:
            size += path.stat().st_size
        except FileNotFoundError:  # another drain was quicker
            continue
        if taken and size > BATCH_BYTES:
            break
        taken.append(path)
    return taken


def _read(segment: Path) -> list[_Line]:
    try:
        return [_line(raw, whole) for raw, whole in segments.lines_of(segment)]
    except FileNotFoundError:  # another drain was quicker
        return []


def _line(raw: bytes, whole: bool) -> _Line:
    record = segments.decode_line(raw)
    if record is None:
        return _Line(raw, None, "damaged line" if whole else "torn line at the end of the segment")
    reason = batch.problem(record)
    return _Line(raw, None, reason) if reason else _Line(raw, record)


def _is_fault_of_record(error: DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None)
    return isinstance(state, str) and state.startswith(_RECORD_FAULTS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gateway.ledger.drain", description="Drain the spool.")
    parser.add_argument("--spool", type=Path, required=True, help="directory the gateway's workers spool to")
    parser.add_argument("--database-url", default=os.environ.get(DATABASE_URL_VARIABLE))
    parser.add_argument("--once", action="store_true", help="drain what is there, then exit")
    options = parser.parse_args(arguments)
    if not options.database_url:
        parser.error("give --database-url, or set " + DATABASE_URL_VARIABLE)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options.spool.mkdir(parents=True, exist_ok=True)
    try:
        engine = create_engine(options.database_url, application="sparkgate drain", pool_size=1)
    except DatabaseUrlError as error:
        parser.error(str(error))
    drain = Drain(engine, options.spool)
    try:
        return _once(drain) if options.once else _until_stopped(drain, options.database_url)
    finally:
        engine.dispose()


def _until_stopped(drain: Drain, url: str) -> int:
    log.info("draining %s into %s", drain.spool, redact(url))
    stop = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: stop.set())
    drain.run(stop)
    return 0


def _once(drain: Drain) -> int:
    try:
        while drain.step():
            pass
    except (SQLAlchemyError, OSError) as error:
        log.error("records wait in %s, as they cannot be written: %s", drain.spool, error)
        return 1
    log.info("%d exchanges written, %d lines quarantined", drain.exchanges, drain.quarantined)
    return 0


if __name__ == "__main__":
    sys.exit(main())
