"""The control plane: models, exchanges, tasks and outcomes, health, metrics and what admins do; a FastAPI app behind
the data plane.

In: `Plane`, what a worker holds, and its stored responses. Out: JSON in OpenAI's shapes, errors included. Calls here
may wait for the database; calls on the data plane never do. Loaded late: see `late`.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from math import ceil
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from gateway.callers.keys import Key
from gateway.callers.store import KeyRefused, UnknownKey
from gateway.control import openapi
from gateway.control.admin import admin_router
from gateway.control.headers import PrivateAnswers
from gateway.control.plane import Plane
from gateway.control.policy_admin import policy_router
from gateway.ledger import lookups
from gateway.ledger.records import outcome_record
from gateway.surfaces.authenticate import authenticate
from gateway.surfaces.common import MAX_ID_CHARS
from gateway.wire.errors import GatewayError, NotFound, error_value
from router.catalog import Catalog
from router.eligibility import unwell
from router.shapes import SHAPES

READ = ("read", "call", "admin")
WRITE = ("call", "admin")


TaskId = Annotated[str, PathParameter(min_length=1, max_length=MAX_ID_CHARS)]


class OutcomeBody(BaseModel):
    """The body of `POST /v1/tasks/{task_id}/outcome`."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["completed", "failed", "abandoned"]
    score: Annotated[float, Field(ge=0, le=1, strict=True)] | None = None
    workflow: Annotated[str, Field(min_length=1, max_length=200)] | None = None


def _reader(request: Request) -> Key:
    return authenticate(request.headers, request.app.state.keys.ring, READ)


def _writer(request: Request) -> Key:
    return authenticate(request.headers, request.app.state.keys.ring, WRITE)


Reader = Annotated[Key, Depends(_reader)]
Writer = Annotated[Key, Depends(_writer)]
AnthropicVersion = Annotated[str | None, Header()]  # its clients send `anthropic-version`


