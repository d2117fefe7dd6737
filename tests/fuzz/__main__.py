"""`python -m tests.fuzz`: a million spoiled inputs, in several processes; `make fuzz` calls it.

Prints a table, counts by target. Exit code 1 if anything failed, each kind with the command that shows its input again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from tests.fuzz.crew import BY_NAME, run
from tests.fuzz.hunt import Findings, sample


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="in all, shared out among the targets")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="another one makes other inputs")
    parser.add_argument(
        "--target", action="append", choices=list(BY_NAME), help="only this one; may be repeated"
    )
    parser.add_argument("--show", type=int, metavar="NUMBER", help="this input of the target, taken once")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    arguments = parser.parse_args()
    chosen = [BY_NAME[name] for name in arguments.target or BY_NAME]
    if arguments.show is not None:
        given = sample(chosen[0], arguments.seed, arguments.show)
        print(given, flush=True)
        chosen[0].take(given)
        return 0
    began = time.monotonic()
    found = run(chosen, arguments.inputs, arguments.processes, arguments.seed)
    show(found, time.monotonic() - began, arguments.seed)
    if arguments.json:
        figures = {name: {"inputs": one.inputs, "failures": one.failures} for name, one in found.items()}
        arguments.json.write_bytes(orjson.dumps(figures))
    return 1 if any(one.failures for one in found.values()) else 0


def show(found: dict[str, Findings], wall_s: float, seed: int) -> None:
    total = Findings()
    table = Table(title=f"seed {seed}, {wall_s:.0f} s")
    for heading in ("target", "inputs", "failures", "µs an input", "slowest, ms"):
        table.add_column(heading, justify="left" if heading == "target" else "right")
    for name, one in found.items():
        total.add(one)
        table.add_row(name, *_figures(one))
    table.add_section()
    table.add_row("all", *_figures(total))
    console = Console()
    console.print(table)
    for name, one in found.items():
        for kind, (count, first) in one.failures.items():
            console.print(f"\n[bold]{name}[/bold], {count} times: ", end="")
            console.print(kind, markup=False, highlight=False)
            command = f"python -m tests.fuzz --seed {seed} --target {name!r} --show {first}"
            console.print(f"  {command}", markup=False, highlight=False)


def _figures(one: Findings) -> tuple[str, ...]:
    failures = sum(count for count, _ in one.failures.values())
    each_us = one.took_s / max(1, one.inputs) * 1e6
    return f"{one.inputs:,}", f"{failures:,}", f"{each_us:,.0f}", f"{one.slowest_s * 1e3:,.1f}"


if __name__ == "__main__":
    sys.exit(main())
