"""What happens to processes, disks and clocks, under load: what clients see, and that no answered call's row is lost.

The real product with two workers and an upstream of our own. `make test-faults` runs all of it and prints a table;
`make test` only reads this file.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
from rich.console import Console
from rich.table import Table
from sqlalchemy import make_url

from gateway.ledger import embedded, postmaster
from tests.system.product import PATIENCE_S, Product
from tests.system.test_ledger_kills import (
    PATH,
    Load,
    _answered_again,
    assert_the_ledger_has,
    silenced,
    under_load,
    wait_for_the_drain,
)
from tests.system.upstream import Behaviour, Upstream

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(900),
    pytest.mark.skipif("SPARKGATE_EXAMPLES" not in os.environ, reason="`make test-faults` runs them"),
]
FOR_S = 5.0
DAY_S = 86_400
SPOOL_MB = 24
CLOCK = Path(__file__).with_name("clock.c")


@dataclass
class Row:
    """One fault's line of the table."""

    fault: str
    answered: int
    broken: int
    refused: str
    rows_lost: int
    seen: str


rows: list[Row] = []


@pytest.fixture(scope="module", autouse=True)
def the_table() -> Iterator[None]:
    """Printed when all is done, and kept as JSON where `SPARKGATE_PROCESS_FAULTS_JSON` says."""
    yield
    table = Table(title="faults of processes, disk and clock", title_justify="left")
    for column in ("fault", "calls answered", "broken off", "refused", "rows lost", "seen"):
        table.add_column(column)
    for row in rows:
        table.add_row(*(str(value) for value in vars(row).values()))
    Console(width=160).print(table)
    if path := os.environ.get("SPARKGATE_PROCESS_FAULTS_JSON"):
        Path(path).write_text(json.dumps([vars(row) for row in rows], indent=1))


@contextmanager
def running(*, env: dict[str, str] | None = None, spool: bool = False) -> Iterator[Product]:
    """`spool`: on a small disk of its own."""
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream(Behaviour(0.02, 0.002, output_tokens=4)))
        product = Product("--no-engine", "--no-dashboard", "--workers", 2, env=env)
        stack.callback(product.remove)
        if spool:
            stack.enter_context(small_disk(product.data_dir / "spool"))
        config = product.data_dir / "sparkgate.yaml"
        config.write_text(
            f'targets:\n  - {{name: cloud, kind: openai, base_url: "{upstream.url}/v1", model: m}}\n'
        )
        product.options += ["--config", str(config)]
        product.start()
        yield product


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={SPOOL_MB}m", "tmpfs", str(folder)]
    if subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture(scope="module")
def product() -> Iterator[Product]:
    with running() as product:
        yield product


seen_before: dict[int, list[str]] = {}  # of one product, what earlier faults had answered


def meet(product: Product, fault: str, inflict: Callable[[], object], what: str = "") -> Load:
    """Load before, during and after; at the end all answered calls are in the ledger."""

    async def story() -> Load:
        async with under_load(product) as load:
            await _answered_again(load)
            await asyncio.to_thread(inflict)
            await _answered_again(load)
            await asyncio.sleep(1.0)
        return load

    load = asyncio.run(story())
    wait_for_the_drain(product)
    earlier = seen_before.setdefault(id(product), [])
    earlier += load.completed
    assert_the_ledger_has(product, earlier)
    refused = ", ".join(sorted({str(status) for status in load.refused}))
    told = f"{len(load.refused)} ({refused})" if refused else "0"
    rows.append(Row(fault, len(load.completed), load.broken, told, 0, what))
    return load


def ask(product: Product, statement: str) -> None:
    """As its superuser, whatever is the default of transactions."""
    with _connected(product) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(statement.encode())


def _connected(product: Product) -> psycopg.Connection[tuple[object, ...]]:
    url = embedded.running_url(product.data_dir)
    assert url is not None
    where = make_url(url)
    return psycopg.connect(
        host=str(where.query["host"]),
        port=int(str(where.query["port"])),
        user=where.username,
        dbname=where.database,
        autocommit=True,
    )


def _server(product: Product) -> psutil.Process:
    server = postmaster.find(product.data_dir / "pg")
    assert server is not None
    return psutil.Process(server.pid)


def _parts(product: Product, module: str) -> list[psutil.Process]:
    found = []
    for process in product.family():
        with suppress(psutil.Error):
            if module in process.cmdline():
                found.append(process)
    return found


def test_postgres_killed(product: Product) -> None:
    load = meet(product, "Postgres killed (SIGKILL)", lambda: _server(product).kill(), "nothing")
    assert (load.broken, load.refused) == (0, [])


