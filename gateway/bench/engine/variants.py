"""What `sparkgate bench engine` compares: the ways of our engine, and the baselines.

In: a `Setup`. Out: `Variant`s that are ready, and notes on what is missing and how to get it. Every server is
a process of its own that ends with the block; a baseline that cannot be started is left out with a note, our
engine must start.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import orjson

from gateway.bench import servers
from gateway.bench.engine import stream, transformers_generate, xllamacpp_server
from gateway.bench.engine.prompts import Prompt, prompts
from gateway.bench.engine.report import LLAMA, TRANSFORMERS
from gateway.bench.engine.traces import Trace
from gateway.bench.engine.ways import NO_DRAFTER, Way
from gateway.bench.machine import cores
from gateway.bench.servers import NotStarted

BASELINES = (TRANSFORMERS, LLAMA)
_MODULE = (sys.executable, "-P", "-m")
_PATIENCE_S = 600.0  # between two chunks of an answer
_PROMPT_ROOM_TOKENS = 768  # in llama.cpp's slots, for a prompt
_LINE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Setup:
    """What to start. `url` None starts the engines; `max_streams`, `tokens`: how much room servers need."""

    model: str
    data_dir: Path
    ways: tuple[Way, ...]
    max_streams: int
    tokens: int
    url: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    draft_confidence: float = 0.0
    threads: int | None = None
    baselines: tuple[str, ...] = ()
    llama_python: Path | None = None
    llama_server: Path | None = None
    gguf: Path | None = None

    @property
    def baseline_threads(self) -> int:
        return self.threads or cores()


class Variant(Protocol):
    """One side of the comparison."""

    name: str

    async def wave(self, asked: Sequence[Prompt], tokens: int) -> tuple[Trace, ...]:
        """The answers to all prompts, asked at once, greedy, `tokens` long where no schema ends them."""
        ...

    async def schema_refusal(self) -> str | None:
        """Why it cannot hold an answer to a JSON Schema; None if it can."""
        ...


@dataclass(slots=True)
class HttpVariant:
    """A server that speaks OpenAI's HTTP. `extra` goes into every body."""

    name: str
    session: aiohttp.ClientSession
    url: str
    model: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    takes_schemas: bool = True

    async def wave(self, asked: Sequence[Prompt], tokens: int) -> tuple[Trace, ...]:
        return await stream.wave(self.session, self.url, [self.body(prompt, tokens) for prompt in asked])

    def body(self, prompt: Prompt, tokens: int) -> dict[str, Any]:
        ends_itself = self.takes_schemas and prompt.schema is not None
        schema = {"name": "answer", "schema": prompt.schema, "strict": True}
        ending = (
            {"response_format": {"type": "json_schema", "json_schema": schema}}
            if ends_itself
            else {"ignore_eos": True}
        )
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": prompt.text}],
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **ending,
            **self.extra,
        }

    async def schema_refusal(self) -> str | None:
        """Ask once for an answer that fits a schema; where that is refused, do without from then on."""
        (trace,) = await self.wave(prompts("json", 1), 8)
        self.takes_schemas = trace.error is None
        return trace.error


@dataclass(slots=True)
class GenerateVariant:
    """transformers' generate: a whole batch advances together."""

    name: str
    running: Process
    log: Path

    async def wave(self, asked: Sequence[Prompt], tokens: int) -> tuple[Trace, ...]:
        assert self.running.stdin is not None
        batch = {"prompts": [prompt.text for prompt in asked], "tokens": tokens}
        try:
            self.running.stdin.write(orjson.dumps(batch) + b"\n")
            steps_s = (await self.answer())["steps_s"]
        except (NotStarted, ConnectionError) as error:
            return tuple(Trace(error=str(error)) for _ in asked)
        trace = Trace(tuple((at_s, 1) for at_s in steps_s), steps_s[-1], len(steps_s))
        return tuple(trace for _ in asked)

    async def schema_refusal(self) -> str | None:
        return "it has no grammar"

    async def answer(self) -> dict[str, Any]:
        """The next line of the process. Raises NotStarted when it has ended."""
        assert self.running.stdout is not None
        line = await self.running.stdout.readline()
        if not line:
            raise NotStarted(servers.last_words(self.log))
        answer: dict[str, Any] = orjson.loads(line)
        return answer


@asynccontextmanager
async def opened(setup: Setup, notes: list[str], tell: Callable[[str], None]) -> AsyncIterator[list[Variant]]:
    """The variants, ours first; `tell` hears what is being started. Raises NotStarted for our engine only."""
    async with AsyncExitStack() as stack:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sparkgate-bench-")))
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_read=_PATIENCE_S),
                connector=aiohttp.TCPConnector(limit=0, force_close=True),  # a kept one may just be closing
            )
        )
        found: list[Variant] = [*await _ours(setup, stack, session, logs, tell)]
        for name, start in (*_transformers(setup, notes), *_llamas(setup, notes)):
            tell(f"starting {name}")
            try:
                found.append(await start(stack, session, logs))
            except NotStarted as error:
                notes.append(f"{name} could not be started: {error}")
        yield found


Start = Callable[[AsyncExitStack, aiohttp.ClientSession, Path], Any]


async def _ours(
    setup: Setup,
    stack: AsyncExitStack,
    session: aiohttp.ClientSession,
    logs: Path,
    tell: Callable[[str], None],
) -> list[HttpVariant]:
    """A variant for each way; an engine for all that can share one."""
    found: list[HttpVariant] = []
    urls: dict[tuple[str, str], str] = {}
    for way in setup.ways:
        shared = (way.drafter, way.schedule)
        if shared not in urls:
            urls[shared] = setup.url or await _started(setup, way, stack, session, logs, tell)
        url = urls[shared]
        model = await _served_model(session, url)
        found.append(HttpVariant(way.name, session, url, model, {"sparkgate": {"speculation": way.mode}}))
    return found


