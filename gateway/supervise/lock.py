"""One supervisor per data directory: an exclusive flock on `<data-dir>/run/up.lock`, its holder named inside.

The kernel drops the lock with its holder, however that ends, so a stale file never stands in the way.
In: the lock's path. Out: an open lock, or `AlreadyRunning` that says who holds it and since when.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType


class AlreadyRunning(Exception):
    """Another copy holds the lock."""


class DataDirLock:
    """Held from construction to `close`, or to the end of the process."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._file.read()
            self._file.close()
            raise AlreadyRunning(_refusal(path, holder)) from None
        self._file.truncate(0)
        json.dump({"pid": os.getpid(), "started_at": time.time()}, self._file)
        self._file.flush()

    def close(self) -> None:
        """Empty the file before the lock goes: what stands in it is always its holder."""
        if not self._file.closed:
            self._file.truncate(0)
            self._file.close()

    def __enter__(self) -> DataDirLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refusal(path: Path, holder: str) -> str:
    data_dir = path.parent.parent
    try:
        written = json.loads(holder)
        since = datetime.fromtimestamp(written["started_at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        pid = int(written["pid"])
    except (ValueError, KeyError, TypeError):  # between taking the lock and writing its name
        return f"another sparkgate is just starting on {data_dir}; give this one another --data-dir"
    return (
        f"sparkgate already runs on {data_dir} (pid {pid}, since {since}). "
        f"Stop it with Ctrl-C or `kill {pid}`, or give this one another --data-dir."
    )
