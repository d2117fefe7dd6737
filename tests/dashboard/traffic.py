"""Made-up traffic for the dashboard's tests: ledger records, written by the ledger's own writer.

In: a seed and a moment. Out: exchanges with attempts and decisions as dispatch makes them, and rows of the other
tables that the page shows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Engine, insert

from gateway.ledger import batch, tables
from gateway.ledger.records import Attempt, Exchange, Usage, outcome_record, uuid7
from router.outcome import Result
from tests.ledger.conftest import carried

ENGINE, FLASH, CLAUDE = "engine", "deepseek-flash", "claude"
MODELS = {ENGINE: "smollm2-135m-instruct", FLASH: "deepseek-v4-flash", CLAUDE: "anthropic/claude-opus-4-8"}
PLACES = {  # where a shape goes, typical seconds to the first token, tokens a second
    "short_chat": (ENGINE, 0.22, 38.0),
    "classification": (ENGINE, 0.17, 36.0),
    "code_generation": (FLASH, 0.61, 84.0),
    "agent_loop": (FLASH, 0.74, 79.0),
    "support": (CLAUDE, 1.05, 55.0),
}
POLICY_HASH = "9f1c2e7ab04d5566778899aabbccddeeff001122334455667788990011223344"
POLICY_YAML = """version: 1
shapes:
  short_chat:
    objective: ttft
    candidates: [engine, deepseek-flash]
    slo: {ttft_p95_s: 1.5, timeout_rate: 0.005}
    fallback: [claude]
