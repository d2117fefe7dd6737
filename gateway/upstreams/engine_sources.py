"""Where the state of self-hosted targets is read: an engine's `/state`, a vLLM or SGLang server's `/metrics`.

In: an `HttpUpstream`. Out: a `Look`: the state in the words of an engine's `/state`, or why there is none. Raises
nothing: whatever a server answers, calls to it go on.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from gateway.upstreams import server_metrics
from gateway.upstreams.base import Unreachable
from gateway.upstreams.openai_http import HttpUpstream
from gateway.upstreams.server_metrics import Kind
from gateway.upstreams.server_pace import Pace

ANSWER_WITHIN_S = 2.0
MODELS_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Look:
    """`is_up`: whether the machine works, and so costs; None = that cannot be told. `problem`: for an operator."""

    state: dict[str, Any] | None
    is_up: bool | None
    problem: str | None = None


class Source(Protocol):
    """`is_needed`: a target that tells no state gets no calls."""

    is_needed: bool

    async def look(self, now: float) -> Look: ...


class EngineSource:
    """A sparkgate engine: no state, no calls."""

    is_needed = True

    def __init__(self, upstream: HttpUpstream) -> None:
        self._upstream = upstream

    async def look(self, now: float) -> Look:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                status, raw = await self._upstream.get("/state")
            value = orjson.loads(raw) if status == 200 else None
        except (Unreachable, TimeoutError, orjson.JSONDecodeError):
            value = None
        state = value if isinstance(value, dict) else None
        return Look(state, state is not None)


class ServerSource:
    """A server of vLLM or SGLang. Its calls do not hang on what it tells of itself."""

    is_needed = False

    def __init__(self, kind: Kind, upstream: HttpUpstream, model: str, max_batch: int) -> None:
        self._kind, self._upstream = kind, upstream
        self._pace, self._models = Pace(kind, max_batch), _Models(upstream, model)

    async def look(self, now: float) -> Look:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                status, raw = await self._upstream.get("/metrics")
                await self._models.refresh(now)
        except TimeoutError:
            return Look(None, None, f"no answer within {ANSWER_WITHIN_S:.0f} s")
        except Unreachable as error:
            return Look(None, False, str(error))
        if status != 200:
            hint = "; start SGLang with --enable-metrics" if (self._kind, status) == ("sglang", 404) else ""
            return Look(None, True, f"/metrics answers with status {status}{hint}")
        reading = server_metrics.read(self._kind, raw.decode("utf-8", "replace"))
        if reading is None:
            return Look(None, True, f"/metrics tells nothing of {self._kind}: is that the right kind?")
        told = {"model": self._models.model, "max_context_tokens": self._models.context_tokens}
        return Look(told | self._pace.look(reading, now), True, self._models.problem)


@dataclass(slots=True)
class _Models:
    """What the server says it serves, asked once a minute."""

    upstream: HttpUpstream
    model: str
    context_tokens: int | None = None
    problem: str | None = None
    _asked_s: float = field(default=-math.inf)

    async def refresh(self, now: float) -> None:
        """Raises `Unreachable`."""
        if now - self._asked_s < MODELS_EVERY_S:
            return
        status, raw = await self.upstream.get("/v1/models")
        self._asked_s = now
        if status in (401, 403):
            self.problem = f"the server refuses the key ({status})"
        elif (served := _served(raw)) and self.model not in served:
            self.problem = (
                f"the model {self.model} is not among those that the server lists: {', '.join(served)}"
            )
        else:
            self.problem, self.context_tokens = None, served.get(self.model)


def _served(raw: bytes) -> dict[str, int | None]:
    """Lengths of context by the models' names; {} where the answer is no such list."""
    try:
        listed = {str(one["id"]): one.get("max_model_len") for one in orjson.loads(raw)["data"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {name: length if isinstance(length, int) else None for name, length in listed.items()}
