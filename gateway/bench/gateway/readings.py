"""What is measured of which contestant, and what one measurement shows: the values that the rest hands around.

Pure. Times are in ms and processor time in µs a call, as their names say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

STRAIGHT, NGINX, BARE, OURS, LITELLM, PORTKEY = "straight", "nginx", "bare", "sparkgate", "litellm", "portkey"
NAMES = (NGINX, BARE, OURS, LITELLM, PORTKEY)
INFERRED, TWO_WORKERS = f"{OURS}, shape inferred", f"{OURS}, 2 workers"
WORKER, DRAIN, POSTGRES, SUPERVISOR = "worker", "drain", "postgres", "supervisor"


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to call: `rate` None is a closed loop of `concurrency` calls, else so many are due a second."""

    name: str
    concurrency: int
    rate: int | None = None
    chunks: int | None = None  # of a stream; None: whole answers
    gap_ms: int = 0


WHOLE = Cell("whole answers", concurrency=32)
WHOLE_PACED = Cell("whole answers, paced", concurrency=64, rate=200)
STREAMS = Cell("streams", concurrency=16, chunks=64)
STREAMS_PACED = Cell("streams, paced", concurrency=64, rate=50, chunks=16, gap_ms=5)
CELLS = (WHOLE, WHOLE_PACED, STREAMS, STREAMS_PACED)


@dataclass(frozen=True, slots=True)
class Load:
    """`calls` and the times are of answers that were good and whole. Times in ms: p50, p90, p99, max."""

    calls: int
    errors: int
    first_error: str | None
    took_s: float  # to the last answer
    total_ms: dict[str, float] | None
    first_ms: dict[str, float] | None  # up to the first content of a stream

    @property
    def calls_per_s(self) -> float:
        return self.calls / self.took_s


@dataclass(frozen=True, slots=True)
class Reading:
    """One cell of one contestant. Processor time per good call and memory, by part."""

    contestant: str
    cell: str
    round: int
    load: Load
    cpu_us: Mapping[str, float]
    rss_mb: Mapping[str, float]

    @property
    def is_good(self) -> bool:
        return self.load.calls > 0 and not self.load.errors


@dataclass(frozen=True, slots=True)
class Sustained:
    """Our gateway under full load, from the middle of a run to its end: what it answered, what was left to drain."""

    calls_per_s: float
    backlog_middle: int  # records in the spool
    backlog_end: int
    seconds: float  # of the half

    @property
    def drained_per_s(self) -> float:
        return self.calls_per_s - (self.backlog_end - self.backlog_middle) / self.seconds
