"""How many exchanges a second the drain writes: `python -m tests.scale.drain_speed --data-dir DIR [--exchanges N]`.

Spools calls of now, routed among three candidates, then drains them into the database that is named, which may be
a loaded one (see `tests.scale.load`). Prints the rate of each of several rounds, and the processor time of a call.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from random import Random

from sqlalchemy import Engine

from gateway.ledger import migrate
from gateway.ledger.database import create_engine
from gateway.ledger.drain import Drain, collect_rarely
from gateway.ledger.records import Attempt, Exchange, Usage, uuid7
from gateway.ledger.spool import Spool
from router.decision import Candidate, Decision, Prediction, Rejection
from router.policy import Timeouts
from tests.scale.load import add_database, database

TARGETS = ("engine", "deepseek-flash", "gpu-pool", "claude")
SHAPES = ("short_chat", "code_generation", "agent_loop", "support", "extraction", "general")
WORKFLOWS = ("tickets", "mail", None)
CALLS_PER_S = 500.0  # as far apart as these would be


def a_call(random: Random, at: float) -> Exchange:
    shape = random.choice(SHAPES)
    decision = a_decision(random, shape)
    output_tokens = random.randrange(10, 600)
    attempts = [an_attempt(decision.candidates[0].target, at, output_tokens)]
    if random.random() < 0.05:
        attempts[0].result, attempts[0].usage = "http_error", None
        attempts.append(an_attempt(decision.candidates[1].target, at, output_tokens))
    exchange = Exchange(
        caller=f"app-{random.randrange(20)}",
        endpoint="/v1/chat/completions",
        stream=random.random() < 0.8,
        started_at=at,
        id=uuid7(at),
        model_asked="auto",
        workflow=random.choice(WORKFLOWS),
        shape=shape,
        shape_source="inferred",
        policy_hash=decision.policy_hash,
        decision=decision,
        status=200,
        ttft_s=random.lognormvariate(-1.0, 0.5),
        overhead_s=0.0005,
        finish_reason="stop",
        verdict="completed",
        attempts=attempts,
    )
    exchange.total_s = (exchange.ttft_s or 0.0) + output_tokens * 0.01
    return exchange


def an_attempt(target: str, at: float, output_tokens: int) -> Attempt:
    usage = Usage(input_tokens=1200, output_tokens=output_tokens)
    return Attempt(
        target,
        "a-model",
        at,
        id=uuid7(at),
        total_s=3.0,
        usage=usage,
        cost_nusd=output_tokens * 1000,
        price_id="p",
    )


def a_decision(random: Random, shape: str) -> Decision:
    order = random.sample(TARGETS, 4)
    prediction = Prediction(
        random.random(), 0.0123, 2.123, 4.123, 0.00123, 0.991, random.randrange(9), 1.02, 33.3
    )
    roles = ("candidate", "candidate", "fallback")
    return Decision(
        shape=shape,
        shape_source="inferred",
        objective="ttft",
        candidates=tuple(
            Candidate(target, role, random.random(), prediction)
            for target, role in zip(order, roles, strict=False)
        ),
        rejections=(Rejection(order[3], f"shedding after failures, for {random.random() * 9:.1f} s more"),),
        reason=f"{order[0]} has the best ttft score, 0.81 against 1.62 of {order[1]}",
        policy_hash="ab" * 32,
        draw=random.random(),
        explored=False,
        expected_output_tokens=300,
        timeouts=Timeouts(3.0, 10.0, 30.0),
        max_retries=2,
    )


def round_of(engine: Engine, random: Random, count: int) -> tuple[float, float]:
    """Exchanges a second, and microseconds of this process for each."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder), "w0", 1 << 40)
        first = time.time() - count / CALLS_PER_S
        for number in range(count):
            spool.append(a_call(random, first + number / CALLS_PER_S).record())
        spool.close()
        drain = Drain(engine, Path(folder))
        began, used = time.perf_counter(), time.process_time()
        while drain.step():
            pass
        took, used = time.perf_counter() - began, time.process_time() - used
        assert (drain.exchanges, drain.quarantined) == (count, 0)
    return count / took, used / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.scale.drain_speed")
    add_database(parser)
    parser.add_argument("--exchanges", type=int, default=50_000, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    random, rates = Random(1), []
    collect_rarely()
    with database(arguments) as url:
        migrate.upgrade(url)
        engine = create_engine(url, application="sparkgate drain")
        for _ in range(arguments.rounds):
            rate, used_us = round_of(engine, random, arguments.exchanges)
            rates.append(rate)
            print(f"{rate:,.0f} exchanges/s, {used_us:.0f} µs of the drain's own for each", flush=True)
        engine.dispose()
    print(f"best {max(rates):,.0f}, median {statistics.median(rates):,.0f} exchanges/s")


if __name__ == "__main__":
    main()
