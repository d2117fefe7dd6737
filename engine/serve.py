"""Assembles a served model and runs it until a signal: load, warm up, listen, drain, exit.

In: `ServeOptions`. Out: nothing; returns when everything has stopped. User mistakes are `StartError`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from starlette.applications import Starlette

from engine.checkpoint import read_config
from engine.cost_curve import keep_curve, kept_curve
from engine.drafters.named import Named, load_named
from engine.errors import StartError
from engine.fetch import Progress, fetch_drafter, fetch_model
from engine.http.app import build_app
from engine.http.bridge import Bridge
from engine.http.door import behind_door, key_for
from engine.http.generate import Served
from engine.http.prompts import PromptReader
from engine.http.server import HttpServer
from engine.load import choose_format, load_model
from engine.loop import Engine
from engine.metrics import EngineMetrics
from engine.model import Model
from engine.scheduler import Limits
from engine.sequence import Sampling, Sequence
from engine.speculation import Schedule
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
    max_waiting_per_caller: int | None = None
    prefix_cache: bool = True
    drafter: str = "auto"
    draft_topk: int | None = None  # of learned drafters; None = all tokens
    draft_confidence: float = 0.0
    draft_schedule: Schedule = "prefix"


def serve(options: ServeOptions, progress: Progress) -> None:
    """Run until SIGTERM or SIGINT. The engine has this thread, HTTP one of its own."""
    key = key_for(options.host, os.environ)
    with bind(options.host, options.port) as listener:
        begun_s = time.monotonic()
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        sys.setswitchinterval(0.001)  # how long HTTP work may hold up the model between two operators
        device = choose_device(options.device)
        fetched = fetch_model(options.model, options.data_dir, progress)
        fetch_drafter(options.drafter, options.data_dir, progress)  # a wrong name fails before a long load
        config = read_config(fetched.folder)
        tokenizer = ModelTokenizer(fetched.folder)
        model = load_model(config, fetched.folder, choose_format(options.dtype, device, config), device)
        http = HttpServer()
        bridge = Bridge(http.loop)
        drafter = load_named(
            options.drafter, model, options.data_dir, progress, draft_topk=options.draft_topk
        )
        engine = build_engine(options, model, drafter, bridge)
        costs_file = options.data_dir / "run" / "step_costs.json"
        curve_name = name_of_curve(fingerprint(fetched.name, model), engine)
        warm_up(engine, kept_curve(costs_file, curve_name))
        keep_costs(engine, costs_file, curve_name)
        app = assemble(fetched.name, engine, bridge, tokenizer)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: engine.drain(DRAIN_GRACE_S))
        http.start(behind_door(app, key), listener, on_end=lambda: engine.drain(0.0))
        log.info("serving %s", description(fetched.name, engine, listener, time.monotonic() - begun_s))
        engine.run()
        http.stop()
        keep_costs(engine, costs_file, curve_name)
        log.info("stopped")


def build_engine(options: ServeOptions, model: Model, drafter: Named | None, bridge: Bridge) -> Engine:
    on_cpu = model.device.type == "cpu"
    chunk = options.prefill_chunk or (256 if on_cpu else 2048)
    kv_tokens = options.kv_tokens or max(model.config.max_positions, 4 * 8192)
    engine = Engine(
        model,
        limits=Limits(options.max_batch, chunk),
        kv_tokens=kv_tokens,
        max_waiting=options.max_waiting,
        max_waiting_per_caller=waiting_per_caller(options),
        prefix_cache=options.prefix_cache,
        drafter=drafter.drafter if drafter else None,
        drafter_name=drafter.name if drafter else "",
        draft_confidence=options.draft_confidence,
        deliver=bridge.deliver,
    )
    if engine.speculation:
        engine.speculation.schedule = options.draft_schedule
    return engine


def waiting_per_caller(options: ServeOptions) -> int:
    """As asked, else a quarter of the queue, so that one caller's burst leaves room for others."""
    if options.max_waiting_per_caller is not None:
        return options.max_waiting_per_caller
    return -(-options.max_waiting // 4)


def assemble(name: str, engine: Engine, bridge: Bridge, tokenizer: ModelTokenizer) -> Starlette:
    """The HTTP app over an engine that is warm."""
    metrics = EngineMetrics(engine, name)
    engine.observer = metrics
    config = engine.model.config
    prompts = PromptReader(
        tokenizer, config.eos_ids | tokenizer.end_ids, config.vocab_size, engine.max_context
    )
    return build_app(Served(name, fingerprint(name, engine.model), engine, bridge, prompts), metrics)


def description(name: str, engine: Engine, listener: socket.socket, ready_s: float) -> str:
    """One line for the log."""
    model = engine.model
    host, port = listener.getsockname()[:2]
    return (
        f"{name} ({model.number_format} on {model.device}, {torch.get_num_threads()} threads, "
        f"{engine.kv_total_tokens} kv tokens, drafter {engine.drafter_name or 'none'}) "
        f"at http://{host}:{port}, ready after {ready_s:.1f} s"
    )


def name_of_curve(model_print: str, engine: Engine) -> str:
    """What the costs of a pass hang on: model and number format, the machine, and what was measured."""
    speculation, device = engine.speculation, engine.model.device
    width = 1 + speculation.drafter.num_slots if speculation else 1
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return f"{model_print}, {machine}, {torch.get_num_threads()} threads, {engine.limits.max_batch} x {width}"


def processor() -> str:
    """The machine's name of it; empty where it cannot be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def keep_costs(engine: Engine, file: Path, name: str) -> None:
    """Leave what is known of the costs of a pass to the next start."""
    if engine.speculation is None:
        return
    try:
        keep_curve(file, name, engine.speculation.costs.curve)
    except OSError as error:
        log.warning("the costs of a step are not kept: %s", error)


def warm_up(engine: Engine, curve: Mapping[int, float] | None = None) -> None:
    """Two short sequences: the first pays for set-up, the second, which begins otherwise, is measured."""
    sequences = (
        Sequence(
            id=f"warm-up-{number}",
            prompt_ids=[number + 1] * min(_WARM_UP_PROMPT, engine.max_context - _WARM_UP_ANSWER),
            sampling=Sampling(temperature=0.0),
            max_new_tokens=_WARM_UP_ANSWER,
            text=TextStream(lambda token_id: b""),
        )
        for number in range(2)
    )
    engine.warm_up(sequences, curve)


def choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise StartError("--device cuda: this PyTorch sees no CUDA device; use --device cpu or auto")
    return torch.device(name)


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


def fingerprint(name: str, model: Model) -> str:
    """Changes when equal seeds may give different answers: other model, number format or library."""
    parts = f"{name} {model.config} {model.number_format} {model.device.type} {torch.__version__}"
    return "fp_" + hashlib.sha256(parts.encode()).hexdigest()[:10]