def control_app(plane: Plane, stored_responses: APIRouter) -> FastAPI:
    """All routes that are not the data plane's."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.keys = plane.keys
    app.add_middleware(PrivateAnswers)
    _add_error_handlers(app, plane)
    _add_operations(app, plane)
    _add_ledger(app, plane)
    app.include_router(admin_router(plane.database, plane.catalog, lambda: _target_states(plane)))
    app.include_router(policy_router(plane))
    app.include_router(stored_responses)
    return app


def _add_error_handlers(app: FastAPI, plane: Plane) -> None:
    @app.exception_handler(GatewayError)
    async def ours(_: Request, error: GatewayError) -> JSONResponse:
        wait_s = error.retry_after_s
        headers = {} if wait_s is None else {"Retry-After": str(max(1, ceil(wait_s)))}
        return JSONResponse(error.value(), error.status, headers=headers)

    @app.exception_handler(KeyRefused)
    async def key_refused(_: Request, error: KeyRefused) -> JSONResponse:
        status, code = (404, "key_not_found") if isinstance(error, UnknownKey) else (400, "key_refused")
        return JSONResponse(error_value(str(error), "invalid_request_error", code), status)

    @app.exception_handler(HTTPException)
    async def unrouted(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path
        methods = openapi.methods_of(path, openapi.document(app, plane.version))
        if not methods or request.method in methods:
            message = f"{error.detail}: {request.method} {path}"
            value = error_value(message, "invalid_request_error", "not_found")
            return JSONResponse(value, error.status_code, error.headers)
        allowed = ", ".join(methods)
        message = f"{path} knows {allowed}, not {request.method}"
        value = error_value(message, "invalid_request_error", "method_not_allowed")
        return JSONResponse(value, 405, {"Allow": allowed})

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
        value = error_value(f"{where}: {first['msg']}", "invalid_request_error", "invalid_request", where)
        return JSONResponse(value, 400)

    @app.exception_handler(SQLAlchemyError)
    async def no_database(_: Request, error: SQLAlchemyError) -> JSONResponse:
        message = "the database does not answer; calls are served and recorded all the same"
        value = error_value(message, "service_unavailable_error", "database_unavailable")
        return JSONResponse(value, 503, headers={"Retry-After": "2"})


def _add_operations(app: FastAPI, plane: Plane) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        error = plane.policy.error or plane.policy.published_error
        return {
            "status": "degraded" if error else "ok",
            "version": plane.version,
            "uptime_s": round(time.time() - plane.started_at, 1),
            "policy": {"hash": plane.policy.current.hash, "error": error},
            "targets": _target_states(plane),
            "ledger": {"backlog_bytes": plane.spool.backlog_bytes, "lost_records": plane.spool.full_losses},
        }

    @app.get(openapi.PATH, include_in_schema=False)
    async def document() -> dict[str, Any]:
        return openapi.document(app, plane.version)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(plane.registry()), media_type=CONTENT_TYPE_LATEST)


def _target_states(plane: Plane) -> dict[str, dict[str, Any]]:
    """Each target with why it is not used, if so, and its load here."""
    now = time.monotonic()
    states = {}
    for name, target in plane.catalog.targets.items():
        health = plane.fleet.health(name)
        reason = f"disabled: {target.disabled_reason}" if target.disabled_reason else unwell(health, now)
        states[name] = {"usable": reason is None, "reason": reason, "in_flight": health.in_flight}
        if note := plane.price_notes.get(name):
            states[name]["cost_unknown"] = note
        if problem := plane.state_problems.get(name):
            states[name]["problem"] = problem
    return states


def _add_ledger(app: FastAPI, plane: Plane) -> None:
    @app.get("/v1/models")
    async def models(_: Reader, anthropic_version: AnthropicVersion = None) -> dict[str, Any]:
        names = _names(plane.catalog)
        if anthropic_version is None:
            return {"object": "list", "data": [_model(name, owner, plane) for name, owner in names]}
        data = [_model_info(name, plane) for name, _ in names]
        return {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str, _: Reader, anthropic_version: AnthropicVersion = None) -> dict[str, Any]:
        for known, owner in _names(plane.catalog):
            if known == name:
                is_openai = anthropic_version is None
                return _model(known, owner, plane) if is_openai else _model_info(known, plane)
        raise NotFound(f"no model is called '{name}'; GET /v1/models lists them", code="model_not_found")

    @app.get("/v1/exchanges/{request_id}")
    async def exchange(request_id: str, key: Reader) -> dict[str, Any]:
        found = await lookups.exchange(plane.database, _exchange_id(request_id), _visible_to(key))
        if found is None:
            raise NotFound(
                f"no exchange '{request_id}' of yours is in the database; a new one takes about a second to get there",
                code="exchange_not_found",
            )
        return found

    @app.get("/v1/tasks/{task_id}")
    async def task(task_id: str, key: Reader) -> dict[str, Any]:
        found = await lookups.task(plane.database, key.name, task_id)
        if found is None:
            raise NotFound(f"no task '{task_id}' of yours is in the database", code="task_not_found")
        return found

    @app.post("/v1/tasks/{task_id}/outcome")
    async def outcome(task_id: TaskId, body: OutcomeBody, key: Writer) -> dict[str, Any]:
        record = outcome_record(key.name, task_id, body.status, body.score, body.workflow)
        plane.spool.append(record)
        if shares := plane.last_targets.take_shares(key.name, task_id):
            plane.fleet.credit(shares, body.status == "completed", time.monotonic())
        return {"object": "task.outcome", **record["outcome"]}


def _names(catalog: Catalog) -> list[tuple[str, str]]:
    """(name, owner) of everything a request may ask for; patterns of the model map are not names."""
    routed = ["auto", *(f"auto/{shape}" for shape in SHAPES)]
    targets = [name for name, target in catalog.targets.items() if not target.disabled_reason]
    mapped = [name for name in catalog.models if not re.search(r"[*?\[]", name)]
    owners = [(routed, "sparkgate"), (targets, "target"), (mapped, "sparkgate")]
    return list(dict.fromkeys((name, owner) for names, owner in owners for name in names))


def _model(name: str, owner: str, plane: Plane) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(plane.started_at), "owned_by": owner}


def _model_info(name: str, plane: Plane) -> dict[str, Any]:
    """A model as Anthropic lists it."""
    created_at = datetime.fromtimestamp(int(plane.started_at), UTC).isoformat()
    known = {"capabilities": None, "max_input_tokens": None, "max_tokens": None, "lifecycle": "active"}
    return {"type": "model", "id": name, "display_name": name, "created_at": created_at, **known}


def _exchange_id(request_id: str) -> UUID:
    try:
        return UUID(request_id.removeprefix("req_"))
    except ValueError:
        raise NotFound(f"'{request_id}' is not a request id; they look like req_<32 hex digits>") from None


def _visible_to(key: Key) -> str | None:
    """None = everything."""
    return None if key.scope == "admin" else key.name