"""
POLICY_ERROR = (
    "policy.yaml:3: shapes.short_chat.objective: 'fastest' is not one of ttft, speed, completion_p95, "
    "cost_per_completed_task\npolicy.yaml:7: shapes.short_chat.fallback[0]: no target is called 'claud'"
)


def decision(shape: str, target: str, explored: bool = False) -> dict[str, Any]:
    """As `router.decision.Decision.as_json`."""
    others = [name for name in (ENGINE, FLASH) if name != target]
    candidates: list[dict[str, Any]] = [
        {
            "target": name,
            "role": "explore" if explored and place == 0 else "candidate",
            "score": 0.31 + 0.4 * place,
            "prediction": {
                "ttft_s": 0.31 + 0.4 * place,
                "tpot_s": 0.021,
                "completion_s": 2.4,
                "completion_p95_s": 4.9,
                "cost_usd": 0.00021,
                "success_share": 0.994,
                "in_flight": place,
                "crowding": 1.0,
                "weight": 41.2,
            },
            "slo_misses": [],
        }
        for place, name in enumerate([target, *others])
    ]
    return {
        "shape": shape,
        "shape_source": "structural",
        "objective": "ttft",
        "candidates": candidates,
        "rejections": [{"target": "gpu-pool", "reason": "shedding after failures, for 11.6 s more"}],
        "reason": f"{target} has the lowest predicted time to first token, 0.31 s against 0.71 s of {others[0]}.",
        "policy_hash": POLICY_HASH,
        "draw": 0.4711,
        "explored": explored,
        "expected_output_tokens": 120,
        "max_retries": 2,
    }


def exchange(
    at: float,
    *,
    shape: str = "short_chat",
    target: str = ENGINE,
    ttft_s: float = 0.25,
    input_tokens: int = 180,
    tokens: int = 40,
    tokens_per_s: float = 40.0,
    cost_nusd: int | None = 120_000,
    task_id: str | None = None,
    explored: bool = False,
) -> Exchange:
    """A call that was streamed and answered well at once."""
    total_s = ttft_s + (tokens - 1) / tokens_per_s
    attempt = Attempt(target, MODELS[target], at + 0.002, ttft_s=ttft_s - 0.002, total_s=total_s - 0.002)
    attempt.id = uuid7(at + 0.002)
    attempt.http_status, attempt.usage, attempt.cost_nusd = 200, Usage(input_tokens, tokens), cost_nusd
    made = Exchange(
        "helpdesk", "/v1/chat/completions", True, at, id=uuid7(at), model_asked="auto", task_id=task_id
    )
    made.workflow = "triage" if task_id else None
    made.shape, made.shape_source, made.policy_hash = shape, "structural", POLICY_HASH
    made.decision = decision(shape, target, explored)
    made.status, made.ttft_s, made.total_s, made.overhead_s = 200, ttft_s, total_s, 0.0011
    made.finish_reason, made.response_model, made.attempts = "stop", MODELS[target], [attempt]
    return made


def rescued(at: float, first: Result = "timeout_first_token", **how: Any) -> Exchange:
    """A call whose first attempt failed before its first token, and which another target answered."""
    made = exchange(at, **how)
    failed = Attempt(FLASH, MODELS[FLASH], at + 0.002, result=first, total_s=3.0, cost_nusd=0)
    failed.id, failed.error_code, failed.error_message = uuid7(at + 0.001), "timeout", "no first token in 3 s"
    answered = made.attempts[0]
    answered.started_at += 3.0
    made.attempts = [failed, answered]
    made.ttft_s, made.total_s, made.timed_out = (made.ttft_s or 0) + 3.0, made.total_s + 3.0, "first_token"
    return made


def hedged(at: float, **how: Any) -> Exchange:
    """A call whose slow first attempt was overtaken by a second one."""
    made = exchange(at, **how)
    lost = Attempt(FLASH, MODELS[FLASH], at + 0.001, result="hedge_lost", total_s=0.9, cost_nusd=30_000)
    lost.id = uuid7(at + 0.001)
    made.attempts = [lost, *made.attempts]
    return made


def refused(at: float, status: int = 502, code: str = "upstream_failed") -> Exchange:
    """A call that no target answered."""
    made = exchange(at, shape="support", target=CLAUDE)
    made.status, made.error_code, made.ttft_s, made.finish_reason = status, code, None, None
    attempt = made.attempts[0]
    attempt.result, attempt.http_status, attempt.usage, attempt.ttft_s = "http_error", 529, None, None
    attempt.error_code, attempt.error_message, attempt.cost_nusd = (
        "overloaded",
        "the provider is overloaded",
        0,
    )
    return made


def hour(now: float, calls: int, seed: int = 7, length_s: float = 3600) -> list[Exchange]:
    """A mixed load up to `now`: mostly good, one target slower in the middle third, a few failures."""
    chance = random.Random(seed)
    made = []
    for number in range(calls):
        at = now - length_s * (1 - (number + chance.random()) / calls)
        shape = chance.choices(list(PLACES), weights=[5, 3, 4, 3, 2])[0]
        target, first_s, speed = PLACES[shape]
        slow_third = 0.4 < (now - at) / length_s < 0.6
        slow = 2.2 if target == FLASH and slow_third else 1.0
        how: dict[str, Any] = {
            "shape": shape,
            "target": target,
            "ttft_s": first_s * slow * chance.lognormvariate(0, 0.35),
            "input_tokens": round(chance.lognormvariate(6, 1.4)),
            "tokens": chance.randint(8, 420),
            "tokens_per_s": speed * chance.lognormvariate(0, 0.15),
            "cost_nusd": chance.randint(40_000, 900_000),
            "task_id": f"ticket-{number // 3}" if shape == "agent_loop" else None,
            "explored": number % 50 == 0,
        }
        made.append(
            refused(at)
            if number % 97 == 50
            else rescued(at, **how)
            if number % 120 == 30
            else hedged(at, **how)
            if number % 130 == 77
            else exchange(at, **how)
        )
        if slow_third and target != FLASH:
            _shed(made[-1], FLASH)
    return made


def _shed(made: Exchange, target: str) -> None:
    """As if this target's breaker were open."""
    assert isinstance(made.decision, dict)
    made.decision["candidates"] = [it for it in made.decision["candidates"] if it["target"] != target]
    made.decision["rejections"].append(
        {"target": target, "reason": "shedding after failures, for 2.1 s more"}
    )


def write(engine: Engine, exchanges: Sequence[Exchange]) -> None:
    with engine.begin() as connection:
        batch.write(connection, [carried(made) for made in exchanges])


