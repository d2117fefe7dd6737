"""`Part`: what the supervisor must know of one process to start it, see it ready and stop it. A plain value.

Knows nothing of sparkgate's own processes (see `parts`), nor of how a process is kept (see `keeper`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Part:
    """One process. `argv[0]` is an absolute path; `env` is laid over the user's environment."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    prepare: tuple[str, ...] | None = None  # run to exit code 0 before `argv`, once; draws its progress
    ready_url: str | None = None  # ready at its first HTTP 200; without one, after SETTLED_S alive
    ready_says_pid: bool = False  # and the answer names the process: it may come from another part
    start_timeout_s: float = 60.0
    stop_grace_s: float = 10.0  # from SIGTERM to SIGKILL
    pass_fds: tuple[int, ...] = ()
    # Give up the whole start when it fails GIVE_UP_AFTER times without ever being ready, unless with exit code
    # EX_TEMPFAIL: then it waits for another part, which may take its time.
    needed: bool = False
    address: str = ""  # what to show beside its name once it is ready


SETTLED_S = 0.5
GIVE_UP_AFTER = 3
