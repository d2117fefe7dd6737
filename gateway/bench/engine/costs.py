"""What output tokens of an own machine cost, and from how many a day on it is cheaper than a model paid by the token.

In: dollars an hour, tokens a second, shares of the time that the machine is used. Out: dollars per million output
tokens, and tokens a day. Pure. The rate is one of output tokens, prompts read beside them, as it was measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gateway.bench.engine.report import usd_per_mtok

SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Machine:
    """What is paid for it, and its output when it is kept busy."""

    name: str
    usd_per_hour: float
    tokens_per_s: float

    def usd_per_mtok(self, utilisation: float = 1.0) -> float:
        """Per million output tokens, where calls use it for this share of the time."""
        return usd_per_mtok(self.usd_per_hour, self.tokens_per_s * utilisation)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A model that is paid by the token, in dollars per million."""

    name: str
    input_usd_per_mtok: float
    output_usd_per_mtok: float

    def usd_per_mtok(self, input_per_output: float) -> float:
        """Of output, with this many input tokens for each."""
        return self.output_usd_per_mtok + input_per_output * self.input_usd_per_mtok


def break_even_tokens_per_day(machine: Machine, upstream_usd_per_mtok: float) -> float | None:
    """Output tokens a day at which both cost the same; None where the machine cannot make as many."""
    usd_per_day = 24 * machine.usd_per_hour
    most = machine.tokens_per_s * SECONDS_PER_DAY
    if usd_per_day > upstream_usd_per_mtok * most / 1e6:
        return None
    return usd_per_day / upstream_usd_per_mtok * 1e6 if usd_per_day else 0.0


def compared(
    machines: Sequence[Machine],
    utilisations: Sequence[float],
    upstreams: Sequence[Upstream],
    input_per_output: float,
) -> dict[str, Any]:
    """All of it as JSON values."""
    return {
        "input_per_output": input_per_output,
        "machines": [_machine(machine, utilisations) for machine in machines],
        "upstreams": [_upstream(upstream, machines, input_per_output) for upstream in upstreams],
    }


def fastest(figures: Iterable[Mapping[str, Any]], usd_per_hour: float) -> list[Machine]:
    """A machine for each variant of a benchmark, at the highest rate that it reached."""
    best: dict[str, Mapping[str, Any]] = {}
    for each in figures:
        rate, known = each["decode_tokens_per_s"], best.get(each["variant"])
        if rate and (known is None or rate > known["decode_tokens_per_s"]):
            best[each["variant"]] = each
    return [
        Machine(f"{name}, {it['kind']} × {it['streams']}", usd_per_hour, it["decode_tokens_per_s"])
        for name, it in best.items()
    ]


def _machine(machine: Machine, utilisations: Iterable[float]) -> dict[str, Any]:
    return {
        "name": machine.name,
        "usd_per_hour": machine.usd_per_hour,
        "tokens_per_s": machine.tokens_per_s,
        "usd_per_mtok": [
            {"utilisation": share, "usd": machine.usd_per_mtok(share)} for share in utilisations
        ],
    }


def _upstream(upstream: Upstream, machines: Iterable[Machine], input_per_output: float) -> dict[str, Any]:
    usd = upstream.usd_per_mtok(input_per_output)
    even = [(machine, break_even_tokens_per_day(machine, usd)) for machine in machines]
    return {
        "name": upstream.name,
        "usd_per_mtok": usd,
        "break_even": [
            {
                "machine": machine.name,
                "tokens_per_day": tokens,
                "utilisation": tokens and tokens / (machine.tokens_per_s * SECONDS_PER_DAY),
            }
            for machine, tokens in even
        ],
    }
