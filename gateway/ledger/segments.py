"""Segments: the spool's files, one record a line, and how to tell a whole line from a torn one.

A line is eight hex digits of CRC-32, a space, JSON, a newline. A segment is born `.new`, is `.open` (flocked)
while its worker writes it, and `.ready` when it is for the drain. Quarantined lines keep their reason beside
them. Knows nothing of tables or of who writes and drains.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson

QUARANTINE = "quarantine"
_ABANDONED_AFTER_S = 60
_DEEPEST = 100  # levels of nesting; the encoder takes 254


def encode_line(record: dict[str, Any]) -> bytes:
    try:
        payload = orjson.dumps(record)
    except (
        TypeError
    ):  # lone surrogates, integers past 64 bits, nesting: what an upstream sent must not cost the record
        payload = orjson.dumps(_storable(record))
    return b"%08x %b\n" % (crc32(payload), payload)


def decode_line(line: bytes) -> dict[str, Any] | None:
    """The record of a line without its newline; None when the line is damaged."""
    payload = line[9:]
    if line[8:9] != b" " or line[:8] != b"%08x" % crc32(payload):
        return None
    try:
        record = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None
    return record if isinstance(record, dict) else None


def lines_of(segment: Path) -> Iterator[tuple[bytes, bool]]:
    """(line, whole): the last one is not whole when its newline is missing."""
    *whole, rest = segment.read_bytes().split(b"\n")
    for line in whole:
        yield line, True
    if rest:
        yield rest, False


def ready(directory: Path) -> list[Path]:
    """Segments for the drain, oldest first."""
    return sorted(directory.glob("*.ready"), key=lambda path: path.stem.rpartition("-")[2])


def has_older(directory: Path, unix_s: float) -> bool:
    """Whether a segment that was begun before then is still here."""
    then = f"{int(unix_s * 1e9):020d}"
    segments = (path for path in directory.iterdir() if path.suffix in (".open", ".ready"))
    return any(path.stem.rpartition("-")[2] < then for path in segments)


def adopt(directory: Path) -> list[Path]:
    """Make `.ready` the open segments of workers that died, seen by their lock being free."""
    adopted = []
    for path in sorted(directory.glob("*.open")):
        if not _is_abandoned(path):
            continue
        with suppress(FileNotFoundError):  # its worker closed it meanwhile
            adopted.append(path.rename(path.with_suffix(".ready")))
    for path in directory.glob("*.new"):  # a worker died between making and locking it: never written
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_AFTER_S:
                path.unlink()
    return adopted


def quarantine(segment: Path, refused: Iterable[tuple[bytes, str]]) -> Path:
    """Keep lines that cannot be written, as JSON lines of reason and line. Twice gives the same file."""
    folder = segment.parent / QUARANTINE
    folder.mkdir(exist_ok=True)
    path = folder / f"{segment.stem}.jsonl"
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("wb") as file:
        for line, reason in refused:
            kept = {"reason": reason, "line": line.decode(errors="backslashreplace")}
            file.write(orjson.dumps(kept) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return unfinished.replace(path)


def put_aside(segment: Path) -> Path:
    """Keep a whole segment that cannot be read where no drain will try it again."""
    folder = segment.parent / QUARANTINE
    folder.mkdir(exist_ok=True)
    return segment.rename(folder / segment.name)


def _is_abandoned(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _storable(value: Any, depth: int = 0) -> Any:
    """The same value without what JSON in UTF-8 cannot hold: lone surrogates, too large integers, endless nesting."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if depth > _DEEPEST:
        return None
    if isinstance(value, dict):
        return {_storable(str(key)): _storable(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item, depth + 1) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: _storable(getattr(value, each.name), depth + 1) for each in fields(value)}
    if isinstance(value, orjson.Fragment | datetime):
        return value
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return None
    return value if isinstance(value, int | float | bool | None) else str(value)
