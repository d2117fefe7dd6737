"""`python -m tests.schema --schemathesis PROGRAM`: our OpenAPI document held against the product by schemathesis.

Starts the product with an upstream that speaks every API, then asks it every path of its `/openapi.json`, with data
that the document allows and with data that it does not: no 5xx; no status, content type, header or body that the
document does not name; nothing wrong accepted; nobody served without a key. `make test-schema` calls it; schemathesis
is in a virtual environment of its own. What follows `--` goes to schemathesis.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import yaml
from aiohttp import web

from tests.gateway.surfaces.native_upstream import speak
from tests.system.product import Product

ENDPOINTS = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"]
OWN_KEY = "/admin/keys/{name}"  # comes last: sooner or later it takes away the key that asks
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,missing_required_header,unsupported_method,"
    "allow_header_conformance,ignored_auth"
)


async def run(schemathesis: Path, examples: int, further: list[str]) -> int:
    async with AsyncExitStack() as stack:
        url = await _upstream(stack)
        product = Product("--no-engine", "--no-dashboard")
        stack.callback(product.remove)
        targets = [
            {
                "name": "native",
                "kind": "openai",
                "base_url": f"{url}/v1",
                "model": "m",
                "endpoints": ENDPOINTS,
            },
            {"name": "chat", "kind": "openai", "base_url": f"{url}/v1", "model": "m"},
        ]
        config = product.data_dir / "sparkgate.yaml"
        config.write_text(yaml.safe_dump({"engine": {"enabled": False}, "targets": targets}))
        product.options += ["--config", str(config)]
        await asyncio.to_thread(product.start)
        command = [str(schemathesis), "--config-file", str(Path(__file__).with_name("schemathesis.toml"))]
        command += ["run", f"{product.url}/openapi.json", "--checks", CHECKS]
        command += ["--max-examples", str(examples), "--seed", "1", "--mode", "all", "--continue-on-failure"]
        command += ["-H", f"Authorization: Bearer {product.key}", "--request-timeout", "60", *further]
        failed = 0
        for part in (["--exclude-path", OWN_KEY], ["--include-path", OWN_KEY]):
            process = await asyncio.create_subprocess_exec(*command, *part, cwd=product.data_dir)
            failed += await process.wait()
        return failed


async def _upstream(stack: AsyncExitStack) -> str:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await speak(request, await request.json())

    app = web.Application(client_max_size=1 << 26)
    app.router.add_post("/v1/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.schema")
    parser.add_argument("--schemathesis", type=Path, required=True, help="the program")
    parser.add_argument("--examples", type=int, default=100, help="of each kind for each operation")
    parser.add_argument("further", nargs="*", help="options of schemathesis, after --")
    arguments = parser.parse_args()
    return asyncio.run(run(arguments.schemathesis.absolute(), arguments.examples, arguments.further))


if __name__ == "__main__":
    sys.exit(main())
