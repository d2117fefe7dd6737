"""What a process of ours holds, told at SIGUSR2: tasks by their coroutine, parts of calls by their class. Pauses
between two rounds of background work are not told: they come and go.

Python runs this file at its start where its folder is in PYTHONPATH. The figures go to `<SPARKGATE_HOLDS>/<pid>.json`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
from collections import Counter
from pathlib import Path

PARTS = ("Relay", "Try", "Tally", "Search", "Service", "Response", "EventSplitter", "Watch")


def tell(*_: object) -> None:
    from gateway.chores import PAUSE  # not at every start of Python

    staying = [task for task in asyncio.all_tasks() if task.get_name() != PAUSE]
    tasks = Counter(getattr(task.get_coro(), "__qualname__", "") for task in staying)
    gc.collect()
    parts = Counter(type(each).__name__ for each in gc.get_objects() if type(each).__name__ in PARTS)
    path = Path(os.environ["SPARKGATE_HOLDS"], f"{os.getpid()}.json")
    path.with_suffix(".new").write_text(json.dumps({"tasks": tasks, "parts": parts}))
    path.with_suffix(".new").rename(path)


if "SPARKGATE_HOLDS" in os.environ:
    signal.signal(signal.SIGUSR2, tell)
