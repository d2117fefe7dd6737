"""`/admin/*`: keys and their limits, usage, and targets; for keys of scope admin only.

In: the database, the catalog, how its targets do. Out: a router for the control plane. What is changed here is in
the database when the answer leaves, and in force on every worker within 3 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.callers import store, usage
from gateway.callers.keys import Key, Scope
from gateway.callers.spending import Spent, day_of
from gateway.callers.store import StoredKey, Terms
from gateway.surfaces.authenticate import authenticate
from router.catalog import Catalog

Count = Annotated[int, Field(strict=True)] | None


class TermsBody(BaseModel):
    """The body of `PATCH /admin/keys/{name}`: what is left out stays; null, or [] of texts, takes a limit away."""

    model_config = ConfigDict(extra="forbid")

    allowed_models: list[str] = []
    rpm: Count = None
    tpm: Count = None
    parallel: Count = None
    daily_usd: Decimal | None = None
    monthly_usd: Decimal | None = None
    expires_at: AwareDatetime | None = None
    tags: list[str] = []


class KeyBody(TermsBody):
    """The body of `POST /admin/keys`."""

    name: str
    scope: Scope = "call"


def admin_only(request: Request) -> Key:
    """The caller's key. Raises `Unauthorized` and `Forbidden`."""
    return authenticate(request.headers, request.app.state.keys.ring, ("admin",))


def admin_router(
    database: AsyncEngine, catalog: Catalog, states: Callable[[], Mapping[str, Mapping[str, Any]]]
) -> APIRouter:
    """`states` gives each target's health by name, as `/health` shows it."""
    router = APIRouter(prefix="/admin", dependencies=[Depends(admin_only)])
    _add_keys(router, database)

    @router.get("/targets")
    async def targets() -> dict[str, Any]:
        health = states()
        rows = [asdict(target) | dict(health[name]) for name, target in catalog.targets.items()]
        return {"object": "list", "data": rows}

    return router


def _add_keys(router: APIRouter, database: AsyncEngine) -> None:
    @router.get("/keys")
    async def keys() -> dict[str, Any]:
        async with database.connect() as connection:
            stored = await store.list_keys(connection)
            spent = await usage.spent(connection, day_of(time.time()))
        rows = [_key(key) | spent.get(key.name, Spent()).as_json() for key in stored]
        return {"object": "list", "data": rows}

    @router.post("/keys", status_code=201)
    async def create(body: KeyBody) -> dict[str, Any]:
        terms = cast(Terms, body.model_dump(exclude={"name", "scope"}))
        async with database.begin() as connection:
            stored, plain = await store.create_key(connection, body.name, body.scope, terms=terms)
        return _key(stored) | {"key": plain}  # this once: only its digest is stored

    @router.patch("/keys/{name:path}")
    async def change(name: str, body: TermsBody) -> dict[str, Any]:
        terms = cast(Terms, body.model_dump(exclude_unset=True))
        async with database.begin() as connection:
            return _key(await store.change_key(connection, name, terms))

    @router.delete("/keys/{name:path}")
    async def revoke(name: str) -> dict[str, Any]:
        async with database.begin() as connection:
            return _key(await store.revoke_key(connection, name))

    @router.get("/usage")
    async def by_day(days: Annotated[int, Query(ge=1, le=3660)] = 7) -> dict[str, Any]:
        since = datetime.now(UTC).date() - timedelta(days=days - 1)
        async with database.connect() as connection:
            return {"object": "list", "data": await usage.by_day(connection, since)}


def _key(key: StoredKey) -> dict[str, Any]:
    return {"object": "key"} | key.as_json()
