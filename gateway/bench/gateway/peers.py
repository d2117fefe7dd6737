"""Other gateways, each as its makers would have it started for speed: one worker, a key, no logs, no database.

In: the benchmark's `Bench` and `Setup`. Out: running `Contestant`s. Raises NotInstalled where a peer is not there,
NotStarted where it does not answer.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

from gateway.bench import servers
from gateway.bench.gateway import bare as bare_app
from gateway.bench.gateway import processes
from gateway.bench.gateway.contestant import (
    AUTHORIZATION,
    KEY,
    Bench,
    Contestant,
    NotInstalled,
    Parts,
    Setup,
    chat_url,
    started,
)
from gateway.bench.gateway.readings import BARE, LITELLM, NGINX, PORTKEY, WORKER
from gateway.bench.gateway.traffic import PATH


async def _peer(
    stack: AsyncExitStack,
    bench: Bench,
    name: str,
    command: Callable[[int], Sequence[str]],
    headers: Mapping[str, str],
    env: Mapping[str, str] | None = None,
) -> list[Contestant]:
    port = servers.free_port()
    pid, start_s = await started(stack, bench, name, command(port), port, headers, env)

    def parts() -> Parts:
        return {WORKER: processes.tree(pid)}

    return [Contestant(name, chat_url(port), headers, parts=parts, start_s=start_s)]


async def nginx(stack: AsyncExitStack, bench: Bench, setup: Setup) -> list[Contestant]:
    binary = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        raise NotInstalled("install the package nginx")
    config = bench.folder / "nginx.conf"

    def command(port: int) -> list[str]:
        config.write_text(_NGINX.format(port=port, upstream=bench.upstream.url.removeprefix("http://")))
        return [binary, "-p", str(bench.folder), "-c", str(config), "-e", "stderr"]

    return await _peer(stack, bench, NGINX, command, {})


_NGINX = """
daemon off;
worker_processes 1;
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path nginx_body;
    proxy_temp_path nginx_proxy;
    fastcgi_temp_path nginx_fastcgi;
    uwsgi_temp_path nginx_uwsgi;
    scgi_temp_path nginx_scgi;
    upstream mock {{ server {upstream}; keepalive 128; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://mock;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


async def bare(stack: AsyncExitStack, bench: Bench, setup: Setup) -> list[Contestant]:
    def command(port: int) -> list[str]:
        return [sys.executable, "-P", "-m", bare_app.__name__, str(port), bench.upstream.url + PATH, KEY]

    return await _peer(stack, bench, BARE, command, AUTHORIZATION)


async def litellm(stack: AsyncExitStack, bench: Bench, setup: Setup) -> list[Contestant]:
    """One worker, a master key, no database, no callbacks, its log at errors only."""
    if setup.litellm_python is None:
        raise NotInstalled(
            "name a Python that has it with --litellm-python; to get one: "
            "python -m venv DIR && DIR/bin/pip install 'litellm[proxy]'"
        )
    python, config = str(setup.litellm_python), bench.folder / "litellm.yaml"
    config.write_text(_LITELLM.format(upstream=bench.upstream.url, key=KEY))
    run = [python, "-c", "from litellm.proxy.proxy_cli import run_server; run_server()"]
    run += ["--config", str(config), "--host", "127.0.0.1", "--num_workers", "1", "--telemetry", "False"]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    return await _peer(stack, bench, LITELLM, lambda port: [*run, "--port", str(port)], AUTHORIZATION, quiet)


_LITELLM = """
model_list:
  - model_name: auto
    litellm_params: {{model: openai/mock-model, api_base: "{upstream}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
"""


async def portkey(stack: AsyncExitStack, bench: Bench, setup: Setup) -> list[Contestant]:
    node = shutil.which("node")
    if node is None or setup.portkey is None:
        raise NotInstalled(
            "install node, `npm i @portkey-ai/gateway`, and name its build/start-server.js with --portkey; "
            "version 1.15 streams only with an npm override of @hono/node-server to 1.13.8"
        )
    run = [node, str(setup.portkey), "--headless"]
    to_upstream = {"x-portkey-provider": "openai", "x-portkey-custom-host": f"{bench.upstream.url}/v1"}
    headers = {**AUTHORIZATION, **to_upstream}
    return await _peer(stack, bench, PORTKEY, lambda port: [*run, f"--port={port}"], headers)
