"""`Spool`: a worker's records on disk before their answers' last byte leaves. Never waits for the database.

In: records (`Exchange.record()`, `outcome_record()`, a price). Out: segments that the drain takes (see
`segments`). A record is one synchronous `write`, so it survives kill -9; `run()` makes it survive a power
loss within 100 ms.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import re
import secrets
import tempfile
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.ledger.errors import LedgerFull
from gateway.ledger.segments import encode_line

log = logging.getLogger(__name__)
SEGMENT_BYTES = 4 << 20
SEGMENT_AGE_S = 0.5
BACKLOG_AGE_S = 5.0  # with a drain that is behind, fewer and larger files
BACKLOG_FILES = 100
SYNC_EVERY_S = 0.1
MEASURE_EVERY_S = 1.0
DISK_RESERVE_BYTES = 16 << 20  # with less room on the disk it is full: what is under way must still fit
SLACK = 1.25  # calls admitted before the spool was full may still write: hard limit = slack × max_bytes


@dataclass(slots=True)
class _Segment:
    """The file being written; its lock lives as long as `descriptor`."""

    path: Path
    descriptor: int
    opened_at: float  # monotonic
    size: int = 0


class Spool:
    """One worker's end of the spool. `append` belongs to one thread; syncing may be another's."""

    def __init__(
        self,
        directory: Path,
        worker: str,
        max_bytes: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        segment_age_s: float = SEGMENT_AGE_S,
    ) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", worker):
            raise ValueError(f"a worker's name is part of a file name; got {worker!r}")
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory, self.worker, self.max_bytes = directory, worker, max_bytes
        self.segment_bytes, self.segment_age_s = segment_bytes, segment_age_s
        self.full_losses = 0  # records refused
        self._segment: _Segment | None = None
        self._retired: deque[int] = deque()  # descriptors of rotated segments, not yet synced
        self._syncing = threading.Lock()
        self._dirty = self._directory_dirty = False
        self._trouble = ""  # what was last logged
        self._bytes = self._files = 0
        self._oldest_s = 0.0  # Unix seconds; 0 = there is none
        self._measured_at = 0.0
        self.is_disk_full = False
        self._measure()

    def append(self, record: dict[str, Any]) -> None:
        """Write one record. LedgerFull: the disk refused it, or the limit is passed by a quarter."""
        line = encode_line(record)
        try:
            if self._bytes + len(line) > self.max_bytes * SLACK:
                raise LedgerFull(f"the spool {self.directory} is over its limit of {self.max_bytes} bytes")
            self._write(line)
        except LedgerFull:
            self.full_losses += 1
            raise

    @property
    def is_full(self) -> bool:
        """Whether new calls should be refused. As of at most a second ago, or of the last write that failed."""
        if time.monotonic() - self._measured_at > 2 * MEASURE_EVERY_S:  # run() is not doing it
            self._measure()
        return self.is_disk_full or self._bytes >= self.max_bytes

    @property
    def backlog_bytes(self) -> int:
        """Bytes waiting for the drain, all workers together. As of at most a second ago."""
        return self._bytes

    @property
    def backlog_segments(self) -> int:
        """Files of these, those that are being written included."""
        return self._files

    @property
    def backlog_age_s(self) -> float:
        """How long the oldest of them has been there: under a second where the drain keeps up."""
        return max(0.0, time.time() - self._oldest_s) if self._oldest_s else 0.0

    def tick(self) -> None:
        """Hand the open segment to the drain when it is old enough."""
        age_s = self.segment_age_s if self._files < BACKLOG_FILES else BACKLOG_AGE_S
        segment = self._segment
        if segment and segment.size and time.monotonic() - segment.opened_at >= age_s:
            self._rotate(segment)

    def sync(self) -> None:
        """Make everything appended so far survive a power loss."""
        with self._syncing:  # only its holder closes descriptors
            segment, dirty, self._dirty = self._segment, self._dirty, False
            if segment and dirty:
                os.fsync(segment.descriptor)
            while self._retired:
                os.fsync(self._retired[0])
                os.close(self._retired.popleft())
            if self._directory_dirty:
                self._directory_dirty = False
                _sync_directory(self.directory)

    async def step(self) -> None:
        """Rotates and syncs what is due: every `SYNC_EVERY_S`."""
        try:
            self.tick()
            if self._dirty or self._retired:
                await asyncio.to_thread(self.sync)
            if time.monotonic() - self._measured_at > MEASURE_EVERY_S:
                await asyncio.to_thread(self._measure)
            self._trouble = ""
        except OSError as error:
            self._dirty = True  # try again
            if str(error) != self._trouble:
                self._trouble = str(error)
                log.error("the spool %s has trouble with its disk: %s", self.directory, error)

    def close(self) -> None:
        """Hand over what is left. The spool may be used again afterwards."""
        if self._segment:
            self._rotate(self._segment)
        self.sync()

    def _write(self, line: bytes) -> None:
        try:
            segment = self._segment or self._open()
        except OSError as error:
            self.is_disk_full = True
            raise LedgerFull(f"the spool cannot open a segment in {self.directory}: {error}") from error
        try:
            written = os.write(segment.descriptor, line)
            if written < len(line):
                raise OSError(f"only {written} of {len(line)} bytes fitted")
        except OSError as error:
            self._drop_torn_line(segment)
            self.is_disk_full = True
            raise LedgerFull(f"the spool cannot write to {segment.path}: {error}") from error
        self._dirty = True
        segment.size += written
        self._bytes += written
        if segment.size >= self.segment_bytes:
            self._rotate(segment)

    def _open(self) -> _Segment:
        """Locked before it is called `.open`, so that the drain never takes it for a dead worker's."""
        # In order of birth also within a millisecond, which UUIDs are not.
        born = self.directory / f"{self.worker}-{time.time_ns():020d}{secrets.token_hex(4)}.new"
        descriptor = os.open(born, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path = born.rename(born.with_suffix(".open"))
        except OSError:
            os.close(descriptor)
            raise
        self._segment = _Segment(path, descriptor, time.monotonic())
        self._directory_dirty = True
        return self._segment

    def _rotate(self, segment: _Segment) -> None:
        segment.path.rename(segment.path.with_suffix(".ready"))
        self._segment = None
        self._retired.append(segment.descriptor)
        self._directory_dirty = True

    def _drop_torn_line(self, segment: _Segment) -> None:
        try:
            os.ftruncate(segment.descriptor, segment.size)
        except OSError:  # its checksum will tell the drain; the next record must not be glued to it
            self._rotate(segment)

    def _measure(self) -> None:
        """Count files and bytes of all workers, and what the disk has left; what is appended meanwhile may be missed
        for a second."""
        total = files = 0
        oldest_ns = 0
        with os.scandir(self.directory) as entries:
            for entry in entries:
                try:
                    if entry.is_file(follow_symlinks=False):
                        total, files = total + entry.stat().st_size, files + 1
                        born_ns = born(entry.name)
                        oldest_ns = min(oldest_ns or born_ns, born_ns or oldest_ns)
                except FileNotFoundError:  # drained meanwhile
                    continue
        self._bytes, self._files, self._measured_at = total, files, time.monotonic()
        self._oldest_s = oldest_ns / 1e9
        self.is_disk_full = not _has_room(self.directory, probe=self.is_disk_full)


def born(segment: str) -> int:
    """When a segment of this file name was begun, in Unix nanoseconds; 0 for what is none."""
    digits = segment.rpartition("-")[2][:20]
    return int(digits) if len(digits) == 20 and digits.isdigit() else 0


def _has_room(directory: Path, probe: bool) -> bool:
    """`probe`: also by writing, since quotas and broken disks are not seen in the disk's own figures."""
    disk = os.statvfs(directory)
    if disk.f_bavail * disk.f_frsize < DISK_RESERVE_BYTES:
        return False
    if not probe:
        return True
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(bytes(SEGMENT_BYTES))
    except OSError:
        return False
    return True


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
