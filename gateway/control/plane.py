"""`Plane`: what a worker holds and its control plane shows. Values and their owners; no framework."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client.registry import Collector
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.control.key_watch import KeyWatch
from gateway.control.policy_watch import PolicyWatch
from gateway.dispatch.last_targets import LastTargets
from gateway.ledger.spool import Spool
from router.catalog import Catalog
from router.fleet import Fleet


@dataclass(frozen=True, slots=True)
class Plane:
    """What the control plane shows and writes to."""

    catalog: Catalog
    fleet: Fleet
    policy: PolicyWatch
    keys: KeyWatch
    spool: Spool
    database: AsyncEngine
    registry: Callable[[], Collector]
    version: str
    started_at: float  # Unix seconds
    price_notes: Mapping[str, str]  # why the costs of a target's calls are unknown, by its name
    last_targets: LastTargets
    state_problems: Mapping[str, str]  # what is wrong with self-hosted targets' states, by their names
