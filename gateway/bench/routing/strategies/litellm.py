"""LiteLLM's lowest-latency routing: its own code from the installed package, fed with virtual time.

`LowestLatency` asks and feeds the handler alone; `Routed` the whole `Router`, with its cooldowns, its rule on what may
be retried and its pauses. No request is made: what became of a try is told to the callbacks that LiteLLM itself calls.
Raises `NoLiteLLM` where the package is missing or is not as expected.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from random import Random
from typing import Any

from gateway.bench.routing.calls import Call
from gateway.bench.routing.scenarios import Place
from gateway.bench.routing.strategies.base import MAX_RETRIES, Choice, Peer, Route
from router.outcome import TIMEOUTS, Outcome

_GROUP = "all"
_CLOCKS = (
    "litellm.caching.in_memory_cache",
    "litellm.caching.dual_cache",
    "litellm.router_utils.cooldown_cache",
    "litellm.router",
)
_DICE = ("litellm.router_strategy.lowest_latency", "litellm.utils")


class NoLiteLLM(Exception):
    """LiteLLM cannot be driven."""


class _Clock:
    """Stands where LiteLLM's modules have `time`."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


@contextmanager
def driven(chance: Random) -> Iterator[_Clock]:
    """LiteLLM's modules with a clock and dice of ours; as they were afterwards."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would be fetched
    try:
        clocks, dice = [import_module(name) for name in _CLOCKS], [import_module(name) for name in _DICE]
    except ImportError as error:
        raise NoLiteLLM(f"litellm cannot be imported ({error}); pip install litellm") from error
    clock = _Clock()
    kept = [(module, "time", module.time) for module in clocks]
    kept += [(module, "random", module.random) for module in dice]
    try:
        for module in clocks:
            module.time = clock  # type: ignore[attr-defined]
        for module in dice:
            module.random = chance  # type: ignore[attr-defined]
        yield clock
    finally:
        for module, name, was in kept:
            setattr(module, name, was)


class LowestLatency(Peer):
    """The handler alone: it picks, after a failure once more; there are no cooldowns."""

    name = "litellm handler"

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        from litellm.caching.dual_cache import DualCache
        from litellm.router_strategy.lowest_latency import LowestLatencyLoggingHandler

        self._clock = clock
        self._handler = LowestLatencyLoggingHandler(DualCache(), {})
        self._deployments: list[dict[str, Any]] = []

    def join(self, place: Place, now: float) -> None:
        super().join(place, now)
        self._deployments.append(_deployment(place))

    def route(self, call: Call, now: float) -> Route:
        for _ in range(1 + MAX_RETRIES):
            now, outcome = yield Choice(self.pick(call, self.targets, now))
            if not outcome.is_retryable:
                return

    def pick(self, call: Call, among: list[str], now: float) -> str:
        self._clock.now = now
        picked = self._handler.get_available_deployments(
            _GROUP, self._deployments, request_kwargs={"stream": True, "metadata": {}}
        )
        return str(picked["model_info"]["id"])

    def observe(self, call: Call, outcome: Outcome, now: float) -> None:
        super().observe(call, outcome, now)
        self._clock.now = now
        tell(self._handler, call, outcome, now)


class Routed(Peer):
    """The Router, as `litellm.Router(routing_strategy="latency-based-routing")` sets it up."""

    name = "litellm router"

    def __init__(self, clock: _Clock) -> None:
        super().__init__()
        self._clock = clock
        self._loop = asyncio.new_event_loop()
        self._router: Any = None

    def close(self) -> None:
        if self._router is not None:
            self._router.discard()
        self._loop.close()

    def join(self, place: Place, now: float) -> None:
        from litellm.router import Router
        from litellm.types.router import Deployment

        super().join(place, now)
        self._clock.now = now
        if self._router is None:
            self._router = Router([_deployment(place)], routing_strategy="latency-based-routing")
        else:
            self._router.add_deployment(Deployment(**_deployment(place)))

    def route(self, call: Call, now: float) -> Route:
        after_s = 0.0
        for tried in range(1 + MAX_RETRIES):
            name = self._pick(now)
            if name is None:
                return
            now, outcome = yield Choice(name, after_s)
            pause_s = self._pause_s(outcome, MAX_RETRIES - max(0, tried - 1), now)
            if pause_s is None or not outcome.is_retryable:
                return
            after_s = pause_s

    def _pick(self, now: float) -> str | None:
        from litellm.types.router import RouterRateLimitError

        self._clock.now = now
        try:
            picked = self._router.get_available_deployment(
                _GROUP, request_kwargs={"stream": True, "metadata": {}}
            )
        except RouterRateLimitError:  # all of them cool down
            return None
        return str(picked["model_info"]["id"])

    def _pause_s(self, outcome: Outcome, remaining: int, now: float) -> float | None:
        """Before the next try, as `Router.async_function_with_retries` has it; None where there is none."""
        self._clock.now = now
        error = _exception(outcome)
        well, known = self._loop.run_until_complete(self._router._async_get_healthy_deployments(_GROUP, None))
        try:
            self._router.should_retry_this_error(error, well, known)
        except type(error):
            return None
        return float(self._router._time_to_sleep_before_retry(error, remaining, MAX_RETRIES, well, known))

    def observe(self, call: Call, outcome: Outcome, now: float) -> None:
        super().observe(call, outcome, now)
        self._clock.now = now
        tell(self._router.lowestlatency_logger, call, outcome, now)
        if outcome.result == "ok":
            said = _kwargs(outcome) | {"standard_logging_object": {"total_tokens": 0}}
            _complete(self._router.deployment_callback_on_success(said, None, *_span(outcome, now)))
        elif outcome.is_failure:
            self._loop.run_until_complete(self._tell_failure(outcome, now))

    async def _tell_failure(self, outcome: Outcome, now: float) -> None:
        said = _kwargs(outcome) | {"exception": _exception(outcome)}
        self._router.deployment_callback_on_failure(said, None, *_span(outcome, now))
        await asyncio.sleep(0)  # a cooldown announces itself in a task


def tell(handler: Any, call: Call, outcome: Outcome, now: float) -> None:
    """What LiteLLM's own callbacks would hear of a streamed call."""
    from litellm.types.utils import ModelResponse, Usage

    begun, ended = _span(outcome, now)
    if outcome.result == "ok":
        tokens = outcome.output_tokens or 0
        usage = Usage(prompt_tokens=call.kind.input_tokens, completion_tokens=tokens)
        first = datetime.fromtimestamp(now - outcome.total_s + (outcome.ttft_s or 0.0), UTC)
        said = _kwargs(outcome) | {"completion_start_time": first}
        _complete(handler.async_log_success_event(said, ModelResponse(usage=usage), begun, ended))
    elif outcome.is_failure:
        said = _kwargs(outcome) | {"exception": _exception(outcome)}
        _complete(handler.async_log_failure_event(said, None, begun, ended))


