"""What keeps a caller from steering litellm, and a provider from steering what litellm does with its answers.

litellm takes the target's address, credentials, retries, callbacks and much else as arguments beside those of the API:
of a caller's body only parameters of the API go there. It fetches what URLs in messages name, follows redirects and
undoes compression of any size: here it does none of these. In: bodies, litellm's HTTP clients. Knows no targets.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import httpx

from gateway.upstreams.http_response import MAX_BODY_BYTES

_SAMPLING = frozenset(
    (
        *("frequency_penalty", "logit_bias", "logprobs", "max_tokens", "min_p", "n", "presence_penalty"),
        *(
            "repetition_penalty",
            "seed",
            "stop",
            "stream",
            "stream_options",
            "temperature",
            "top_k",
            "top_p",
            "user",
        ),
    )
)
_CHAT = frozenset(
    (
        *("audio", "function_call", "functions", "max_completion_tokens", "messages", "modalities"),
        *(
            "parallel_tool_calls",
            "prediction",
            "prompt_cache_key",
            "prompt_cache_retention",
            "reasoning_effort",
        ),
        *("response_format", "safety_identifier", "safety_settings", "service_tier", "store", "thinking"),
        *("tool_choice", "tools", "top_logprobs", "verbosity", "web_search_options"),
    )
)
_PARAMETERS = {
    "acompletion": _SAMPLING | _CHAT,
    "atext_completion": _SAMPLING | {"best_of", "echo", "prompt", "suffix"},
    "aembedding": frozenset(("dimensions", "encoding_format", "input", "input_type", "user")),
}
_PLAIN = frozenset(
    ("text", "input_text", "output_text", "refusal", "thinking", "redacted_thinking", "function")
)
_ADDRESSES = frozenset(("url", "uri", "image_url", "file_url", "video_url", "audio_url"))
_NO_ADDRESSES = frozenset(("content", "text", "input", "title", "context"))
_SCHEME = re.compile(r"\s*[a-zA-Z][a-zA-Z0-9+.-]*://")


class NotPassed(Exception):
    """A body that litellm does not get; the message is for the caller."""


def arguments(function: str, body: Mapping[str, Any], *, drops: bool) -> dict[str, Any]:
    """What of a body goes to a function of litellm's. The rest is left out where `drops`.

    Raises `NotPassed` for the rest where not, and for what litellm would fetch itself.
    """
    known = _PARAMETERS[function]
    unknown = [name for name in body if name not in known and name not in ("model", "metadata")]
    if unknown and not drops:
        raise NotPassed(f"a target of kind litellm does not get {', '.join(map(repr, unknown))}")
    given = {name: value for name, value in body.items() if name in known}
    for message in _objects(given.get("messages")):
        if address := next(
            _addresses({"content": message.get("content"), "images": message.get("images")}), None
        ):
            shown = f"'{address[:60]}'"
            raise NotPassed(
                f"a target of kind litellm gets no addresses to fetch, such as {shown}: send the data"
            )
    if any(tool.get("type") == "mcp" for tool in _objects(given.get("tools"))):
        raise NotPassed("a target of kind litellm gets no MCP servers to call")
    return given


def _objects(listed: Any) -> list[dict[str, Any]]:
    return [item for item in listed if isinstance(item, dict)] if isinstance(listed, list) else []


def _addresses(value: Any) -> Iterator[str]:
    """Where something is to be had from, in the parts of a message that are not text."""
    if isinstance(value, list):
        for item in value:
            yield from _addresses(item)
    elif isinstance(value, dict) and value.get("type") not in _PLAIN:
        for name, item in value.items():
            if not isinstance(item, str):
                yield from _addresses(item)
            elif name in _NO_ADDRESSES:
                continue
            elif _SCHEME.match(item) or (name in _ADDRESSES and not item.startswith("data:")):
                yield item


def restrict_clients() -> None:
    """Every HTTP client that litellm makes from now on takes an answer from where it asked, whole and as it is.

    Written against litellm 1.106: a factory that is missing is an error here, not an open door.
    """
    handlers = importlib.import_module("litellm.llms.custom_httpx.http_handler")
    openai = importlib.import_module("litellm.llms.openai.common_utils").BaseOpenAILLM
    for owner in (handlers.AsyncHTTPHandler, handlers.HTTPHandler):
        owner.create_client = _restricting(owner.create_client)
    for name in ("_get_async_http_client", "_get_sync_http_client"):
        setattr(openai, name, staticmethod(_restricting(getattr(openai, name))))


def _restricting(make: Callable[..., Any]) -> Callable[..., Any]:
    if hasattr(make, "__wrapped__"):
        return make

    @functools.wraps(make)
    def restricted(*given: Any, **named: Any) -> Any:
        client = make(*given, **named)
        check = _check_async if isinstance(client, httpx.AsyncClient) else _check
        hooks = client.event_hooks
        if check not in hooks["response"]:
            client.event_hooks = {**hooks, "response": [*hooks["response"], check]}
        client.headers["Accept-Encoding"] = "identity"
        return client

    return restricted


async def _check_async(response: httpx.Response) -> None:
    _check(response)
    response.stream = _Counted(response.stream)


def _check(response: httpx.Response) -> None:
    """Raises `httpx.DecodingError`, `httpx.TooManyRedirects`."""
    if response.has_redirect_location:
        raise httpx.TooManyRedirects(f"it answered {response.status_code} with an address to go to instead")
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise httpx.DecodingError(f"it answered in content encoding '{encoding}', although asked for none")


class _Counted(httpx.AsyncByteStream):
    """A body up to the size that any answer may have."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._room = stream, MAX_BODY_BYTES

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._room -= len(piece)
            if self._room < 0:
                raise httpx.DecodingError(f"its answer grew past {MAX_BODY_BYTES // 1024**2} MiB")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
