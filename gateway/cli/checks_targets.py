"""`doctor`'s checks of targets: addresses as they are written, and whether each answers with the key it has.

In: a checked deployment and its disabled targets. Out: `Check`s, and how far the clocks of those who answered are from
ours. Each target is asked for its list of models, which costs nothing; targets of kind litellm are not asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from gateway.cli.checks_data import Check
from gateway.config.deployment import (
    AnthropicTarget,
    AnyTarget,
    Deployment,
    EngineTarget,
    OpenAITarget,
    ServerTarget,
)
from gateway.config.variables import ENGINE_KEY_VARIABLE
from gateway.upstreams import server_metrics

ANSWER_WITHIN_S = 3.0
ENDPOINTS = ("/chat/completions", "/completions", "/embeddings", "/messages", "/models", "/responses")


class Answer(NamedTuple):
    check: Check
    ahead_s: float | None = None  # how far its clock is ahead of ours, as far as it said


def ask(deployment: Deployment, disabled: Mapping[str, str], own_engine_port: int) -> list[Answer]:
    """All targets with an address at once; the engine that is started here is looked at with its port."""
    others = [
        target
        for target in deployment.targets
        if target.name not in disabled and not _is_own(target, own_engine_port)
    ]
    loops = [target for target in others if _is_gateway(target, deployment)]
    said = "is this gateway itself: each call would come back and be sent once more, without end"
    found = [Answer(Check(f"target {target.name}", "wrong", f"its address {said}")) for target in loops]
    with ThreadPoolExecutor(max_workers=16) as pool:
        answers = pool.map(_answer, [target for target in others if target not in loops])
        return found + [answer for answer in answers if answer is not None]


def _is_gateway(target: AnyTarget, deployment: Deployment) -> bool:
    at = urlsplit(str(getattr(target, "base_url", None) or getattr(target, "url", "")))
    return at.port == deployment.port and at.hostname in ("127.0.0.1", "localhost", "::1", deployment.host)


def _is_own(target: AnyTarget, own_engine_port: int) -> bool:
    return isinstance(target, EngineTarget) and target.url.endswith(f":{own_engine_port}")


def _answer(target: AnyTarget) -> Answer | None:
    name = f"target {target.name}"
    if mistake := _mispasted(getattr(target, "api_key", None)):
        return Answer(Check(name, "wrong", mistake))
    if isinstance(target, EngineTarget):
        key = os.environ.get(ENGINE_KEY_VARIABLE)
        base, headers = target.url, {"authorization": f"Bearer {key}"} if key else {}
    elif isinstance(target, ServerTarget):
        base, headers = target.url.removesuffix("/v1"), _key_headers(target)
    elif isinstance(target, OpenAITarget | AnthropicTarget):
        if mistake := _misspelt(target.base_url):
            return Answer(Check(name, "wrong", mistake))
        base, headers = target.base_url.removesuffix("/v1"), _key_headers(target)
    else:
        return None
    try:
        answer = httpx.get(f"{base}/v1/models", headers=headers, timeout=ANSWER_WITHIN_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        said = str(error) or type(error).__name__
        return Answer(
            Check(name, "note", f"{base} cannot be reached ({said}): calls go to other targets meanwhile")
        )
    check = _judged(name, target.model, base, answer)
    if isinstance(target, ServerTarget) and check.state == "ok":
        check = _told(target, base, check)
    return Answer(check, _ahead_s(answer))


def _told(target: ServerTarget, base: str, check: Check) -> Check:
    """Whether the server tells of its load: without that it works, and is routed to by its latencies alone."""
    try:
        page = httpx.get(f"{base}/metrics", timeout=ANSWER_WITHIN_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        said = str(error) or type(error).__name__
    else:
        if page.is_success and server_metrics.read(target.kind, page.text):
            return check
        said = "no figures of its kind" if page.is_success else f"status {page.status_code}"
    hint = "; start SGLang with --enable-metrics" if target.kind == "sglang" else ""
    return Check(check.name, "note", f"{base}/metrics: {said}, so that its load is not known{hint}")


def _misspelt(base_url: str) -> str | None:
    """An address to which an endpoint's path was appended, or `/v1` twice."""
    for endpoint in ENDPOINTS:
        if base_url.endswith(endpoint):
            return f"base_url ends in {endpoint}, which is appended to it: write {base_url.removesuffix(endpoint)}"
    if base_url.endswith("/v1/v1"):
        return f"base_url ends in /v1 twice: write {base_url.removesuffix('/v1')}"
    return None


def _mispasted(key: str | None) -> str | None:
    """A key that was copied together with what stood around it."""
    if key is None or (key.isprintable() and not set(key) & set(" \"'")):
        return None
    return "its api_key has a quote, a space or a line break in it: set the variable again, to the key alone"


def _key_headers(target: OpenAITarget | AnthropicTarget | ServerTarget) -> dict[str, str]:
    if target.api_key is None:
        return {}
    if target.kind == "anthropic":
        return {"x-api-key": target.api_key, "anthropic-version": "2023-06-01"}
    return {"authorization": f"Bearer {target.api_key}"}


def _judged(name: str, model: str | None, base: str, answer: httpx.Response) -> Check:
    status = answer.status_code
    if status in (401, 403):
        return Check(
            name, "wrong", f"{base} refuses the key ({status}); is it the right one, and still valid?"
        )
    if answer.is_redirect:
        to = answer.headers.get("location", "elsewhere")
        return Check(
            name, "wrong", f"{base} redirects to {to}, and redirects are not followed: write that address"
        )
    if status == 404:
        path = urlsplit(base).path
        hint = f"is {path or '/'} right? " if path else ""
        said = f"nothing at {base}/v1/models; {hint}calls go to {base}/v1/…"
        return Check(name, "note", f"{said}: where the API is elsewhere, use kind litellm")
    if not answer.is_success:
        return Check(name, "note", f"{base} answers with status {status}")
    try:
        listed = [entry.get("id") for entry in answer.json()["data"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return Check(name, "wrong", f"{base}/v1/models gives no list of models: is it the address of an API?")
    if model is not None and listed and model not in listed:
        some = ", ".join(str(one) for one in listed[:5])
        return Check(name, "note", f"the model {model} is not among those that {base} lists: {some}…")
    return Check(name, "ok", f"{base} answers")


def _ahead_s(answer: httpx.Response) -> float | None:
    try:
        return parsedate_to_datetime(answer.headers["date"]).timestamp() - time.time()
    except (KeyError, ValueError):
        return None