def _kwargs(outcome: Outcome) -> dict[str, Any]:
    return {
        "stream": True,
        "litellm_params": {
            "metadata": {"model_group": _GROUP, "deployment": outcome.target},
            "model_info": {"id": outcome.target},
        },
    }


def _span(outcome: Outcome, now: float) -> tuple[datetime, datetime]:
    return datetime.fromtimestamp(now - outcome.total_s, UTC), datetime.fromtimestamp(now, UTC)


def _exception(outcome: Outcome) -> Exception:
    from httpx import Request, Response
    from litellm.exceptions import InternalServerError, RateLimitError, Timeout

    if outcome.http_status == 429:
        asked = Response(
            429, headers={"retry-after": f"{outcome.retry_after_s:g}"}, request=Request("POST", "http://none")
        )
        refused: Exception = RateLimitError("refused", "openai", outcome.target, response=asked)
        return refused
    kind = Timeout if outcome.result in TIMEOUTS else InternalServerError
    error: Exception = kind(message=outcome.result, model=outcome.target, llm_provider="openai")
    return error


def _deployment(place: Place) -> dict[str, Any]:
    return {
        "model_name": _GROUP,
        "litellm_params": {"model": f"openai/{place.name}", "api_key": "none", "api_base": "http://none"},
        "model_info": {"id": place.name},
    }


def _complete(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Runs what waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise NoLiteLLM(
        "litellm's handler waits for something: this version cannot be driven with a virtual clock"
    )
