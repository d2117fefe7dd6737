"""The README as a newcomer follows it: each snippet is run, what it shows as output is what comes out.

Its YAML and command lines are checked with those of all pages, in tests/docs; its two commands by tests/newcomer.sh.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.supervise.banner import FirstKey, ready_text
from tests.docs.test_docs import Block, prose_and_blocks
from tests.examples.test_examples import PATIENCE_S, ROOT
from tests.gateway.conftest import KEY, running_gateway
from tests.gateway.surfaces.native_upstream import speak

URL = "http://127.0.0.1:8080"
_, BLOCKS = prose_and_blocks(ROOT / "README.md")
OPENAI, ANTHROPIC = [block for block in BLOCKS if block.language == "python"]
(CURL,) = [block for block in BLOCKS if block.language == "bash"]
BANNER, HEADERS = [block for block in BLOCKS if block.language == ""]


def names(headers: str) -> list[str]:
    return sorted(re.findall(r"^(X-[\w-]+):", headers, re.MULTILINE))


def test_the_three_clients(clean_database_url: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")

    async def test() -> None:
        async with running_gateway(clean_database_url, tmp_path, "version: 1\n", ("a",)) as gateway:
            gateway.fakes["a"].script = [speak] * 3

            async def run(*command: str, block: Block) -> str:
                text = block.text.replace(URL, gateway.url).replace("sg-…", KEY)
                done = await asyncio.to_thread(
                    subprocess.run,
                    [*command, text],
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE_S,
                    cwd=tmp_path,
                )
                assert done.returncode == 0, done.stdout + done.stderr
                return done.stdout

            first, second, third = await asyncio.gather(
                run(sys.executable, "-c", block=OPENAI),
                run(sys.executable, "-c", block=ANTHROPIC),
                run("sh", "-c", block=CURL),
            )
            assert first.startswith("Hello")
            assert second == first
            assert names(third) == names(HEADERS.text)
            endpoints = sorted(record["exchange"]["endpoint"] for record in gateway.exchanges())
            assert endpoints == ["/v1/chat/completions", "/v1/chat/completions", "/v1/messages"]

    asyncio.run(test())


def test_what_make_up_ends_with() -> None:
    key = FirstKey("made", Path(".sparkgate/run/first_key"), "sg-…")
    said = ready_text(URL, key, "http://127.0.0.1:8501", 3.6, [])
    call = re.search(r"-d '(.*)'", said)
    assert call is not None
    assert json.loads(call[1])["model"] == "auto"
    assert said.replace(call[1], "…").strip() == BANNER.text.strip()
