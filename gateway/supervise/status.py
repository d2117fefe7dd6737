"""`Board`: one status line per part, redrawn in place on a terminal, otherwise one printed line per change.

In: what the keepers report. Out: text. Owns no state of the processes, only what was last said about them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

State = Literal["waiting", "starting", "ready", "restarting", "stopping", "stopped"]

_COLOURS: dict[State, str] = {
    "waiting": "dim",
    "starting": "yellow",
    "ready": "green",
    "restarting": "red",
    "stopping": "yellow",
    "stopped": "dim",
}
_PRINTED_PROGRESS_S = 5.0  # a log is no place for a progress bar's every step


@dataclass(frozen=True, slots=True)
class Line:
    """What is known of one part."""

    name: str
    state: State
    detail: str = ""

    def text(self, name_width: int) -> Text:
        colour = _COLOURS[self.state]
        return Text.assemble(
            (f"{self.name:<{name_width}}  ", "bold"), (f"{self.state:<10}", colour), "  ", self.detail
        )


class Board:
    """The status lines, in the order in which the parts were first named."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lines: dict[str, Line] = {}
        self._last_progress: dict[str, float] = {}  # monotonic seconds
        self._live = Live(console=console, refresh_per_second=4) if console.is_terminal else None

    def show(self, name: str, state: State, detail: str = "") -> None:
        line = Line(name, state, detail)
        if self._lines.get(name) == line:
            return
        self._lines[name] = line
        if self._live is not None:
            self._live.update(Group(*(line.text(self._width()) for line in self._lines.values())))
        elif state != "waiting":
            self.say(Text(time.strftime("%H:%M:%S  ")).append(line.text(self._width())))

    def progress(self, name: str, detail: str) -> None:
        """A part's own word on what it is doing while it starts; without a terminal only now and then."""
        now, last = time.monotonic(), self._last_progress.get(name)
        if self._live is None and last is not None and now - last < _PRINTED_PROGRESS_S:
            return
        line = self._lines.get(name)
        if line is not None and line.state == "starting":
            self._last_progress[name] = now
            self.show(name, "starting", detail)

    def say(self, message: str | Text) -> None:
        """Print above the status lines; never wrapped, so that a command can be copied."""
        self._console.print(message, soft_wrap=True, highlight=False, markup=False)

    def _width(self) -> int:
        return max(10, *(len(name) for name in self._lines))

    def __enter__(self) -> Board:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
