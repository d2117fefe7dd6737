"""One log file per part: `<data-dir>/logs/<part>.log`, moved aside at a start when it has grown large.

In: a part's name. Out: an open file for its output, its last lines for a person. Knows nothing of processes.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import BinaryIO

_ROTATE_BYTES = 10_000_000  # two such files a part, at most, while it is restarted now and then
_TAIL_BYTES = 16_384
_TERMINAL_CODE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours, cursor movements


class PartLog:
    """The log of one part; remembers where its newest run began."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / f"{name}.log"
        self._run_began_at = 0

    def open(self) -> BinaryIO:
        """Append; lines so far belong to earlier runs."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size > _ROTATE_BYTES:
            os.replace(self.path, self.path.with_suffix(".log.1"))
        output = os.fdopen(os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
        self._run_began_at = output.tell()
        return output

    def last_lines(self, count: int) -> list[str]:
        """The newest non-empty lines of the newest run; a line redrawn with carriage returns counts once."""
        try:
            with self.path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._run_began_at, size - _TAIL_BYTES))
                text = _TERMINAL_CODE.sub("", log.read().decode(errors="replace"))
        except OSError:
            return []
        lines = [line.rstrip("\r").rpartition("\r")[2].rstrip() for line in text.split("\n")]
        return [line for line in lines if line][-count:]
