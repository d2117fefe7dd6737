"""The engine's error tree. Every error knows its HTTP status, its code and whether a retry can help.

`StartError` is for the person at the command line (one line, exit code 2); all the others become
OpenAI's error JSON at the HTTP edge.
"""

from __future__ import annotations


class StartError(Exception):
    """The engine cannot start as asked: a wrong option, an unusable model, a taken port."""


class EngineError(Exception):
    """Base of everything a client can be told."""

    status = 500
    type = "server_error"
    code: str | None = "engine_error"
    retryable = False
    retry_after_s: int | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class InvalidRequest(EngineError):
    """The request cannot be served as written; the message says what to change."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class ContextTooLong(InvalidRequest):
    code = "context_length_exceeded"


class UnknownModel(InvalidRequest):
    status = 404
    code = "model_not_found"


class BodyTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"


class QueueFull(EngineError):
    """All running and waiting places are taken; `retry_after_s` is when one is expected to be free."""

    status = 429
    type = "rate_limit_error"
    code = "engine_overloaded"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Draining(EngineError):
    """The process is stopping and takes no new work."""

    status = 503
    type = "service_unavailable_error"
    code = "engine_draining"
    retryable = True
    retry_after_s = 1


class StepFailed(EngineError):
    """The forward pass or the sampling of this request's step broke."""

    code = "engine_step_failed"
    retryable = True
