"""Becomes the command it is given, once Linux has promised to send it SIGTERM when the supervisor dies.

Run as a file of its own, `python -I -S launch.py SUPERVISOR_PID COMMAND…`, rather than as a `preexec_fn`:
that would run Python between fork and exec of a process with threads, which may deadlock. The promise
(PR_SET_PDEATHSIG) survives exec and holds for this process only, not for its children. On other systems
there is none, and the next start ends what was left (see `orphans`).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(argv: list[str]) -> None:
    supervisor_pid, command = int(argv[1]), argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != supervisor_pid:  # it died before the promise was made
        sys.exit("the supervisor is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv)
