"""What a worker knows beside the calls it has served, for Prometheus: targets, policy, spool.

In: the worker's parts, looked at by `read` once a second and before a scrape. Out: gauges; of several workers, each
figure is merged as it has to be: sums of loads, the worst of states, the newest of what all workers see alike.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge

from gateway.control.policy_watch import PolicyWatch
from gateway.dispatch.gates import Gate
from gateway.dispatch.search import Targets
from gateway.ledger.spool import Spool
from router.breaker import State
from router.eligibility import unwell

BREAKER: Mapping[State, int] = {"admitting": 0, "probing": 1, "shedding": 2}
_Mode = Literal["livesum", "livemax", "livemin", "mostrecent"]


class StateFigures:
    """One worker's."""

    def __init__(
        self, registry: CollectorRegistry, targets: Targets, policy: PolicyWatch, spool: Spool, version: str
    ) -> None:
        def gauge(name: str, text: str, mode: _Mode, *labels: str) -> Gauge:
            return Gauge(f"sparkgate_{name}", text, labels, multiprocess_mode=mode, registry=registry)

        self._targets, self._policy, self._spool, self._lost = targets, policy, spool, 0
        self._in_flight = gauge("target_in_flight", "Upstream tries under way", "livesum", "target")
        self._waiting = gauge(
            "target_waiting", "Calls that wait for a place at a target with max_parallel", "livesum", "target"
        )
        self._breaker = gauge(
            "breaker_state",
            "0: traffic is admitted, 1: probed with single calls, 2: shed",
            "livemax",
            "target",
        )
        self._usable = gauge("target_usable", "Whether new calls may go there: 1 or 0", "livemin", "target")
        self._engine_up = gauge("engine_up", "Whether an engine tells its state: 1 or 0", "livemin", "target")
        self._refused = gauge(
            "policy_refused",
            "Whether the newest policy is wrong, so that an older one is in force: 1 or 0",
            "livemax",
        )
        self._spool_bytes = gauge("spool_bytes", "Records that wait for the database", "mostrecent")
        self._spool_segments = gauge("spool_segments", "Files of such records", "mostrecent")
        self._spool_age = gauge("spool_oldest_seconds", "Age of the oldest of these files", "mostrecent")
        self._limit = gauge("spool_limit_bytes", "Size at which new calls are refused, or lost", "mostrecent")
        self._records_lost = Counter(
            "sparkgate_records_lost", "Records for which the spool had no room", registry=registry
        )
        gauge("build_info", "1; the version is in the label", "livemax", "version").labels(version).set(1)
        self._limit.set(spool.max_bytes)

    def read(self) -> None:
        self._read_targets()
        policy, spool = self._policy, self._spool
        self._refused.set(bool(policy.error or policy.published_error))
        self._spool_bytes.set(spool.backlog_bytes)
        self._spool_segments.set(spool.backlog_segments)
        self._spool_age.set(spool.backlog_age_s)
        self._records_lost.inc(spool.full_losses - self._lost)
        self._lost = spool.full_losses

    def _read_targets(self) -> None:
        now = time.monotonic()
        for name, target in self._targets.catalog.targets.items():
            if target.disabled_reason:
                continue
            health = self._targets.fleet.health(name)
            self._in_flight.labels(name).set(health.in_flight)
            self._breaker.labels(name).set(BREAKER[health.breaker.state(now)])
            self._usable.labels(name).set(unwell(health, now) is None)
            if target.kind == "engine":
                self._engine_up.labels(name).set(health.unreachable_since_s is None)
            elif target.kind in ("vllm", "sglang"):
                self._engine_up.labels(name).set(health.engine is not None)
            if isinstance(gate := self._targets.gates.get(name), Gate):
                self._waiting.labels(name).set(gate.waiting)
