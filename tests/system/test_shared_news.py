"""Two gateways on one database: what one learns the other decides by; killed, it starts from what the ledger knows."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from gateway.ledger.database import create_engine
from tests.system.product import PATIENCE_S, Product
from tests.system.upstream import Behaviour, Upstream

pytestmark = pytest.mark.system

KEY = "sg-key-of-both"
WELL = {"swift": Behaviour(0.05, 0.002), "even": Behaviour(0.15, 0.006)}
POLICY = "version: 1\ndefaults: {objective: completion_p95, candidates: [swift, even], explore: 0}\n"
CALLS = 10


@dataclass
class Pair:
    """Two gateways that send to the same upstreams."""

    one: Product
    two: Product
    upstreams: dict[str, Upstream]
    database_url: str

    def call(self, product: Product, target: str) -> None:
        body = {"model": target, "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        answer = httpx.post(f"{product.url}/v1/chat/completions", json=body, **_options())
        assert answer.status_code == 200, answer.text

    def first_choice(self, product: Product) -> str:
        """Where its next call would go."""
        request = {
            "request": {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "stream": True}
        }
        answer = httpx.post(f"{product.url}/admin/policy/explain", json=request, **_options())
        assert answer.status_code == 200, answer.text
        return str(answer.json()["candidates"][0]["target"])

    def scalar(self, statement: str) -> int:
        engine = create_engine(self.database_url)
        with engine.begin() as connection:
            value = connection.execute(text(statement))
            found = value.scalar() if value.returns_rows else 0
        engine.dispose()
        return int(found or 0)


def _options() -> dict[str, Any]:
    return {"headers": {"Authorization": f"Bearer {KEY}"}, "timeout": PATIENCE_S, "trust_env": False}


@pytest.fixture
def pair(clean_database_url: str) -> Iterator[Pair]:
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(Upstream(behaviour)) for name, behaviour in WELL.items()}
        listed = [
            f'  - {{name: {name}, kind: openai, base_url: "{upstream.url}/v1", model: m}}\n'
            for name, upstream in upstreams.items()
        ]
        env = {"SPARKGATE_DATABASE_URL": clean_database_url, "SPARKGATE_API_KEY": KEY}
        products = [Product(command="gateway", env=env) for _ in range(2)]
        for product in products:
            stack.callback(product.remove)
            config, policy = product.data_dir / "sparkgate.yaml", product.data_dir / "policy.yaml"
            config.write_text("engine: {enabled: false}\ntargets:\n" + "".join(listed))
            policy.write_text(POLICY)
            product.options += ["--config", str(config), "--policy", str(policy)]
            product.start()
        one, two = products
        yield Pair(one, two, upstreams, clean_database_url)


def seconds_until(is_so: Callable[[], bool]) -> float:
    begun = time.monotonic()
    while not is_so():
        assert time.monotonic() < begun + PATIENCE_S, "did not happen"
        time.sleep(0.05)
    return time.monotonic() - begun


def test_what_one_gateway_learns_the_other_decides_by_also_after_a_kill(pair: Pair) -> None:
    for target in WELL:
        for _ in range(CALLS):
            pair.call(pair.one, target)
    assert [pair.first_choice(product) for product in (pair.one, pair.two)] == ["swift", "swift"]

    pair.upstreams["swift"].behave(WELL["swift"].slower(20.0))
    with ThreadPoolExecutor(CALLS) as pool:
        list(pool.map(lambda _: pair.call(pair.one, "swift"), range(CALLS)))
    took_s = seconds_until(lambda: pair.first_choice(pair.two) == "even")
    print(f"\nthe other gateway, without a call, decided otherwise {took_s:.2f} s after the slow ones")

    seconds_until(lambda: pair.scalar("SELECT count(*) FROM attempts") == 3 * CALLS)
    for process in pair.two.family():
        process.send_signal(signal.SIGKILL)
    pair.two.wait()
    pair.scalar("TRUNCATE fleet_news")  # only the ledger is left to learn from
    pair.two.start()
    took_s = seconds_until(lambda: pair.first_choice(pair.two) == "even")
    print(f"started anew it did so after {took_s:.2f} s")
