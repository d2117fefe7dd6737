"""Assembles a served model and runs it until a signal: load, warm up, listen, drain, exit.

In: `ServeOptions`. Out: nothing; returns when everything has stopped. User mistakes are `StartError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import uvicorn

from engine.checkpoint import ModelConfig, read_config, read_weights
from engine.errors import StartError
from engine.fetch import FetchedModel, Progress, fetch_model
from engine.http.app import build_app
from engine.http.bridge import Bridge
from engine.http.generate import Served
from engine.http.prompts import PromptReader
from engine.linear import has_fast_bfloat16
from engine.loop import Engine
from engine.metrics import EngineMetrics
from engine.model import Llama
from engine.scheduler import Limits
from engine.sequence import Sampling, Sequence
from engine.text import TextStream
from engine.tokenizer import ModelTokenizer

log = logging.getLogger("engine")

DRAIN_GRACE_S = 20.0
_WARM_UP_PROMPT = 64
_WARM_UP_ANSWER = 8


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line decides. None means: choose for the machine."""

    model: str
    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8090
    dtype: str = "auto"
    device: str = "auto"
    max_batch: int = 16
    kv_tokens: int | None = None
    prefill_chunk: int | None = None
    threads: int | None = None
    max_waiting: int = 256


def serve(options: ServeOptions, progress: Progress) -> None:
    """Run until SIGTERM or SIGINT."""
    with bind(options.host, options.port) as listener:
        begun = time.monotonic()
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        sys.setswitchinterval(0.001)  # the loop's thread waits this long for HTTP work between operators
        device = choose_device(options.device)
        dtype = choose_dtype(options.dtype, device)
        fetched = fetch_model(options.model, options.data_dir, progress)
        config = read_config(fetched.folder)
        tokenizer = ModelTokenizer(fetched.folder)
        model = load_model(config, fetched, dtype, device)
        asyncio_run = uvicorn.Config("", loop="auto").get_loop_factory()
        with asyncio.Runner(loop_factory=asyncio_run) as runner:
            runner.run(_run(options, fetched, model, tokenizer, listener, begun))


def load_model(config: ModelConfig, fetched: FetchedModel, dtype: torch.dtype, device: torch.device) -> Llama:
    try:
        return Llama(config, read_weights(fetched.folder), dtype, device)
    except KeyError as missing:
        raise StartError(f"{fetched.folder} lacks the tensor {missing}") from None
    except torch.OutOfMemoryError:
        raise StartError(f"{fetched.name} does not fit into the memory of {device}") from None


def build_engine(options: ServeOptions, model: Llama, bridge: Bridge) -> Engine:
    on_cpu = model.device.type == "cpu"
    chunk = options.prefill_chunk or (256 if on_cpu else 2048)
    kv_tokens = options.kv_tokens or max(model.config.max_positions, 4 * 8192)
    return Engine(
        model,
        limits=Limits(options.max_batch, chunk),
        kv_tokens=kv_tokens,
        max_waiting=options.max_waiting,
        deliver=bridge.deliver,
    )


async def _run(
    options: ServeOptions,
    fetched: FetchedModel,
    model: Llama,
    tokenizer: ModelTokenizer,
    listener: socket.socket,
    begun: float,
) -> None:
    bridge = Bridge(asyncio.get_running_loop())
    engine = build_engine(options, model, bridge)
    warm_up(engine)
    metrics = EngineMetrics(engine)
    engine.observer = metrics
    end_ids = model.config.eos_ids | tokenizer.end_ids
    prompts = PromptReader(tokenizer, end_ids, model.config.vocab_size, engine.max_context)
    served = Served(fetched.name, fingerprint(fetched.name, model), engine, bridge, prompts)
    config = uvicorn.Config(
        build_app(served, metrics),
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=2,
        ws="none",
    )
    server = QuietServer(config)
    engine.start()
    drain = asyncio.create_task(_drain_on_signal(engine, server))
    log.info(
        "serving %s (%s on %s, %d threads, %d kv tokens) at http://%s:%d, ready after %.1f s",
        fetched.name,
        str(model.dtype).removeprefix("torch."),
        model.device,
        torch.get_num_threads(),
        engine.kv_total_tokens,
        *listener.getsockname()[:2],
        time.monotonic() - begun,
    )
    await server.serve(sockets=[listener])
    drain.cancel()
    log.info("stopped")


async def _drain_on_signal(engine: Engine, server: uvicorn.Server) -> None:
    """On the first signal let the engine finish its open work, then the server go."""
    signalled = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signalled.set)
    await signalled.wait()
    log.info("draining, %d open", engine.num_open)
    await asyncio.to_thread(engine.drain, DRAIN_GRACE_S)
    server.should_exit = True


class QuietServer(uvicorn.Server):
    """uvicorn without its signal handling: draining decides when the server stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def warm_up(engine: Engine) -> None:
    """Two short sequences: the first pays for set-up, the second is measured."""
    sequences = (
        Sequence(
            id=f"warm-up-{number}",
            prompt_ids=[1] * min(_WARM_UP_PROMPT, engine.max_context - _WARM_UP_ANSWER),
            sampling=Sampling(temperature=0.0),
            max_new_tokens=_WARM_UP_ANSWER,
            text=TextStream(lambda token_id: b""),
        )
        for number in range(2)
    )
    engine.warm_up(sequences)


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise StartError("--device cuda: this PyTorch sees no CUDA device; use --device cpu or auto")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else has_fast_bfloat16()
        return torch.bfloat16 if fast else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[name]


def bind(host: str, port: int) -> socket.socket:
    """Take the port before anything slow happens; connections are accepted only once the model is ready."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise StartError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener


def fingerprint(name: str, model: Llama) -> str:
    """Changes when equal seeds may give different answers: other model, number format or library."""
    parts = f"{name} {model.config} {model.dtype} {model.device.type} {torch.__version__}"
    return "fp_" + hashlib.sha256(parts.encode()).hexdigest()[:10]