def finish_tasks(engine: Engine, exchanges: Sequence[Exchange]) -> None:
    """Outcomes for the tasks of these exchanges: of every six, four completed, one failed, one still open."""
    names = sorted({made.task_id for made in exchanges if made.task_id})
    ends = ["completed", "completed", "failed", "completed", None, "completed"]
    records = [
        outcome_record("helpdesk", name, end, None, "triage")
        for number, name in enumerate(names)
        if (end := ends[number % 6])
    ]
    with engine.begin() as connection:
        batch.write(connection, records)


def configure(engine: Engine) -> None:
    """Targets, a policy and an engine's samples."""
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = [
        {
            "name": ENGINE,
            "kind": "engine",
            "model": MODELS[ENGINE],
            "url": "http://127.0.0.1:8090",
            "usd_per_hour": 0.2,
        },
        {"name": FLASH, "kind": "openai", "model": MODELS[FLASH], "url": "https://api.example/v1"},
        {"name": CLAUDE, "kind": "litellm", "model": MODELS[CLAUDE]},
        {
            "name": "gpu-pool",
            "kind": "openai",
            "model": "Qwen/Qwen3-4B",
            "disabled_reason": "GPU_POOL_KEY is not set",
        },
    ]
    with engine.begin() as connection:
        for row in rows:
            connection.execute(insert(tables.targets), row)
        connection.execute(insert(tables.engine_samples), engine_sample(now))
    publish(engine, None)


def publish(engine: Engine, error: str | None) -> None:
    """A policy version, refused when `error` is given."""
    row = {"id": uuid7(), "hash": POLICY_HASH if error is None else "0" * 64, "yaml": POLICY_YAML}
    with engine.begin() as connection:
        connection.execute(insert(tables.policies), row | {"source": "file:host:policy.yaml", "error": error})


def engine_sample(at: datetime, running: int = 3) -> dict[str, Any]:
    """A row of `engine_samples`, its state as the engine's `/state` tells it."""
    speculation = {
        "accepted_length": 2.374,
        "proposal_length": 5.0,
        "verified_length": 3.1,
        "waste": 0.557,
        "survival": [0.62, 0.41, 0.22],
    }
    by = {"concurrency": {"1": speculation, "2-4": speculation | {"accepted_length": 2.1, "waste": 0.6}}}
    return {
        "target": ENGINE,
        "sampled_at": at,
        "running": running,
        "waiting": 1,
        "kv_used_fraction": 0.42,
        "prefill_tokens_per_s": 812.0,
        "decode_tokens_per_s": 117.5,
        "accepted_length": 2.374,
        "state": {
            "model": MODELS[ENGINE],
            "draining": False,
            "running": running,
            "waiting": 1,
            "max_batch": 16,
            "drafter": "dspark",
            "step_s": {"draft": 0.004, "verify": 0.018, "sample": 0.001, "overhead": 0.0005},
            "speculation": speculation | {"by": by | {"shape": {"short_chat": speculation}}},
        },
    }


def history(engine: Engine, minutes: int = 50) -> None:
    """An engine's samples of the last minutes, busier in every second block of ten."""
    now = datetime.now(UTC)
    rows = [
        engine_sample(now - timedelta(seconds=30 * number + 1), running=1 + 5 * (number // 20 % 2))
        for number in range(2 * minutes)
    ]
    with engine.begin() as connection:
        connection.execute(insert(tables.engine_samples), rows)


def benchmark(engine: Engine, days: int = 12) -> None:
    """A run of `bench gateway` a day; the last one is a third slower."""
    now = datetime.now(UTC)
    with engine.begin() as connection:
        for day in range(days):
            rate = 2000.0 + 10 * (day % 3) - (700 if day == days - 1 else 0)
            figures = [
                {
                    "contestant": "sparkgate",
                    "calls_per_s": rate,
                    "cpu_us_per_call": 1e6 / rate,
                    "rss_mb": 96.0,
                },
                {"contestant": "bare ASGI", "calls_per_s": 5200.0, "cpu_us_per_call": 190.0, "rss_mb": 41.0},
            ]
            row = {
                "id": uuid7(),
                "kind": "gateway",
                "started_at": now - timedelta(days=days - 1 - day),
                "settings": {"rounds": 3 + day, "machine": {"processor": "a", "cores": 2, "load": 0.1 * day}},
                "results": {"figures": figures, "readings": [], "interrupted": False},
            }
            connection.execute(insert(tables.bench_runs), row)
