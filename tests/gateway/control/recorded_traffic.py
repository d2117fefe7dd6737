"""Calls of a simulated day in a ledger: decided by the router itself, their ends drawn from known distributions.

`traffic` makes exchanges as a worker would, `recorded` writes them through spool and drain into Postgres.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from gateway.ledger import drain
from gateway.ledger.records import Attempt, Exchange, Usage, outcome_record, uuid7
from gateway.ledger.spool import Spool
from router.catalog import Catalog, Target
from router.decide import decide
from router.decision import Decision
from router.fleet import Fleet
from router.outcome import Outcome
from router.policy import Policy
from router.query import Query

ASKED = Query("/v1/chat/completions", "auto", caller="app", stream=True, declared_shape="support")
LOG_SD = 0.5
P95 = 1.6449  # of the standard normal


@dataclass(frozen=True)
class Truth:
    """A target's real behaviour: log-normal waits and pace about these medians."""

    ttft_s: float
    total_s: float
    cost_usd: float = 0.001
    failure_rate: float = 0.0

    def quantile_s(self, z: float) -> float:
        """Of the completion."""
        return self.total_s * math.exp(LOG_SD * z)


def catalog_of(truths: Mapping[str, Truth]) -> Catalog:
    return Catalog({name: Target(name, "openai", f"{name}-model") for name in truths})


def traffic(
    policy: Policy,
    truths: Mapping[str, Truth],
    calls: int,
    *,
    start_s: float,
    seed: int = 1,
    gap_s: float = 2.0,
    queries: Sequence[Query] = (ASKED,),
    tasks: bool = False,
) -> list[Exchange]:
    """Calls `gap_s` apart on average, each decided on what the ones before it taught."""
    chance, fleet, catalog = Random(seed), Fleet(policy.half_life_s), catalog_of(truths)
    ends: list[tuple[float, int, Outcome]] = []
    now, made = start_s, []
    for number in range(calls):
        now += chance.expovariate(1 / gap_s)
        while ends and ends[0][0] <= now:
            at, _, outcome = heapq.heappop(ends)
            fleet.observe(outcome, at)
        asked = chance.choice(queries)
        asked = replace(asked, task_id=f"t{number}") if tasks else asked
        decision = decide(asked, catalog, policy, fleet, now, chance.random())
        exchange = _exchange(asked, decision, truths, now, chance)
        (attempt,) = exchange.attempts
        fleet.start(attempt.target)
        heapq.heappush(ends, (attempt.started_at + attempt.total_s, number, _outcome(exchange, attempt)))
        made.append(exchange)
    return made


def _exchange(
    query: Query, decision: Decision, truths: Mapping[str, Truth], now: float, chance: Random
) -> Exchange:
    name = decision.candidates[0].target
    truth, pace = truths[name], math.exp(LOG_SD * chance.gauss(0, 1))
    has_failed = chance.random() < truth.failure_rate
    attempt = Attempt(name, f"{name}-model", now, id=uuid7(now), result="http_error" if has_failed else "ok")
    attempt.total_s = 0.1 if has_failed else truth.total_s * pace
    attempt.cost_nusd = 0 if has_failed else round(truth.cost_usd * pace * 1e9)
    attempt.http_status = 500 if has_failed else 200
    if not has_failed:
        attempt.ttft_s, attempt.usage = truth.ttft_s * pace, Usage(chance.randint(50, 1000), 100)
    return Exchange(
        caller=query.caller,
        endpoint=query.endpoint,
        stream=query.stream,
        started_at=now,
        id=uuid7(now),
        model_asked=query.model,
        task_id=query.task_id,
        workflow=query.workflow,
        shape=decision.shape,
        shape_source=decision.shape_source,
        policy_hash=decision.policy_hash,
        decision=decision,
        status=500 if has_failed else 200,
        error_code="http_error" if has_failed else None,
        ttft_s=attempt.ttft_s,
        total_s=attempt.total_s,
        attempts=[attempt],
    )


def _outcome(exchange: Exchange, attempt: Attempt) -> Outcome:
    ttft_s, output = attempt.ttft_s, attempt.usage.output_tokens if attempt.usage else None
    pace_s = None if ttft_s is None or output is None else (attempt.total_s - ttft_s) / (output - 1)
    return Outcome(
        target=attempt.target,
        shape=exchange.shape or "general",
        result=attempt.result,
        total_s=attempt.total_s,
        ttft_s=ttft_s if exchange.stream else None,
        tpot_s=pace_s if exchange.stream else None,
        output_tokens=output,
        cost_usd=(attempt.cost_nusd or 0) * 1e-9,
        http_status=attempt.http_status,
    )


def record(
    database_url: str, folder: Path, exchanges: Iterable[Exchange], completed: Iterable[str] = ()
) -> None:
    """Into the database, the way a worker's records go; and tasks of the first caller reported as completed."""
    spool = Spool(folder / "spool", "worker-0", 1 << 30)
    for exchange in exchanges:
        spool.append(exchange.record())
    for task_id in completed:
        spool.append(outcome_record("app", task_id, "completed", None, None))
    spool.close()
    arguments = ["--database-url", database_url, "--spool", str(folder / "spool"), "--once"]
    assert drain.main(arguments) == 0
