"""The processes of sparkgate as `Part`s: their command lines, how they show that they are ready, their grace.

In: a `Plan` and what is known only at the start (database URL, listening socket). Out: values. Starts
nothing. Modules run with `-P`, so that a folder named like one of ours in the working directory stays out.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from gateway.config.variables import (
    DATABASE_URL_VARIABLE,
    GATEWAY_URL_VARIABLE,
    METRICS_FOLDER_VARIABLE,
    SIGN_IN_VARIABLE,
    TELEMETRY_VARIABLE,
)
from gateway.supervise.options import Plan
from gateway.supervise.part import Part
from gateway.telemetry.configured import telemetry_of

POSTGRES = "postgres"  # no process of ours (see `postgres`)
_MODULE = (sys.executable, "-P", "-m")
_AFTER_GRACE_S = 5.0  # what a worker needs to close its books once its streams are over or cut off
# glibc keeps a large buffer that was freed, and after some of them does so for all: 30 MB more that come and go.
_FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(2 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(8 * 2**20)}
_LIBRARY_ENV = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}


class PartMissing(Exception):
    """A part whose package is not installed."""


def check_installed(plan: Plan) -> None:
    """Raise `PartMissing` unless every part to be started can be."""
    if telemetry_of(plan.deployment, os.environ) and importlib.util.find_spec("opentelemetry.sdk") is None:
        raise PartMissing(
            'telemetry needs opentelemetry: pip install "sparkgate[otel]", or take `otlp_endpoint` out and '
            "set OTEL_SDK_DISABLED=true"
        )
    if plan.starts_engine:
        engine_command(plan)
    if plan.starts_dashboard:
        dashboard_command("127.0.0.1", plan.deployment.dashboard_port)


def local_url(host: str, port: int) -> str:
    """The URL by which this machine reaches a server that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def engine_command(plan: Plan, host: str = "127.0.0.1") -> tuple[str, ...]:
    """`python -m engine serve …`; torch is looked for first, as the engine cannot run without it."""
    if importlib.util.find_spec("torch") is None:
        raise PartMissing(
            'the engine needs torch: pip install "sparkgate[engine]", or start with --no-engine'
        )
    settings = plan.deployment.engine
    argv = [*_MODULE, "engine", "serve", "--model", settings.model, "--data-dir", str(plan.data_dir)]
    argv += ["--host", host, "--port", str(plan.deployment.engine_port)]
    argv += ["--dtype", settings.dtype, "--device", settings.device, "--drafter", settings.drafter]
    argv += ["--draft-schedule", settings.draft_schedule, "--max-batch", str(settings.max_batch)]
    if settings.threads is not None:
        argv += ["--threads", str(settings.threads)]
    return tuple(argv)


def engine_part(plan: Plan) -> Part:
    settings = plan.deployment.engine
    fetch = ("fetch", "--model", settings.model, "--drafter", settings.drafter)
    url = local_url("127.0.0.1", plan.deployment.engine_port)
    return Part(
        name="engine",
        argv=engine_command(plan),
        prepare=(*_MODULE, "engine", *fetch, "--data-dir", str(plan.data_dir)),
        env=_LIBRARY_ENV,
        ready_url=f"{url}/health",
        start_timeout_s=600.0,  # a large model loads for minutes
        address=f"{url}  {settings.model}",
    )


def gateway_parts(plan: Plan, listening_fd: int, port: int) -> list[Part]:
    """One part a worker; all accept from the one socket, so that a worker's death refuses no connection."""
    deployment = plan.deployment
    url = local_url(deployment.host, port)
    options = _worker_options(plan)
    return [
        Part(
            name=f"gateway-{index}" if deployment.workers > 1 else "gateway",
            argv=(*_MODULE, "gateway.worker", "--fd", str(listening_fd), "--index", str(index), *options),
            env=_memory_env(),
            ready_url=f"{url}/ready",
            ready_says_pid=True,
            stop_grace_s=deployment.shutdown_grace_s + _AFTER_GRACE_S,
            pass_fds=(listening_fd,),
            needed=True,
            address=url if index == 0 else "",
        )
        for index in range(deployment.workers)
    ]


def _memory_env() -> dict[str, str]:
    """Yours counts, if you have set one."""
    return {name: value for name, value in _FREED_AT_ONCE.items() if name not in os.environ}


def drain_part(plan: Plan, database_url: str) -> Part:
    retention = ("--retention-days", str(plan.deployment.ledger.retention_days))
    return Part(
        name="drain",
        argv=(*_MODULE, "gateway.ledger.drain", "--spool", str(plan.data_dir / "spool"), *retention),
        env={DATABASE_URL_VARIABLE: database_url} | _memory_env() | _telemetry(plan),
        stop_grace_s=20.0,  # what it does not get written stays in the spool for the next start
    )


def _telemetry(plan: Plan) -> dict[str, str]:
    """The drain exports what it has written, and shows its figures beside the workers'."""
    telemetry = telemetry_of(plan.deployment, os.environ)
    figures = {METRICS_FOLDER_VARIABLE: str(plan.data_dir / "run" / "metrics")}
    return figures if telemetry is None else figures | {TELEMETRY_VARIABLE: telemetry.as_text()}


def dashboard_command(host: str, port: int) -> tuple[str, ...]:
    """`python -m streamlit run …`: headless, telemetry off, no file watcher."""
    if importlib.util.find_spec("streamlit") is None:
        raise PartMissing(
            'the dashboard needs streamlit: pip install "sparkgate[dashboard]", or start with --no-dashboard'
        )
    package = importlib.util.find_spec("dashboard")
    if package is None or package.origin is None:
        raise PartMissing("the package `dashboard` is not installed")
    settings = {
        "server.headless": "true",
        "server.address": host,
        "server.port": str(port),
        "server.fileWatcherType": "none",
        "browser.gatherUsageStats": "false",
        "logger.hideWelcomeMessage": "true",  # for which it would ask a server elsewhere for its address
    }
    flags = [text for key, value in settings.items() for text in (f"--{key}", value)]
    return (*_MODULE, "streamlit", "run", str(Path(package.origin).with_name("serve.py")), *flags)


def dashboard_env(plan: Plan, database_url: str, gateway_url: str) -> dict[str, str]:
    """What the dashboard is told. On the embedded Postgres it gets a role that may only read."""
    from gateway.ledger.database import with_driver
    from gateway.ledger.reader_role import reader_url

    settings, is_embedded = plan.deployment.dashboard, plan.deployment.database_url == "embedded"
    if settings.database_url is not None:
        database_url = with_driver(settings.database_url)
    elif is_embedded:
        database_url = reader_url(database_url)
    return {
        DATABASE_URL_VARIABLE: database_url,
        GATEWAY_URL_VARIABLE: gateway_url,
        SIGN_IN_VARIABLE: settings.sign_in,
    }


def dashboard_part(plan: Plan, env: dict[str, str]) -> Part:
    """`env`: see `dashboard_env`."""
    host, port = "127.0.0.1", plan.deployment.dashboard_port
    url = local_url(host, port)
    return Part(
        name="dashboard",
        argv=dashboard_command(host, port),
        env=env,
        ready_url=f"{url}/_stcore/health",
        stop_grace_s=5.0,
        address=url,
    )


def _worker_options(plan: Plan) -> list[str]:
    options = ["--data-dir", str(plan.data_dir), "--engine-port", str(plan.deployment.engine_port)]
    for name, path in (("--config", plan.config), ("--policy", plan.policy)):
        options += [name, str(path)] if path is not None else []
    return options
