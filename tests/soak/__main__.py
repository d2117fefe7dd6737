"""`python -m tests.soak`: the whole product under a steady mixed load, with faults, reloads and restarts; `make soak`.

First 20 s find out how many calls a second this machine can do with this mix; then so many minutes (`--minutes`,
default 15) at 60 % of it. A worker is killed after a quarter, Postgres restarted after half. Prints a table of the
criteria; exit code 1 if one of them is not met. Wants the machine to itself: what else runs is in the latencies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import orjson
import psutil
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from gateway.bench.gateway.traffic import mock
from gateway.ledger import embedded, postmaster
from gateway.upstreams.http_pool import IDLE_S
from router.shapes import SHAPES
from tests.faults.hostile import MISBEHAVIOURS
from tests.soak import ledger
from tests.soak.chart import svg
from tests.soak.traffic import (
    BACKED,
    CHUNKS,
    CONNECTIONS,
    FIRST_MS,
    GAP_MS,
    KINDS,
    LIMITED_RPM,
    SEGMENT_S,
    Clients,
    Kind,
    Seen,
    generate,
)
from tests.soak.verdict import Run, Sample, checks
from tests.system.product import ROOT, Product

SHARE = 0.6  # of saturation
SATURATION_S = 20.0
RELOAD_S = 20.0
SAMPLE_S = 2.0
WORKERS = 2
MOST = 10**9  # a limit that is never met
KILL_AT, RESTART_AT = 0.25, 0.5  # of the run: a worker is killed, Postgres restarted
PARTS = {"gateway.worker": "worker", "gateway.ledger.drain": "drain"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--saturation-s", type=float, default=SATURATION_S)
    parser.add_argument("--rate", type=float, help="calls a second, instead of 60 % of what is found")
    parser.add_argument("--json", type=Path, help="write figures and samples here")
    parser.add_argument("--plot", type=Path, help="write an SVG here")
    arguments = parser.parse_args()
    run = asyncio.run(soak(arguments.minutes * 60, arguments.saturation_s, arguments.rate))
    if arguments.json:
        found = {"checks": [asdict(check) for check in checks(run)], "run": asdict(run)}
        arguments.json.write_bytes(orjson.dumps(found))
    if arguments.plot:
        arguments.plot.write_text(svg(run))
    return show(run)


async def soak(seconds: float, saturation_s: float, rate: float | None) -> Run:
    async with AsyncExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="sparkgate-soak-"))
        stack.callback(shutil.rmtree, folder)
        product = await stack.enter_async_context(running_product(folder))
        keys = [_new_key(product, "soak", rpm=MOST, tpm=MOST, parallel=MOST, monthly_usd=MOST)]
        keys.append(_new_key(product, "limited", rpm=LIMITED_RPM))
        await asyncio.sleep(3.0)  # until every worker knows them
        before = {part: max(one.num_fds() for one in found) for part, found in _parts(product).items()}
        seen = Seen()
        rates = await _saturation(product, keys[0], folder, saturation_s, seen)
        most = sum(rates.values())
        share = SHARE if rate is None else rate / most
        print(f"at most {most:,.0f} calls/s with this mix; now {most * share:,.0f} a second", file=sys.stderr)
        run = Run(seconds, most * share)
        base = await asyncio.to_thread(_policies, product)
        names: dict[int, str] = {}
        began = time.monotonic()
        jobs = [
            _paced(kind, product, keys[0], folder, rates[kind.name] * share, began + seconds, seen)
            for kind in KINDS
        ]
        jobs += [
            Clients(product.url, keys[0], keys[1], seen).run(began + seconds),
            _reload(product, run, began),
            _watch(product, run, names, began),
            _disturb(product, run, began),
            _progress(seconds, began),
        ]
        async with asyncio.TaskGroup() as group:  # what fails ends all
            for job in jobs:
                group.create_task(job)
        _sum_up(run, seen)
        await asyncio.sleep(IDLE_S + 5.0)  # until connections that nobody needs are closed
        run.at_rest = {name: (before[part], one.num_fds()) for name, part, one in _named(product, names)}
        await asyncio.to_thread(ledger.settle, product)
        await asyncio.to_thread(
            ledger.compare, product, run, seen, time.time() - (time.monotonic() - began), base
        )
        return run


@asynccontextmanager
async def running_product(folder: Path) -> AsyncIterator[Product]:
    """With two upstreams: one that is quick and sound, and one that fails in every way there is."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        sound = await stack.enter_async_context(mock(http, folder))
        settings = f"chunks={CHUNKS}&gap-ms={GAP_MS}&first-ms={FIRST_MS}"
        async with http.post(f"{sound.url}/settings?{settings}") as answer:
            answer.raise_for_status()
        hostile_url = stack.enter_context(_hostile())
        product = Product("--no-engine", "--no-dashboard", "--workers", WORKERS)
        stack.callback(product.remove)
        config, policy = (product.data_dir / f"{name}.yaml" for name in ("sparkgate", "policy"))
        config.write_text(yaml.safe_dump(_deployment(sound.url, hostile_url)))
        policy.write_text(policy_text(0))
        product.options += ["--config", str(config), "--policy", str(policy)]
        await asyncio.to_thread(product.start)
        yield product


