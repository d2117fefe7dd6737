"""The benchmark's loop: every variant answers the same prompts, in turn, cell by cell and round by round.

In: a `Plan` and variants that are ready. Out: `Wave`s, handed over one by one, so that an interrupted run
keeps what it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from gateway.bench.engine.prompts import prompts
from gateway.bench.engine.traces import Wave
from gateway.bench.engine.variants import Variant

_WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `tokens` is the length of an answer that nothing ends earlier."""

    kinds: tuple[str, ...]
    streams: tuple[int, ...]
    tokens: int = 128
    rounds: int = 3

    def cells(self) -> Iterator[tuple[int, str, int]]:
        """(round, kind, streams), rounds outermost."""
        for each in range(self.rounds):
            for kind in self.kinds:
                for streams in self.streams:
                    yield each, kind, streams

    def waves(self, variants: int) -> int:
        return self.rounds * len(self.kinds) * len(self.streams) * variants


async def warm_up(plan: Plan, variants: Sequence[Variant], notes: list[str]) -> None:
    """Let every variant meet every batch size; learn which can be held to a schema."""
    refusals: dict[str, list[str]] = {}
    tokens = min(plan.tokens, _WARM_UP_TOKENS)
    for variant in variants:
        for streams in plan.streams:
            await variant.wave(prompts(plan.kinds[0], streams), tokens)
        refusal = await variant.schema_refusal() if "json" in plan.kinds else None
        if refusal is not None:
            refusals.setdefault(refusal, []).append(variant.name)
    for reason, names in refusals.items():
        notes.append(f"{', '.join(names)} answered the JSON prompts without their schemas: {reason}")


async def measure(plan: Plan, variants: Sequence[Variant], keep: Callable[[Wave], None]) -> None:
    """Run the plan; in each cell the variants follow one another, each time beginning with another one."""
    for number, (each, kind, streams) in enumerate(plan.cells()):
        asked = prompts(kind, streams, start=each * streams)
        shift = number % len(variants)
        for variant in [*variants[shift:], *variants[:shift]]:
            traces = await variant.wave(asked, plan.tokens)
            keep(Wave(variant.name, kind, streams, each, traces))
