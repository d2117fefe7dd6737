"""What the drain reads: the records of a spool's segments, a batch of whole segments at a time, oldest first.

In: a spool's directory. Out: lines, each with its record or with why it has none. The next batch is read while the
one before is written. Knows no database; nothing is removed here.
"""

from __future__ import annotations

import errno
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.ledger import batch, segments

log = logging.getLogger("sparkgate.drain")
BATCH_BYTES = 4 << 20
_UNREADABLE = (errno.EIO, errno.EISDIR, errno.EACCES, errno.EPERM)  # it will not get better by itself


@dataclass(slots=True)
class Line:
    """One line of a segment: its record, or why it has none."""

    raw: bytes
    record: dict[str, Any] | None
    reason: str = ""


Batch = dict[Path, list[Line]]


class Reader:
    """Belongs to one thread."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self._thread = ThreadPoolExecutor(1, "reading")
        self._ahead: Future[Batch] | None = None

    def take(self) -> Batch:
        """The oldest segments, up to BATCH_BYTES, at least one; none when none is ready."""
        segments.adopt(self._spool)
        ahead, self._ahead = self._ahead, None
        taken = ahead.result() if ahead is not None else _read(segments.ready(self._spool))
        rest = [path for path in segments.ready(self._spool) if path not in taken]
        if taken and rest:
            self._ahead = self._thread.submit(_read, rest)
        return taken

    def start_anew(self) -> None:
        """What was taken could not be written: it comes first again."""
        self._ahead = None


def _read(ready: list[Path]) -> Batch:
    return {path: _lines(path) for path in _first(ready)}


def _first(ready: list[Path]) -> list[Path]:
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


def _lines(segment: Path) -> list[Line]:
    """None of a segment that another drain was quicker with, or that no drain will ever read."""
    try:
        return [_line(raw, whole) for raw, whole in segments.lines_of(segment)]
    except FileNotFoundError:
        return []
    except OSError as error:
        if error.errno not in _UNREADABLE:
            raise
        kept = segments.put_aside(segment)
        log.error("%s cannot be read, and was put aside in %s: %s", segment.name, kept.parent, error)
        return []


def _line(raw: bytes, whole: bool) -> Line:
    record = segments.decode_line(raw)
    if record is None:
        return Line(raw, None, "damaged line" if whole else "torn line at the end of the segment")
    if b"\\u0000" in raw:
        record = _without_nul(record)
    reason = batch.problem(record)
    return Line(raw, None, reason) if reason else Line(raw, record)


def _without_nul(value: Any) -> Any:
    """Postgres has no character NUL."""
    if isinstance(value, str):
        return value.replace("\0", "")
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(item) for key, item in value.items()}
    return [_without_nul(item) for item in value] if isinstance(value, list) else value
