"""`/admin/policy*`: the policy in force and its versions, calls explained, recorded calls replayed; admin keys only.

In: what a worker holds. Out: a router for the control plane. Explaining and replaying send nothing to any target.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends
from fastapi import Query as QueryParameter
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gateway.callers.keys import Key
from gateway.config.load import load_policy
from gateway.config.mistakes import ConfigError
from gateway.config.policy_file import ShapeName
from gateway.control import policy_versions
from gateway.control.admin import admin_only
from gateway.control.explain import explained, query_of_request
from gateway.control.plane import Plane
from gateway.control.replay_run import replay
from gateway.ledger import policies
from gateway.wire.errors import BadRequest, Conflict, NotFound, RateLimited
from router.decide import UnknownModel
from router.policy import Policy
from router.query import Query

MAX_POLICY_CHARS = 1_000_000
MAX_REPLAYED = 20_000
API = "api"  # as a version's source, with the name of the key
REPLAY_WITHIN_S = 60.0
AT_ONCE = 50  # calls read in one go here, where others' calls wait meanwhile
Yaml = Annotated[str, Field(max_length=MAX_POLICY_CHARS)]
Version = Annotated[str, Field(min_length=1, max_length=64)]
Flag = Annotated[bool, Field(strict=True)]  # else pydantic takes "yes" too, and 1
Admin = Annotated[Key, Depends(admin_only)]


class CheckBody(BaseModel):
    """The body of `POST /admin/policy/check`: the text of a policy.yaml."""

    model_config = ConfigDict(extra="forbid")

    yaml: Yaml


class PolicyBody(CheckBody):
    """The body of `PUT /admin/policy`. With `based_on`, the hash of the version that the text was made from, it is
    refused if another one is in force by then."""

    based_on: Version | None = None


class RollbackBody(BaseModel):
    """The body of `POST /admin/policy/rollback`; `based_on` is the hash of the version to be left."""

    model_config = ConfigDict(extra="forbid")

    version: Version  # its id, or its hash, which may be cut short
    based_on: Version | None = None


class Described(BaseModel):
    """A call in the router's own words, for where there is no request to show."""

    model_config = ConfigDict(extra="forbid")

    model: str = "auto"
    stream: Flag = True
    workflow: str | None = None
    task_id: str | None = None
    metadata: dict[str, str] = {}
    role: Literal["draft", "final"] | None = None
    declared_shape: ShapeName | None = None
    input_tokens: Annotated[int, Field(ge=0, strict=True)] = 100
    max_output_tokens: Annotated[int, Field(ge=1, strict=True)] | None = None
    message_count: Annotated[int, Field(ge=0, strict=True)] = 1
    has_tools: Flag = False
    has_images: Flag = False
    wants_json: Flag = False


def _sendable(request: dict[str, Any]) -> dict[str, Any]:
    """Raises ValueError for what no app could have sent: half a character, or nested too deeply."""
    try:
        orjson.dumps(request)
    except orjson.JSONEncodeError as error:
        raise ValueError(str(error)) from None
    return request


class ExplainBody(BaseModel):
    """The body of `POST /admin/policy/explain`: a request as an app sends it, or a described call."""

    model_config = ConfigDict(extra="forbid")

    endpoint: str = "/v1/chat/completions"
    request: Annotated[dict[str, Any], AfterValidator(_sendable)] | None = None
    call: Described | None = None
    headers: dict[str, str] = {}
    caller: str = ""
    policy: Yaml | None = None  # to be tried; left out: the one in force
    draw: Annotated[float, Field(ge=0, le=1, strict=True)] = 1.0  # of chance; at 1 no share is explored


class ReplayBody(BaseModel):
    """The body of `POST /admin/policy/replay`."""

    model_config = ConfigDict(extra="forbid")

    yaml: Yaml
    since_s: Annotated[float, Field(gt=0, le=366 * 86_400, strict=True)] = 86_400.0  # how far back
    limit: Annotated[int, Field(ge=1, le=MAX_REPLAYED, strict=True)] = MAX_REPLAYED


def policy_router(plane: Plane) -> APIRouter:
    router = APIRouter(prefix="/admin/policy", dependencies=[Depends(admin_only)])
    _add_versions(router, plane)
    _add_trials(router, plane)
    return router


async def _checked(plane: Plane, text: str, param: str = "yaml") -> Policy:
    """Raises `BadRequest` with all mistakes."""
    try:
        return await asyncio.to_thread(load_policy, text, "policy", plane.catalog.targets)
    except ConfigError as refused:
        raise BadRequest(str(refused), code="invalid_policy", param=param) from None