@contextmanager
def _hostile() -> Iterator[str]:
    command = [sys.executable, "-m", "tests.faults.hostile"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['plain']}"
        finally:
            process.terminate()


def _deployment(sound_url: str, hostile_url: str) -> dict[str, Any]:
    prices = {"input_usd_per_mtok": 0.1, "output_usd_per_mtok": 0.4}
    common = {"kind": "openai", "api_key": "none", "prices": prices}
    sound = [
        {**common, "name": name, "base_url": f"{sound_url}/v1", "model": "mock-model"}
        for name in ("quick", "steady")
    ]
    hostile = [
        {**common, "name": f"fault.{name}", "base_url": f"{hostile_url}/v1", "model": f"chat/{name}"}
        for name in MISBEHAVIOURS
    ]
    backed = {f"backed.{name}": [f"fault.{name}", "steady"] for name in BACKED}
    return {"engine": {"enabled": False}, "targets": sound + hostile, "models": backed}


def policy_text(number: int) -> str:
    shapes = "".join(
        f"  {shape}: {{candidates: [quick, steady]}}\n" for shape in SHAPES if shape != "embedding"
    )
    timeouts = "{first_token_s: 2, idle_s: 2, total_s: 15}"
    return (
        f"# the {number}th\nversion: 1\nshapes:\n{shapes}defaults:\n  explore: 0.0{number % 5}\n"
        f"  timeouts: {timeouts}\n  retries: {{max: 2, budget: 1.0}}\n"
    )


def _new_key(product: Product, name: str, **terms: int) -> str:
    headers = {"Authorization": f"Bearer {product.key}"}
    answer = httpx.post(
        f"{product.url}/admin/keys", json={"name": name, **terms}, headers=headers, trust_env=False
    )
    answer.raise_for_status()
    return str(answer.json()["key"])


async def _saturation(
    product: Product, key: str, folder: Path, seconds: float, seen: Seen
) -> dict[str, float]:
    """Calls a second of each kind, all going on at once."""
    runs = (generate(kind, product.url, key, folder, seconds, None, seen) for kind in KINDS)
    return dict(zip((kind.name for kind in KINDS), await asyncio.gather(*runs), strict=True))


async def _paced(
    kind: Kind, product: Product, key: str, folder: Path, rate: float, until: float, seen: Seen
) -> None:
    while (left_s := until - time.monotonic()) > 1.0:
        await generate(kind, product.url, key, folder, min(SEGMENT_S, left_s), rate, seen)


