"""Providers with APIs of their own, through litellm: its answers and errors given back as OpenAI's wire bytes.

litellm takes seconds to import, so it is imported on the first call of the first such target and never otherwise.
Its own retries are off: attempts are dispatch's business, and callers cannot steer it (see `litellm_guard`).
In: an `UpstreamCall`. Out: a `Reply`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson

from gateway.telemetry.trace_context import TRACE_HEADERS
from gateway.upstreams.base import CutOff, Reply, Unreachable, UpstreamCall, without
from gateway.upstreams.litellm_guard import NotPassed, arguments, restrict_clients

_FUNCTIONS = {
    "/v1/chat/completions": "acompletion",
    "/v1/completions": "atext_completion",
    "/v1/embeddings": "aembedding",
}
_SECRET_NAME = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL")  # of variables that litellm may read


class LitellmReply:
    """A finished body, or a stream that litellm is still reading."""

    def __init__(
        self, status: int, body: bytes = b"", stream: Any = None, words: Callable[[Exception], str] = str
    ) -> None:
        """`words`: what an error of the stream's says."""
        self.status = status
        self.headers: Mapping[str, str] = {}
        self._body, self._stream, self._words = body, stream, words

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._stream is None:
            yield self._body
            return
        try:
            async for chunk in self._stream:
                yield b"data: " + orjson.dumps(chunk.model_dump(exclude_none=True)) + b"\n\n"
        except Exception as error:  # litellm's stream raises whatever the provider's adapter raises
            raise CutOff(f"{type(error).__name__}: {self._words(error)}") from None
        yield b"data: [DONE]\n\n"

    async def read(self) -> bytes:
        return self._body

    def close(self) -> None:
        """Ends the provider's stream; litellm offers only an awaitable for it."""
        closing = getattr(self._stream, "aclose", None)
        if closing is not None:
            self._closing = asyncio.ensure_future(closing())


class LitellmUpstream:
    """A target called as litellm's `model` (its provider prefix included)."""

    def __init__(
        self, model: str, api_key: str | None, base_url: str | None, *, drops_params: bool = True
    ) -> None:
        """`drops_params`: parameters that the provider does not know are left out rather than refused."""
        self._drops_params = drops_params
        given = {"model": model, "api_key": api_key, "api_base": base_url}
        self._arguments = {key: value for key, value in given.items() if value is not None}
        named = [value for name, value in os.environ.items() if _SECRET_NAME.search(name.upper())]
        self._secrets = sorted({api_key or "", *named}, key=len, reverse=True)

    async def send(self, call: UpstreamCall) -> Reply:
        function = _FUNCTIONS[call.path.partition("?")[0]]
        try:
            body = arguments(function, orjson.loads(call.body), drops=self._drops_params)
        except NotPassed as refusal:
            return LitellmReply(400, orjson.dumps(_refusal(str(refusal))))
        litellm = await asyncio.to_thread(_litellm)
        ask = getattr(litellm, function)
        options: dict[str, Any] = {"num_retries": 0, "max_retries": 0, "drop_params": self._drops_params}
        if traced := {name: call.headers[name] for name in TRACE_HEADERS if name in call.headers}:
            options["extra_headers"] = traced
        if call.mark is not None:
            call.mark.is_sent = True
        try:
            answer = await ask(**body, **self._arguments, **options)
        except litellm.exceptions.APIConnectionError as error:
            raise Unreachable(self._words(error)) from None
        except Exception as error:  # one class per provider error, all with a status
            value = _error(error, self._words(error))
            return LitellmReply(getattr(error, "status_code", None) or 502, orjson.dumps(value))
        if call.stream:
            return LitellmReply(200, stream=answer, words=self._words)
        return LitellmReply(200, orjson.dumps(answer.model_dump(exclude_none=True)))

    def hide(self, said: bytes) -> bytes:
        return without(self._secrets, said)

    def _words(self, error: Exception) -> str:
        """litellm puts tracebacks behind the message."""
        message = str(getattr(error, "message", None) or error).partition("\nTraceback")[0]
        return self.hide(message.encode("utf-8", "replace")).decode()

    async def close(self) -> None:
        return None


def _litellm() -> Any:
    """Imports litellm without letting it fetch its price list from the network."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm

    restrict_clients()
    # It logs requests with their errors, which are ours to tell.
    logging.getLogger("LiteLLM").setLevel(logging.CRITICAL)
    litellm.suppress_debug_info = True
    litellm.telemetry = False
    return litellm


def _refusal(message: str) -> dict[str, Any]:
    kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": "unsupported_parameter"}}


def _error(error: Exception, message: str) -> dict[str, Any]:
    code = getattr(error, "code", None)
    return {"error": {"message": message, "type": type(error).__name__, "param": None, "code": code}}
