"""Every example as a user runs it: a process of its own, with real clients, against a real gateway.

The client packages are in a virtual environment of their own, `.venv-examples`, which `make test-examples` makes;
without it the examples that need it are skipped. Those of OpenAI's and Anthropic's clients and of curl always run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.gateway.conftest import KEY, Gateway, running_gateway
from tests.gateway.surfaces.native_upstream import speak
from tests.node_clients import clients_folder

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
CLIENTS = ROOT / ".venv-examples" / "bin"
PATIENCE_S = 120.0
MESSAGES, CHAT, RESPONSES = "/v1/messages", "/v1/chat/completions", "/v1/responses"


@dataclass(frozen=True)
class Expected:
    """What an example prints, and of each of its calls: endpoint, streamed, shape; and the workflow it names."""

    printed: tuple[str, ...]
    calls: tuple[tuple[str, bool, str], ...]
    workflow: str | None = None
    outcomes: int = 0


CHATS = ((CHAT, False, "short_chat"), (CHAT, True, "short_chat"))
ANSWERS = ("answer: Hello", "stream: Hello")
EXPECTED = {
    "openai_chat.py": Expected((*ANSWERS, "by: a as short_chat", "task: completed"), CHATS, "rivers", 1),
    "openai_chat.mjs": Expected((*ANSWERS, "by: a as short_chat"), CHATS),
    "anthropic_messages.py": Expected(
        (*ANSWERS, "by: a as short_chat"), ((MESSAGES, False, "short_chat"), (MESSAGES, True, "short_chat"))
    ),
    "langchain_chat.py": Expected(
        (*ANSWERS, "tool: weather {'city': 'Paris'}", "answer with the tool: Hello"),
        (*CHATS, (CHAT, False, "agent_loop"), (CHAT, False, "agent_loop")),
        "weather",
    ),
    "llamaindex_chat.py": Expected(ANSWERS, CHATS, "rivers"),
    "pydantic_ai_agent.py": Expected(
        ("tool: Paris", "answer: Hello", "calls: 2"), ((CHAT, False, "agent_loop"),) * 2, "weather"
    ),
    "openai_agents.py": Expected(
        ("tool: Paris", "answer: Hello"), ((RESPONSES, False, "agent_loop"),) * 2, "weather"
    ),
    "llm_cli.sh": Expected(("Hello",), ((CHAT, True, "short_chat"), (CHAT, False, "short_chat")), "rivers"),
    "curl.sh": Expected(
        ("X-Sparkgate-Target: a", "data: [DONE]", '"status":"completed"'), CHATS, "rivers", 1
    ),
}
ALWAYS_THERE = ("openai_chat.py", "anthropic_messages.py")  # their clients are among the tests' own


def command(example: str) -> list[str]:
    """What runs it; skips the test where that is missing."""
    if example.endswith(".mjs"):
        node, packages = shutil.which("node"), clients_folder()
        return [str(node), str(shutil.copy(str(EXAMPLES / example), packages))]
    if example == "curl.sh":
        if shutil.which("curl") is None:
            pytest.skip("curl is not installed")
        return ["sh", str(EXAMPLES / example)]
    if example not in ALWAYS_THERE and not (CLIENTS / "python").is_file():
        pytest.skip("its client is not installed: `make test-examples` makes .venv-examples")
    if example.endswith(".sh"):
        return ["sh", str(EXAMPLES / example)]
    return [sys.executable if example in ALWAYS_THERE else str(CLIENTS / "python"), str(EXAMPLES / example)]


def environment(url: str, home: Path) -> dict[str, str]:
    """Where the clients look for the gateway; a home of its own, no proxies, nothing of the tests' own."""
    return {
        "PATH": f"{CLIENTS}:{os.environ['PATH']}",
        "HOME": str(home),
        "OPENAI_BASE_URL": f"{url}/v1",
        "OPENAI_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": url,
        "ANTHROPIC_API_KEY": KEY,
        "NO_PROXY": "127.0.0.1",
    }


def test_every_example_is_tested() -> None:
    kinds = {".py", ".mjs", ".sh"}
    assert sorted(EXPECTED) == sorted(path.name for path in EXAMPLES.iterdir() if path.suffix in kinds)


@pytest.mark.parametrize("example", EXPECTED)
def test_an_example_does_what_it_says(example: str, clean_database_url: str, tmp_path: Path) -> None:
    run = command(example)
    home, data_dir = tmp_path / "home", tmp_path / "data"
    home.mkdir()
    data_dir.mkdir()

    async def test() -> None:
        async with running_gateway(clean_database_url, data_dir, "version: 1\n", ("a",)) as gateway:
            gateway.fakes["a"].script = [speak] * 10
            env = environment(gateway.url, home)
            done = await asyncio.to_thread(
                subprocess.run, run, cwd=home, env=env, capture_output=True, text=True, timeout=PATIENCE_S
            )
            check(gateway, done, EXPECTED[example])

    asyncio.run(test())


def check(gateway: Gateway, done: subprocess.CompletedProcess[str], expected: Expected) -> None:
    """What it printed, and what is on its way to the ledger."""
    assert done.returncode == 0, done.stdout + done.stderr
    for line in expected.printed:
        assert line in done.stdout
    exchanges = [record["exchange"] for record in gateway.exchanges()]
    assert [(it["endpoint"], it["stream"], it["shape"]) for it in exchanges] == list(expected.calls)
    assert {(it["status"], it["target"]) for it in exchanges} == {(200, "a")}
    assert {it["workflow"] for it in exchanges} == {expected.workflow}
    outcomes = [record["outcome"] for record in gateway.records() if record["kind"] == "outcome"]
    assert [outcome["status"] for outcome in outcomes] == ["completed"] * expected.outcomes