async def _started(
    setup: Setup,
    way: Way,
    stack: AsyncExitStack,
    session: aiohttp.ClientSession,
    logs: Path,
    tell: Callable[[str], None],
) -> str:
    """The URL of a new engine for `way`."""
    if importlib.util.find_spec("torch") is None:
        raise NotStarted('the engine needs torch: pip install "sparkgate[engine]", or name one with --url')
    tell(f"starting the engine, drafter {way.drafter}, schedule {way.schedule}")
    port = servers.free_port()
    url = f"http://127.0.0.1:{port}"
    fetch = [*_engine_module("fetch", setup), "--drafter", way.drafter]
    await servers.output_of(fetch)  # so that a download shows its progress
    command = engine_command(setup, way, port)
    await stack.enter_async_context(servers.server(command, url, logs / f"engine-{port}.log", session))
    return url


def engine_command(setup: Setup, way: Way, port: int) -> list[str]:
    """Without the prefix cache: all variants answer the same prompts, and none shall know them already."""
    command = [*_engine_module("serve", setup), "--port", str(port)]
    command += ["--dtype", setup.dtype, "--device", setup.device]
    command += ["--drafter", way.drafter, "--draft-schedule", way.schedule]
    command += ["--draft-confidence", str(setup.draft_confidence)]
    command += ["--max-batch", str(setup.max_streams), "--no-prefix-cache"]
    return command + (["--threads", str(setup.threads)] if setup.threads is not None else [])


def _engine_module(command: str, setup: Setup) -> list[str]:
    return [*_MODULE, "engine", command, "--model", setup.model, "--data-dir", str(setup.data_dir)]


async def _served_model(session: aiohttp.ClientSession, url: str) -> str:
    try:
        async with session.get(f"{url}/v1/models") as answer:
            return str((await answer.json())["data"][0]["id"])
    except (aiohttp.ClientError, ValueError, KeyError, IndexError) as error:
        raise NotStarted(f"no engine answers at {url}: {error}") from None


def _transformers(setup: Setup, notes: list[str]) -> list[tuple[str, Start]]:
    if TRANSFORMERS not in setup.baselines:
        return []
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        notes.append('transformers was left out: pip install "sparkgate[engine]"')
        return []

    async def start(stack: AsyncExitStack, session: aiohttp.ClientSession, logs: Path) -> Variant:
        folder = await servers.output_of([*_engine_module("fetch", setup), "--drafter", NO_DRAFTER])
        command = [
            *_MODULE,
            transformers_generate.__name__,
            folder,
            setup.device,
            str(setup.baseline_threads),
        ]
        log = logs / "transformers.log"
        running = await stack.enter_async_context(servers.process(command, log, pipes=True))
        variant = GenerateVariant(TRANSFORMERS, running, log)
        await variant.answer()
        return variant

    return [(TRANSFORMERS, start)]


def _llamas(setup: Setup, notes: list[str]) -> list[tuple[str, Start]]:
    """The builds of llama.cpp that are there: the wheel's, and a binary that was named."""
    if LLAMA not in setup.baselines:
        return []
    gguf = setup.gguf or find_gguf(setup.data_dir / "models", setup.model)
    if gguf is None:
        notes.append(f"llama.cpp was left out: no GGUF file of {setup.model} is known; name one with --gguf")
        return []
    python = setup.llama_python or (Path(sys.executable) if importlib.util.find_spec("xllamacpp") else None)
    slot_tokens = -(-(_PROMPT_ROOM_TOKENS + setup.tokens) // 256) * 256
    slots, threads = setup.max_streams, setup.baseline_threads
    builds: list[tuple[str, Callable[[int], list[str]]]] = []
    if python is not None:
        wheel = [str(python), "-I", xllamacpp_server.__file__, str(gguf)]
        sizes = [str(slots), str(slot_tokens), str(threads)]
        builds.append((f"{LLAMA} (xllamacpp)", lambda port: [*wheel, str(port), *sizes]))
    if setup.llama_server is not None:
        binary = [str(setup.llama_server), "-m", str(gguf), "--host", "127.0.0.1", "-t", str(threads)]
        binary += ["-np", str(slots), "-c", str(slots * slot_tokens), "--cache-ram", "0"]
        builds.append((f"{LLAMA} (llama-server)", lambda port: [*binary, "--port", str(port)]))
    if not builds:
        notes.append(
            "llama.cpp was left out: pip install xllamacpp, here or in another environment (--llama-python), "
            "or name a build of llama-server with --llama-server"
        )
    return [(name, _llama_start(name, command)) for name, command in builds]


def _llama_start(name: str, command: Callable[[int], list[str]]) -> Start:
    async def start(stack: AsyncExitStack, session: aiohttp.ClientSession, logs: Path) -> Variant:
        port = servers.free_port()
        url = f"http://127.0.0.1:{port}"
        await stack.enter_async_context(servers.server(command(port), url, logs / f"{name}.log", session))
        return HttpVariant(name, session, url, LLAMA, {"cache_prompt": False})

    return start


def find_gguf(models: Path, model: str) -> Path | None:
    """The GGUF file in the folder whose name begins with the model's, upper and lower case alike."""
    found = (path for path in sorted(models.glob("*.gguf")) if path.name.lower().startswith(model.lower()))
    return next(found, None)
