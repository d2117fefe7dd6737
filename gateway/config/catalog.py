"""A deployment as the router's `Catalog`.

In: a checked `Deployment` and the reasons of its disabled targets. Out: values for `decide`. Prices and
context lengths are those of the file; what it leaves out stays None here, for whoever knows price maps.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.deployment import (
    AnthropicTarget,
    AnyTarget,
    Deployment,
    EngineTarget,
    Meaning,
    ModelName,
    OpenAITarget,
    Prices,
    Provider,
    ServerTarget,
)
from router.catalog import Catalog, Target

CHAT = frozenset({"/v1/chat/completions"})
ENGINE = CHAT | {"/v1/completions"}
EMBEDDINGS = frozenset({"/v1/embeddings"})
RESPONSES = frozenset({"/v1/responses"})
MESSAGES = frozenset({"/v1/messages"})
COUNT_TOKENS = frozenset({"/v1/messages/count_tokens"})


def catalog(deployment: Deployment, disabled: Mapping[str, str]) -> Catalog:
    """All effective targets in the order of the file, the bundled engine first when it is not listed."""
    return Catalog(
        targets={
            target.name: _target(target, deployment.engine.model, disabled.get(target.name))
            for target in deployment.effective_targets
        },
        models={name: _meaning(to) for name, to in deployment.models.items()},
        fallbacks={
            name: to.fallback
            for name, to in deployment.models.items()
            if isinstance(to, ModelName) and to.fallback
        },
        unknown_model=deployment.unknown_model,
    )


def _meaning(to: Meaning) -> tuple[str, ...]:
    if isinstance(to, ModelName):
        return to.targets
    return (to,) if isinstance(to, str) else to


def _target(target: AnyTarget, engine_model: str, disabled_reason: str | None) -> Target:
    if isinstance(target, EngineTarget):
        return Target(
            name=target.name,
            kind="engine",
            model=target.model or served_name(engine_model),
            endpoints=_with_translated(ENGINE),
            native=ENGINE,
            refuses_unsupported=target.unsupported == "reject",
            has_images=False,
            disabled_reason=disabled_reason,
        )
    native = frozenset(target.endpoints) if target.endpoints else _spoken_by(target)
    if native & MESSAGES:
        native |= COUNT_TOKENS
    prices = Prices() if isinstance(target, ServerTarget) else target.prices
    return Target(
        name=target.name,
        kind=target.kind,
        model=target.model,
        endpoints=_with_translated(native),
        native=native,
        refuses_unsupported=target.unsupported == "reject",
        context_tokens=target.context_tokens,
        input_usd_per_mtok=prices.input_usd_per_mtok,
        output_usd_per_mtok=prices.output_usd_per_mtok,
        cached_usd_per_mtok=prices.cached_usd_per_mtok,
        disabled_reason=disabled_reason,
    )


def served_name(model: str) -> str:
    """The id the engine serves a model under: a local folder's own name, else the name as it is."""
    path = Path(model).expanduser()
    return path.resolve().name if os.path.isdir(path) else model  # False too for what can be no path


def _spoken_by(target: Provider | ServerTarget) -> frozenset[str]:
    """What a target's kind and its model's name suggest."""
    if isinstance(target, AnthropicTarget):
        return MESSAGES
    if "embed" in target.model.lower():
        return EMBEDDINGS
    if isinstance(target, ServerTarget):
        return ENGINE
    is_openai = isinstance(target, OpenAITarget) and urlsplit(target.base_url).hostname == "api.openai.com"
    return CHAT | RESPONSES if is_openai else CHAT


def _with_translated(native: frozenset[str]) -> frozenset[str]:
    """Chat carries messages and responses; messages carries chat, and so responses too."""
    if native & (CHAT | MESSAGES):
        return native | CHAT | RESPONSES | MESSAGES | COUNT_TOKENS
    return native
