"""The engine's routes: generation, models, state, health, metrics; and errors as OpenAI writes them.

In: a `Served` model and its metrics. Out: a Starlette app. Starts and stops nothing.
"""

from __future__ import annotations

import logging
import time

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engine.errors import EngineError, InvalidRequest, StepFailed
from engine.http.generate import GenerationEndpoint, Served, check_model, error_json
from engine.http.requests import read_chat, read_completion
from engine.http.shapes import ChatShape, CompletionShape, Json
from engine.metrics import EngineMetrics
from engine.speculation_stats import Counts, Margins

log = logging.getLogger("engine")


class InfoEndpoints:
    """Everything that answers at once."""

    def __init__(self, served: Served, metrics: EngineMetrics) -> None:
        self._served, self._metrics = served, metrics
        self._created = int(time.time())
        self._started_s = time.monotonic()

    async def models(self, request: Request) -> Response:
        return _json({"object": "list", "data": [self._model()]})

    async def model(self, request: Request) -> Response:
        check_model(request.path_params["model"], self._served.model)
        return _json(self._model())

    def _model(self) -> Json:
        return {
            "id": self._served.model,
            "object": "model",
            "created": self._created,
            "owned_by": "sparkgate",
        }

    async def state(self, request: Request) -> Response:
        """What a router asks once a second. null: nothing was measured yet.

        model, draining, uptime_s; running, waiting: sequences; max_batch; requests_total: ended ones.
        kv_used_fraction, kv_total_tokens, kv_cached_blocks, prefix_hit_rate, max_context_tokens.
        prefill_tokens_per_s, decode_tokens_per_s, steps_per_s by number of decoding sequences.
        step_s: recent seconds a step by phase: draft, verify (the target's forward), sample, overhead.
        drafter: its name, or null. speculation: recent rounds, see `speculation_json`.
        """
        engine = self._served.engine
        num_running = len(engine.running)
        return _json(
            {
                "model": self._served.model,
                "draining": engine.is_draining,
                "running": num_running,
                "waiting": max(0, engine.num_open - num_running),
                "max_batch": engine.limits.max_batch,
                "kv_used_fraction": round(engine.kv_used_fraction, 6),
                "kv_total_tokens": engine.kv_total_tokens,
                "kv_cached_blocks": engine.allocator.num_cached,
                "prefix_hit_rate": _rounded(self._metrics.prefix_hit_rate),
                "max_context_tokens": engine.max_context,
                "prefill_tokens_per_s": round(engine.rates.prefill_tokens_per_s, 2),
                "decode_tokens_per_s": round(engine.rates.decode_tokens_per_s, 2),
                "steps_per_s": {str(size): round(rate, 3) for size, rate in engine.rates.steps_per_s.items()},
                "step_s": {phase: _rounded(mean) for phase, mean in self._metrics.step_s.items()},
                "drafter": engine.drafter_name,
                "speculation": speculation_json(self._metrics.speculation.recent),
                "requests_total": self._metrics.num_requests,
                "uptime_s": round(time.monotonic() - self._started_s, 3),
            }
        )

    async def health(self, request: Request) -> Response:
        return _json({"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def build_app(served: Served, metrics: EngineMetrics) -> Starlette:
    info = InfoEndpoints(served, metrics)
    chat = GenerationEndpoint(served, read_chat, ChatShape())
    completion = GenerationEndpoint(served, read_completion, CompletionShape())
    return Starlette(
        routes=[
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/completions", completion, methods=["POST"]),
            Route("/v1/models", info.models),
            Route("/v1/models/{model:path}", info.model),
            Route("/state", info.state),
            Route("/health", info.health),
            Route("/metrics", info.metrics),
        ],
        exception_handlers={EngineError: _on_engine_error, HTTPException: _on_http_error, 500: _on_bug},
    )


def speculation_json(recent: Margins) -> Json:
    """How far recent rounds came, over all, and `by` dimension and band where one had rounds.

    accepted_length: tokens committed a round, the target's own included; proposal_length, verified_length: of
    the drafted ones; waste: share of the verified that was not accepted; survival: by slot, see
    `engine.speculation_stats`.
    """
    by = {
        dimension: {band: _yield_json(counts) for band, counts in bands.items() if counts.rounds}
        for dimension, bands in recent.by.items()
    }
    return {**_yield_json(recent.overall), "by": by}


def _yield_json(counts: Counts) -> Json:
    return {
        "accepted_length": _rounded(counts.accepted_length),
        "proposal_length": _rounded(counts.proposal_length),
        "verified_length": _rounded(counts.verified_length),
        "waste": _rounded(counts.waste),
        "survival": [_rounded(share) for share in counts.survival],
    }


async def _on_engine_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, EngineError)
    headers = {"retry-after": str(error.retry_after_s)} if error.retry_after_s is not None else None
    return _json(error_json(error), error.status, headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Routing's own refusals: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    known = error.status_code == 405
    reason = f"{request.method} is not allowed for {request.url.path}" if known else "no such path"
    refusal = InvalidRequest(
        f"Invalid URL ({request.method} {request.url.path}): {reason}.",
        code="method_not_allowed" if known else "unknown_url",
    )
    return _json(error_json(refusal), error.status_code, dict(error.headers or {}))


async def _on_bug(request: Request, error: Exception) -> Response:
    return _json(error_json(StepFailed("The engine failed while handling this request.")), 500)


def _rounded(figure: float | None) -> float | None:
    return None if figure is None else round(figure, 6)


def _json(body: Json, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(orjson.dumps(body), status, headers, media_type="application/json")