async def _reload(product: Product, run: Run, began: float) -> None:
    """A new policy every so often, as an editor writes it."""
    path = product.data_dir / "policy.yaml"
    while time.monotonic() + RELOAD_S < began + run.seconds:
        await asyncio.sleep(RELOAD_S)
        run.reloads += 1
        scratch = path.with_suffix(".new")
        scratch.write_text(policy_text(run.reloads))
        scratch.replace(path)


async def _disturb(product: Product, run: Run, began: float) -> None:
    await asyncio.sleep(KILL_AT * run.seconds)
    run.restarts.append((time.monotonic() - began, "a worker is killed"))
    _parts(product)["worker"][0].kill()
    await asyncio.sleep(began + RESTART_AT * run.seconds - time.monotonic())
    run.restarts.append((time.monotonic() - began, "Postgres restarts"))
    server = postmaster.find(product.data_dir / "pg")
    assert server is not None
    psutil.Process(server.pid).send_signal(signal.SIGINT)  # it ends in order; the supervisor starts it again


async def _watch(product: Product, run: Run, names: dict[int, str], began: float) -> None:
    """Memory and descriptors of every process that lives; fills in their `names` by pid."""
    while (at_s := time.monotonic() - began) < run.seconds:
        for name, _, process in _named(product, names):
            with suppress(psutil.Error):
                sample = Sample(at_s, process.memory_info().rss / 1e6, process.num_fds())
                run.processes.setdefault(name, []).append(sample)
        await asyncio.sleep(SAMPLE_S)
    gone = [name for name, samples in run.processes.items() if samples[-1].at_s < run.seconds - 5 * SAMPLE_S]
    for name in gone:  # the worker that was killed
        del run.processes[name]


def _named(product: Product, names: dict[int, str]) -> Iterator[tuple[str, str, psutil.Process]]:
    """(name, part, process); workers are numbered as they are seen first."""
    for part, found in _parts(product).items():
        for process in found:
            if process.pid not in names:
                count = sum(name.startswith(part) for name in names.values())
                names[process.pid] = f"{part} {count + 1}" if part == "worker" else part
            yield names[process.pid], part, process


def _parts(product: Product) -> dict[str, list[psutil.Process]]:
    found: dict[str, list[psutil.Process]] = {"supervisor": [psutil.Process(product.process.pid)]}
    for process in psutil.Process(product.process.pid).children(recursive=True):
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        for module, part in PARTS.items():
            if module in line:
                found.setdefault(part, []).append(process)
    return found


async def _progress(seconds: float, began: float) -> None:
    columns = (TextColumn("soak"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("soak", total=seconds)
        while (done_s := time.monotonic() - began) < seconds:
            progress.update(bar, completed=done_s)
            await asyncio.sleep(1.0)


def _policies(product: Product) -> int:
    url = embedded.running_url(product.data_dir)
    assert url is not None
    return ledger.policies(url)


def _sum_up(run: Run, seen: Seen) -> None:
    run.answered, run.outcomes, run.broken = len(seen.ids), seen.outcomes, seen.broken
    run.may_break = CONNECTIONS * len(KINDS)  # every call that may be under way as a worker dies
    run.seen, run.unexpected = dict(seen.met), dict(seen.unexpected)


def show(run: Run) -> int:
    found = checks(run)
    table = Table(title=f"soak: {run.seconds / 60:.1f} minutes at {run.rate:,.0f} calls a second")
    for heading in ("criterion", "found", "limit", ""):
        table.add_column(heading)
    for check in found:
        table.add_row(
            check.name, check.found, check.limit, "well" if check.is_well else "[red]NOT WELL[/red]"
        )
    console = Console()
    console.print(table)
    met = ", ".join(f"{name} × {count:,}" for name, count in sorted(run.seen.items()))
    console.print(f"Clients met: {met}", markup=False, highlight=False)
    for what, count in run.unexpected.items():
        console.print(f"unexpected, {count} times: {what}", markup=False, highlight=False)
    return 0 if all(check.is_well for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