def _conflict(error: policies.Superseded) -> Conflict:
    return Conflict(str(error), code="policy_conflict", param="based_on")


def _add_versions(router: APIRouter, plane: Plane) -> None:
    database, targets = plane.database, plane.catalog.targets

    @router.get("")
    async def active() -> dict[str, Any]:
        async with database.connect() as connection:
            newest = await policies.newest_active(connection)
        if newest is None:
            raise NotFound(
                "no policy was published yet; PUT /admin/policy publishes one", code="policy_not_found"
            )
        return {"object": "policy", "hash": newest.hash, "source": newest.source, "yaml": newest.yaml}

    @router.put("")
    async def publish(body: PolicyBody, key: Admin) -> dict[str, Any]:
        source = f"{API}:{key.name}"
        try:
            published = await policy_versions.publish(
                database, source, "policy", body.yaml, targets, body.based_on
            )
        except ConfigError as refused:
            raise BadRequest(str(refused), code="invalid_policy", param="yaml") from None
        except policies.Superseded as error:
            raise _conflict(error) from None
        return {"object": "policy", "hash": published, "source": source, "yaml": body.yaml}

    @router.post("/check")
    async def check(body: CheckBody) -> dict[str, Any]:
        try:
            policy = await asyncio.to_thread(load_policy, body.yaml, "policy", targets)
        except ConfigError as refused:
            found = [asdict(mistake) for mistake in refused.mistakes]
            return {"object": "policy.check", "ok": False, "hash": None, "mistakes": found}
        return {"object": "policy.check", "ok": True, "hash": policy.hash, "mistakes": []}

    @router.get("/versions")
    async def versions(limit: Annotated[int, QueryParameter(ge=1, le=1000)] = 50) -> dict[str, Any]:
        return {"object": "list", "data": await policy_versions.versions(database, limit)}

    @router.get("/versions/{version}")
    async def version(version: str) -> dict[str, Any]:
        try:
            return {"object": "policy"} | await policy_versions.show(database, version)
        except policies.NoSuchVersion as error:
            raise NotFound(str(error), code="policy_not_found", param="version") from None

    @router.post("/rollback")
    async def rollback(body: RollbackBody, key: Admin) -> dict[str, Any]:
        source = f"{policy_versions.ROLLBACK}:{key.name}"
        try:
            return await policy_versions.roll_back(database, body.version, targets, source, body.based_on)
        except policies.Superseded as error:
            raise _conflict(error) from None
        except policies.NoSuchVersion as error:
            raise NotFound(str(error), code="policy_not_found", param="version") from None
        except ConfigError as refused:
            raise BadRequest(str(refused), code="invalid_policy", param="version") from None


def _add_trials(router: APIRouter, plane: Plane) -> None:
    replaying = asyncio.Lock()

    @router.post("/explain")
    async def explain(body: ExplainBody) -> dict[str, Any]:
        policy = plane.policy.current if body.policy is None else await _checked(plane, body.policy, "policy")
        query = _query(body)
        try:
            found = explained(query, plane.catalog, policy, plane.fleet, time.monotonic(), body.draw)
        except UnknownModel:
            raise NotFound(
                f"no target, shape or mapped name is called '{query.model}'",
                code="model_not_found",
                param="model",
            ) from None
        return found | {"is_learnt": True}

    @router.post("/replay")
    async def replay_recorded(body: ReplayBody) -> dict[str, Any]:
        policy = await _checked(plane, body.yaml)
        if replaying.locked():
            raise RateLimited(
                "this worker is replaying already; ask again when that is done", retry_after_s=5
            )
        until = datetime.now(UTC)
        since = until - timedelta(seconds=body.since_s)
        try:
            async with replaying, asyncio.timeout(REPLAY_WITHIN_S):
                return await replay(
                    plane.database, plane.catalog, policy, since, until, body.limit, chunk_calls=AT_ONCE
                )
        except TimeoutError:
            raise BadRequest(
                f"not done after {REPLAY_WITHIN_S:g} s; ask for fewer calls, or run `sparkgate policy replay`",
                code="replay_too_long",
                param="limit",
            ) from None


def _query(body: ExplainBody) -> Query:
    if (body.request is None) == (body.call is None):
        raise BadRequest(
            "give either 'request', the body an app sends, or 'call', a described one", param="request"
        )
    if body.request is not None:
        return query_of_request(body.endpoint, body.request, body.headers, body.caller)
    assert body.call is not None
    headers = {name.lower(): value for name, value in body.headers.items()}
    return Query(body.endpoint, caller=body.caller, headers=headers, **body.call.model_dump())
