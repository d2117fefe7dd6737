"""How much sooner a known beginning gives a first token, on the real model. `-s` shows the figures."""

from __future__ import annotations

import random
import statistics
import time

import httpx

from engine.fetch import BUNDLED_MODEL
from tests.engine.conftest import EngineProcess

NUM_PROMPT, NUM_SHARED = 1000, 900
PAIRS = 2


def random_tokens(choose: random.Random, count: int) -> list[int]:
    return choose.choices(range(1000, 40_000), k=count)


def first_token(client: httpx.Client, prompt: list[int]) -> tuple[float, int]:
    """Seconds until the answer's first byte, and how many of the prompt's tokens were known."""
    body = {"model": BUNDLED_MODEL, "prompt": prompt, "max_tokens": 1, "temperature": 0}
    begun = time.perf_counter()
    answer = client.post("/v1/completions", json=body)
    seconds = time.perf_counter() - begun
    return seconds, answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_known_beginning_is_read_once(real_server: EngineProcess) -> None:
    choose = random.Random()  # other prompts in every run: the server may know earlier ones
    cold: list[float] = []
    warm: list[float] = []
    with httpx.Client(base_url=real_server.url, timeout=60) as client:
        for _ in range(PAIRS):
            shared = random_tokens(choose, NUM_SHARED)
            for times, known in ((cold, 0), (warm, NUM_SHARED // 16 * 16)):
                prompt = shared + random_tokens(choose, NUM_PROMPT - NUM_SHARED)
                seconds, num_cached = first_token(client, prompt)
                assert num_cached == known
                times.append(seconds)
    before, after = statistics.median(cold), statistics.median(warm)
    print(
        f"\nfirst token of {NUM_PROMPT} tokens, {NUM_SHARED} of them shared, median of {PAIRS}: "
        f"{before:.3f} s unknown, {after:.3f} s known, {before / after:.1f} times sooner"
    )