def test_postgres_restarted(product: Product) -> None:
    def restart() -> None:
        server = _server(product)
        server.send_signal(signal.SIGINT)  # Postgres's fast shutdown
        server.wait(PATIENCE_S)
        time.sleep(FOR_S)

    load = meet(product, "Postgres shut down, and started by the supervisor", restart, "nothing")
    assert (load.broken, load.refused) == (0, [])


def test_postgres_silent(product: Product) -> None:
    def silence() -> None:
        with silenced(_server(product)):
            time.sleep(FOR_S)

    load = meet(product, f"Postgres hung for {FOR_S:.0f} s (SIGSTOP)", silence, "nothing")
    assert (load.broken, load.refused) == (0, [])


def test_postgres_read_only(product: Product) -> None:
    def read_only() -> None:
        ask(product, "ALTER SYSTEM SET default_transaction_read_only = on")
        ask(product, "SELECT pg_reload_conf()")
        time.sleep(FOR_S)
        ask(product, "ALTER SYSTEM RESET default_transaction_read_only")
        ask(product, "SELECT pg_reload_conf()")

    load = meet(product, f"Postgres read-only for {FOR_S:.0f} s", read_only, "nothing")
    assert (load.broken, load.refused) == (0, [])


def test_postgres_out_of_connections(product: Product) -> None:
    def crowd() -> None:
        with ExitStack() as stack:
            ask(
                product,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
            )
            with suppress(psycopg.OperationalError):
                while True:
                    stack.enter_context(_connected(product))
            time.sleep(FOR_S)

    load = meet(product, f"Postgres out of connections for {FOR_S:.0f} s, ours cut", crowd, "nothing")
    assert (load.broken, load.refused) == (0, [])


def test_a_worker_killed(product: Product) -> None:
    worker = _parts(product, "gateway.worker")[0]
    meet(product, "gateway worker killed (SIGKILL)", worker.kill, "its calls under way break off")


def test_the_drain_killed(product: Product) -> None:
    load = meet(product, "drain killed (SIGKILL)", _parts(product, "gateway.ledger.drain")[0].kill, "nothing")
    assert (load.broken, load.refused) == (0, [])


def test_a_full_disk() -> None:
    with running(spool=True) as product:
        filler = product.data_dir / "spool" / "filler"

        def fill() -> None:
            room = os.statvfs(filler.parent)
            filler.write_bytes(bytes(room.f_bavail * room.f_frsize - 8 * 2**20))
            time.sleep(FOR_S)
            filler.unlink()

        load = meet(
            product, f"disk of the spool full for {FOR_S:.0f} s", fill, "503 ledger_full, Retry-After"
        )
        assert set(load.refused) == {503}
        assert load.broken == 0
        assert product.get("/health").json()["ledger"]["lost_records"] == 0


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The shim, and the file with its offset."""
    folder = tmp_path_factory.mktemp("clock")
    offset, library = folder / "offset", folder / "clock.so"
    offset.write_bytes(struct.pack("l", 0))
    try:
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(CLOCK), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no C compiler to make a clock with")
    return library, offset


def test_a_clock_that_steps(clock: tuple[Path, Path]) -> None:
    library, offset = clock
    env = {"LD_PRELOAD": str(library), "SPARKGATE_CLOCK_OFFSET": str(offset)}
    with running(env=env) as product:
        furthest_s = 0
        for step_s, how in (
            (3_600, "an hour ahead"),
            (-3_600, "two hours back"),
            (3 * DAY_S, "three days ahead"),
            (-2 * DAY_S, "five days back"),
        ):

            def step(step_s: int = step_s) -> None:
                with offset.open("r+b") as file:
                    file.write(struct.pack("l", step_s))
                time.sleep(2.0)

            load = meet(product, f"clock stepped {how}", step, "nothing")
            assert (load.broken, load.refused) == (0, [])
            with _connected(product) as connection:
                newest = connection.execute(
                    "SELECT extract(epoch FROM max(started_at))::float8 FROM exchanges"
                )
                ((at,),) = newest.fetchall()
            furthest_s = max(furthest_s, step_s)
            assert isinstance(at, float)
            assert abs(at - time.time() - furthest_s) < 60  # it was felt
        offset.write_bytes(struct.pack("l", 0))


def test_sigterm_under_load() -> None:
    with running() as product:

        async def story() -> Load:
            async with under_load(product) as load:
                await _answered_again(load)
                await asyncio.to_thread(product.stop)
            return load

        load = asyncio.run(story())
        product.start()
        wait_for_the_drain(product)
        assert_the_ledger_has(product, load.completed)
        cut = load.broken - load.unconnected
        seen = f"nobody listens any more ({load.unconnected} calls)"
        rows.append(Row("SIGTERM under load", len(load.completed), cut, str(len(load.refused)), 0, seen))


LONG = "Tell me a long story about the sea. " * 12


@pytest.fixture(scope="module")
def with_engine() -> Iterator[Product]:
    """The bundled engine, and a target beside it that calls fall back to."""
    with ExitStack() as stack:
        upstream = stack.enter_context(Upstream(Behaviour(0.02, 0.002, output_tokens=4)))
        product = Product("--no-dashboard", with_model=True)
        stack.callback(product.remove)
        config, policy = product.data_dir / "sparkgate.yaml", product.data_dir / "policy.yaml"
        config.write_text(
            f'targets:\n  - {{name: engine, kind: engine, url: "http://127.0.0.1:{product.engine_port}"}}\n'
            f'  - {{name: cloud, kind: openai, base_url: "{upstream.url}/v1", model: m}}\n'
        )
        policy.write_text(
            "version: 1\ndefaults: {candidates: [engine], fallback: [cloud], explore: 0, "
            "timeouts: {first_token_s: 20, idle_s: 8, total_s: 60}}\n"
        )
        product.options += ["--config", str(config), "--policy", str(policy)]
        product.start()
        yield product


def _ask_engine(product: Product, model: str = "engine", prompt: str = LONG) -> tuple[int, str]:
    """Status, and the error code or `answer`."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 400,
        "stream": True,
    }
    headers = {"Authorization": f"Bearer {product.key}"}
    answer = httpx.post(product.url + PATH, json=body, headers=headers, timeout=PATIENCE_S, trust_env=False)
    if answer.status_code != 200:
        return answer.status_code, str(answer.json()["error"]["code"])
    last = answer.text.rstrip().rpartition("data: ")[2]
    return 200, "answer" if last == "[DONE]" else str(json.loads(last)["error"]["code"])


