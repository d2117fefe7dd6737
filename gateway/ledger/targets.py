"""What the running configuration says exists, and what engines say of themselves, for readers of the
database.

In: the deployment, an engine's `/state`. Out: rows of `targets` and `engine_samples`. Knows no secrets: keys
of providers never get here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.config.deployment import AnyTarget, Deployment, EngineTarget, ServerTarget
from gateway.config.places import address_of
from gateway.ledger.costs import price_for
from gateway.ledger.tables import targets

_LOCK = 0x5BA2C6A81


async def replace_targets(
    connection: AsyncConnection,
    deployment: Deployment,
    disabled: Mapping[str, str] | None = None,
    price_notes: Mapping[str, str] | None = None,
) -> None:
    """Make `targets` say what `deployment` says. `disabled`: reasons by target name; `price_notes`: why the costs of
    a target's calls are unknown. The caller commits."""
    reasons, notes = disabled or {}, price_notes or {}
    rows = [
        _row(target, deployment, reasons.get(target.name)) | {"price_note": notes.get(target.name)}
        for target in deployment.effective_targets
    ]
    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    await connection.execute(delete(targets))
    if rows:
        await connection.execute(insert(targets), rows)


async def disabled_targets(connection: AsyncConnection) -> dict[str, str]:
    """Reasons by name, as of the gateway that started last."""
    query = select(targets.c.name, targets.c.disabled_reason).where(targets.c.disabled_reason.is_not(None))
    return {row[0]: row[1] for row in await connection.execute(query)}


def _row(target: AnyTarget, deployment: Deployment, disabled_reason: str | None) -> dict[str, Any]:
    engine = deployment.engine
    is_ours = isinstance(target, EngineTarget | ServerTarget)
    price = price_for(target, engine) if is_ours else None
    return {
        "name": target.name,
        "kind": target.kind,
        "model": target.model or engine.model,
        "disabled_reason": disabled_reason,
        "url": address_of(target),
        "usd_per_hour": None if price is None else price.usd_per_hour,
    }
