"""The drain: a process of its own that moves spooled records into Postgres exactly once, and only then drops
them.

`python -m gateway.ledger.drain --spool DIR [--database-url URL] [--retention-days N] [--once]`; the URL may come
from SPARKGATE_DATABASE_URL, which keeps a password out of the process list. A database that is down is waited for.
A line that is damaged or that the database refuses goes to `<spool>/quarantine/` with its reason, alone.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from gateway.config.variables import DATABASE_URL_VARIABLE
from gateway.ledger import batch, segments
from gateway.ledger.database import create_engine, redact
from gateway.ledger.errors import DatabaseUrlError
from gateway.ledger.reading import Line, Reader
from gateway.ledger.rollups import Workflows
from gateway.ledger.upkeep import Upkeep
from gateway.telemetry.feed import feeding
from gateway.telemetry.figures_shown import drain_figures, shown

log = logging.getLogger("sparkgate.drain")
POLL_S = 0.3
BACKOFF_S = (0.2, 5.0)
FINAL_DRAIN_S = 5.0
_DATABASE_ERRORS = (SQLAlchemyError, psycopg.Error)
_RECORD_ERRORS = (ValueError, TypeError, KeyError, AttributeError, ArithmeticError)
_IN_THE_WAY = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DeadlockDetected,
)  # of another drain, or of upkeep
_RECORD_FAULTS = ("22", "23", "54")  # SQLSTATE classes: bad data, broken constraint, too large (for an index)


@dataclass(slots=True)
class Drain:
    """Moves segments of `spool`. Counters are of this process."""

    engine: Engine
    spool: Path
    exchanges: int = 0  # inserted
    quarantined: int = 0  # lines
    written_at: float = 0.0  # Unix seconds of the last batch
    on_written: Callable[[list[dict[str, Any]]], object] = lambda _: None  # told what is in the database
    is_database_up: bool = True
    _workflows: Workflows = field(default_factory=Workflows)
    _reader: Reader = field(init=False)

    def __post_init__(self) -> None:
        self._reader = Reader(self.spool)

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set; then once more what is ready, for at most FINAL_DRAIN_S."""
        wait_s = BACKOFF_S[0]
        while not stop.is_set():
            try:
                moved = self.step()
            except (*_DATABASE_ERRORS, OSError) as error:
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
        except (*_DATABASE_ERRORS, OSError) as error:
            self._report(error)

    def step(self) -> int:
        """Move one batch of whole segments. Returns how many; raises while the database cannot be written."""
        taken = self._reader.take()
        try:
            self._write([line for lines in taken.values() for line in lines if line.record is not None])
        except BaseException:
            self._reader.start_anew()
            raise
        for path, of_segment in taken.items():
            self._quarantine(path, [(line.raw, line.reason) for line in of_segment if line.record is None])
            path.unlink(missing_ok=True)
        if taken and not self.is_database_up:
            self.is_database_up = True
            log.info("the database takes records again")
        return len(taken)

    def _write(self, lines: list[Line], again: int = 3) -> None:
        """All in one transaction; when a record is refused, halve until it stands alone, and mark it.

        `again`: how often another drain may be in the way.
        """
        if not lines:
            return
        try:
            with self.engine.begin() as connection:
                records = [line.record for line in lines if line.record is not None]
                written = batch.write(connection, records, self._workflows)
        except (*_DATABASE_ERRORS, *_RECORD_ERRORS) as error:
            if again and isinstance(getattr(error, "orig", error), _IN_THE_WAY):
                return self._write(lines, again - 1)
            if isinstance(error, _DATABASE_ERRORS) and not is_fault_of_record(error):
                raise
            if len(lines) == 1:
                cause = getattr(error, "orig", None) or repr(error)
                lines[0].record, lines[0].reason = None, str(cause).strip()
                return None
            middle = len(lines) // 2
            self._write(lines[:middle])
            self._write(lines[middle:])
        else:
            self.exchanges, self.written_at = self.exchanges + written.exchanges, time.time()
            self.on_written([line.record for line in lines if line.record is not None])

    def _quarantine(self, segment: Path, refused: list[tuple[bytes, str]]) -> None:
        if not refused:
            return
        kept = segments.quarantine(segment, refused)
        self.quarantined += len(refused)
        log.error("%d lines of %s were put aside in %s: %s", len(refused), segment.name, kept, refused[0][1])

    def _report(self, error: Exception) -> None:
        """One log line when trouble begins; `step` logs its end."""
        if self.is_database_up:
            self.is_database_up = False
            cause = getattr(error, "orig", None) or error
            log.warning("records wait in %s, as they cannot be written: %s", self.spool, cause)


def is_fault_of_record(error: Exception) -> bool:
    """Whether the database refused a row, rather than to work at all (a full disk, tables that lack)."""
    cause = getattr(error, "orig", None) or error
    if isinstance(cause, psycopg.ProgrammingError) and cause.sqlstate is None:
        return True  # a value that has no place in its column, seen before it was sent
    return isinstance(cause, psycopg.Error) and (cause.sqlstate or "").startswith(_RECORD_FAULTS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m gateway.ledger.drain", description="Drain the spool.")
    parser.add_argument("--spool", type=Path, required=True, help="directory the gateway's workers spool to")
    parser.add_argument("--database-url", default=os.environ.get(DATABASE_URL_VARIABLE))
    parser.add_argument("--once", action="store_true", help="drain what is there, then exit")
    parser.add_argument("--retention-days", type=int, help="drop calls that are older; else they stay")
    options = parser.parse_args(arguments)
    if not options.database_url:
        parser.error("give --database-url, or set " + DATABASE_URL_VARIABLE)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    options.spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        engine = create_engine(options.database_url, application="sparkgate drain", pool_size=1)
    except DatabaseUrlError as error:
        parser.error(str(error))
    drain = Drain(engine, options.spool)
    collect_rarely()
    try:
        with feeding(os.environ) as feed, shown(lambda: drain_figures(drain, feed), os.environ):
            drain.on_written = feed.take if feed else drain.on_written
            if options.once:
                return _once(drain)
            log.info("draining %s into %s", drain.spool, redact(options.database_url))
            return _until_stopped(drain, Upkeep(engine, options.retention_days))
    finally:
        engine.dispose()


def collect_rarely() -> None:
    """Records are trees, and gone with their batch: walking them in search of cycles took a quarter of the time."""
    gc.freeze()
    gc.set_threshold(200_000)


def _until_stopped(drain: Drain, upkeep: Upkeep) -> int:
    stop = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: stop.set())
    threading.Thread(target=upkeep.run, args=(stop,), daemon=True).start()
    drain.run(stop)
    return 0


def _once(drain: Drain) -> int:
    try:
        while drain.step():
            pass
    except (*_DATABASE_ERRORS, OSError) as error:
        log.error("records wait in %s, as they cannot be written: %s", drain.spool, error)
        return 1
    log.info("%d exchanges written, %d lines quarantined", drain.exchanges, drain.quarantined)
    return 0


if __name__ == "__main__":
    sys.exit(main())
