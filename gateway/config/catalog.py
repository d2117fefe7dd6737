"""A deployment as the router's `Catalog`.

In: a checked `Deployment` and the reasons of its disabled targets. Out: values for `decide`. Prices and
context lengths are those of the file; what it leaves out stays None here, for whoever knows price maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from gateway.config.deployment import (
    AnthropicTarget,
    AnyTarget,
    Deployment,
    EngineTarget,
    OpenAITarget,
    Provider,
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
        models={name: (to,) if isinstance(to, str) else tuple(to) for name, to in deployment.models.items()},
        unknown_model=deployment.unknown_model,
    )


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
    return Target(
        name=target.name,
        kind=target.kind,
        model=target.model,
        endpoints=_with_translated(native),
        native=native,
        refuses_unsupported=target.unsupported == "reject",
        context_tokens=target.context_tokens,
        input_usd_per_mtok=target.prices.input_usd_per_mtok,
        output_usd_per_mtok=target.prices.output_usd_per_mtok,
        cached_usd_per_mtok=target.prices.cached_usd_per_mtok,
        disabled_reason=disabled_reason,
    )


def served_name(model: str) -> str:
    """The id the engine serves a model under: a local folder's own name, else the name as it is."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _spoken_by(target: Provider) -> frozenset[str]:
    """What a target's kind and its model's name suggest."""
    if isinstance(target, AnthropicTarget):
        return MESSAGES
    if "embed" in target.model.lower():
        return EMBEDDINGS
    is_openai = isinstance(target, OpenAITarget) and urlsplit(target.base_url).hostname == "api.openai.com"
    return CHAT | RESPONSES if is_openai else CHAT


def _with_translated(native: frozenset[str]) -> frozenset[str]:
    """Chat carries messages and responses; messages carries chat, and so responses too."""
    if native & (CHAT | MESSAGES):
        return native | CHAT | RESPONSES | MESSAGES | COUNT_TOKENS
    return native
