"""The gateway's errors, as callers see them: OpenAI's JSON shape with the right status.

GatewayError
├── BadRequest          400  the call itself is wrong
├── Unauthorized        401  no key, or an unknown or revoked one
├── Forbidden           403  the key's scope does not allow it
├── ModelNotAllowed     403  the key may not ask for this model
├── NotFound            404  unknown path, model, exchange or task
├── Conflict            409  what the call builds on was changed by somebody else
├── RequestTimeout      408  the request did not come in time
├── BodyTooLarge        413
├── BodyEncoded         415  the body is compressed
├── HeadersTooLarge     431
├── RateLimited         429  the key's calls a minute or at once are used up
│   └── TokensLimited   429  its tokens a minute are
├── BudgetSpent         429  the key's budget of the day or month is
├── TooManyConnections  503  the worker has no room for another
├── NoTarget            503  nothing can serve this call now
├── LedgerFull          503  the spool has no room for another record
├── LedgerAway          503  what only the database knows cannot be known now
├── TargetBusy          429  as many calls as a target may serve are under way, and more wait
├── UpstreamRefused     …    an upstream's own refusal, with its status
├── UpstreamFailed      502  the targets tried failed (or the upstream's own status, passed on)
└── UpstreamTimeout     504  a deadline of the policy passed

Upstream error bodies are relayed as they came; this tree is for what the gateway itself has to say.
"""

from __future__ import annotations

from typing import Any, ClassVar

import orjson


class GatewayError(Exception):
    """An error with its HTTP status, OpenAI `type` and `code`; `message` says what, where and what to do."""

    status: int = 500
    type: str = "server_error"
    default_code: ClassVar[str] = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = retry_after_s
        self.headers: dict[str, str] = {}  # what else the response says, e.g. the limits that were reached

    def value(self) -> dict[str, Any]:
        return error_value(self.message, self.type, self.code, self.param)


def error_value(message: str, type_: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    """OpenAI's error object; all four keys are required by its published schema."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def error_event(value: dict[str, Any]) -> bytes:
    """The error as a server-sent event, for streams that have begun."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


class BadRequest(GatewayError):
    status, type, default_code = 400, "invalid_request_error", "invalid_request"


class Unauthorized(GatewayError):
    status, type, default_code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(GatewayError):
    status, type, default_code = 403, "permission_error", "insufficient_scope"


class ModelNotAllowed(GatewayError):
    status, type, default_code = (
        403,
        "invalid_request_error",
        "model_not_found",
    )  # as OpenAI has it for projects


class NotFound(GatewayError):
    status, type, default_code = 404, "invalid_request_error", "not_found"


class Conflict(GatewayError):
    status, type, default_code = 409, "invalid_request_error", "conflict"


class RequestTimeout(GatewayError):
    status, type, default_code = 408, "invalid_request_error", "request_timeout"


class BodyTooLarge(GatewayError):
    status, type, default_code = 413, "invalid_request_error", "body_too_large"


class BodyEncoded(GatewayError):
    status, type, default_code = 415, "invalid_request_error", "unsupported_content_encoding"


class HeadersTooLarge(GatewayError):
    status, type, default_code = 431, "invalid_request_error", "headers_too_large"


class RateLimited(GatewayError):
    status, type, default_code = 429, "requests", "rate_limit_exceeded"


class TokensLimited(RateLimited):
    type = "tokens"


class BudgetSpent(GatewayError):
    status, type, default_code = 429, "insufficient_quota", "insufficient_quota"


class TooManyConnections(GatewayError):
    status, type, default_code = 503, "service_unavailable_error", "too_many_connections"


class NoTarget(GatewayError):
    status, type, default_code = 503, "service_unavailable_error", "no_target"


class LedgerFull(GatewayError):
    status, type, default_code = 503, "service_unavailable_error", "ledger_full"


class LedgerAway(GatewayError):
    status, type, default_code = 503, "service_unavailable_error", "database_unavailable"


class UpstreamFailed(GatewayError):
    status, type, default_code = 502, "server_error", "upstream_failed"


class UpstreamRefused(GatewayError):
    """An upstream's own refusal, said again in the caller's format: with the status and words it used."""

    def __init__(
        self, status: int, message: str, type_: str, code: str, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, code=code, retry_after_s=retry_after_s)
        self.status, self.type = status, type_


class TargetBusy(GatewayError):
    status, type, default_code = 429, "rate_limit_error", "target_busy"


class UpstreamTimeout(GatewayError):
    status, type, default_code = 504, "timeout_error", "upstream_timeout"
