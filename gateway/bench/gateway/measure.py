"""The benchmark's loop: every contestant gets the same calls, in turn, cell by cell and round by round.

In: contestants that answer. Out: `Reading`s, handed over one by one, so that an interrupted run keeps what it has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.bench.gateway import processes
from gateway.bench.gateway.contestant import Bench, Contestant
from gateway.bench.gateway.readings import CELLS, OURS, STREAMS, WHOLE, WORKER, Cell, Reading, Sustained
from gateway.bench.gateway.traffic import BenchFailed, load

_WARM_UP_S = 0.5
_SUSTAIN_TIMES = 4  # as long as a cell
_SETTLE_LIMIT_S, _SETTLE_POLL_S = 120.0, 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """How long each contestant is called in each cell of each round."""

    seconds: float = 3.0
    rounds: int = 3

    def readings(self, contestants: Sequence[Contestant]) -> int:
        return self.rounds * sum(len(each.cells) for each in contestants)


async def warm_up(bench: Bench, contestants: Sequence[Contestant], seconds: float) -> None:
    for contestant in contestants:
        for cell in (each for each in (WHOLE, STREAMS) if each in contestant.cells):
            await bench.upstream.prepare(cell)
            await load(contestant.url, contestant.headers, cell, min(seconds, _WARM_UP_S), bench.folder)
        await _settled(contestant)


async def measure(
    bench: Bench, contestants: Sequence[Contestant], plan: Plan, keep: Callable[[Reading], None]
) -> None:
    """Run the plan; in each cell the contestants follow one another, each time beginning with another one."""
    for number in range(plan.rounds * len(CELLS)):
        each, cell = number // len(CELLS), CELLS[number % len(CELLS)]
        await bench.upstream.prepare(cell)
        shift = number % len(contestants)
        for contestant in [*contestants[shift:], *contestants[:shift]]:
            if cell in contestant.cells:
                keep(await _reading(bench, contestant, cell, each, plan.seconds))


async def sustain(bench: Bench, contestants: Sequence[Contestant], plan: Plan) -> Sustained | None:
    """None without our gateway."""
    ours = next((each for each in contestants if each.name == OURS), None)
    if ours is None:
        return None
    await bench.upstream.prepare(WHOLE)
    half_s = plan.seconds * _SUSTAIN_TIMES / 2
    running = asyncio.create_task(load(ours.url, ours.headers, WHOLE, 2 * half_s, bench.folder))
    await asyncio.sleep(half_s)
    middle = _waiting_records(ours.spool)
    seen = await running
    return Sustained(seen.calls_per_s, middle, _waiting_records(ours.spool), half_s)


async def _reading(bench: Bench, contestant: Contestant, cell: Cell, each: int, seconds: float) -> Reading:
    before = _cpu_s(contestant)
    seen = await load(contestant.url, contestant.headers, cell, seconds, bench.folder)
    at_once = _cpu_s(contestant)
    await _settled(contestant)
    later = _cpu_s(contestant)
    used_s = {part: (at_once if part == WORKER else later)[part] - before[part] for part in before}
    cpu_us = {part: each_s / max(1, seen.calls) * 1e6 for part, each_s in used_s.items()}
    rss_mb = {part: processes.rss_mb(found) for part, found in contestant.parts().items()}
    return Reading(contestant.name, cell.name, each, seen, cpu_us, rss_mb)


async def _settled(contestant: Contestant) -> None:
    """Wait until the drain has done its part of the calls so far."""
    for _ in range(round(_SETTLE_LIMIT_S / _SETTLE_POLL_S)):
        if not _waiting_records(contestant.spool):
            return
        await asyncio.sleep(_SETTLE_POLL_S)
    raise BenchFailed(f"the drain did not empty {contestant.spool} within {_SETTLE_LIMIT_S:g} s")


def _waiting_records(spool: Path | None) -> int:
    """Lines of a spool that the drain has not taken yet."""
    while spool is not None:
        try:
            return sum(path.read_bytes().count(b"\n") for path in spool.iterdir() if path.is_file())
        except FileNotFoundError:  # taken or renamed between listing and reading
            continue
    return 0


def _cpu_s(contestant: Contestant) -> dict[str, float]:
    return {part: processes.cpu_s(found) for part, found in contestant.parts().items()}