def _in_mid_answer(product: Product, inflict: Callable[[psutil.Process], object]) -> tuple[int, str]:
    """What a caller of the engine sees when this happens to it while it answers."""

    async def story() -> tuple[int, str]:
        call = asyncio.create_task(asyncio.to_thread(_ask_engine, product))
        await asyncio.sleep(1.0)
        inflict(psutil.Process(product.pid_of("engine")))
        return await call

    return asyncio.run(story())


def _back_again(product: Product) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while _ask_engine(product, prompt="Hello")[1] != "answer":
        assert time.monotonic() < deadline, "the engine does not come back"
        time.sleep(0.5)


def _note(fault: str, told: tuple[int, str], instead: tuple[int, str]) -> None:
    seen = f"in mid-answer {told[0]}, then {told[1]}; the next call {instead[0]} {instead[1]}"
    rows.append(Row(fault, 2, 0, "0", 0, seen))


def test_the_engine_killed(with_engine: Product) -> None:
    told = _in_mid_answer(with_engine, psutil.Process.kill)
    instead = _ask_engine(with_engine, "auto")
    _note("engine killed (SIGKILL, as by the kernel out of memory)", told, instead)
    assert told == (200, "cut_off")
    assert instead == (200, "answer")
    _back_again(with_engine)


def test_the_engine_hung(with_engine: Product) -> None:
    engine = psutil.Process(with_engine.pid_of("engine"))
    try:
        told = _in_mid_answer(with_engine, psutil.Process.suspend)
        instead = _ask_engine(with_engine, "auto")
    finally:
        engine.resume()
    _note("engine hung (SIGSTOP)", told, instead)
    assert told == (200, "timeout_idle")
    assert instead == (200, "answer")
    _back_again(with_engine)


def test_the_engine_out_of_memory(with_engine: Product) -> None:
    """No more address space than it has: what it asks for now is refused."""
    engine = psutil.Process(with_engine.pid_of("engine"))
    before = engine.rlimit(resource.RLIMIT_AS)
    engine.rlimit(resource.RLIMIT_AS, (engine.memory_info().vms, before[1]))
    told = _ask_engine(with_engine, prompt=LONG * 4)
    instead = _ask_engine(with_engine, "auto")
    _note("engine out of memory (RLIMIT_AS)", told, instead)
    with suppress(psutil.NoSuchProcess):
        engine.rlimit(resource.RLIMIT_AS, before)
    assert instead == (200, "answer")
    _back_again(with_engine)
