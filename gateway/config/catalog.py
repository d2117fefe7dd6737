"""A deployment as the router's `Catalog`.

In: a checked `Deployment` and the reasons of its disabled targets. Out: values for `decide`. Prices and
context lengths are those of the file; what it leaves out stays None here, for whoever knows price maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.config.deployment import AnyTarget, Deployment, EngineTarget
from router.catalog import Catalog, Target

CHAT = frozenset({"/v1/chat/completions"})
ENGINE = CHAT | {"/v1/completions"}
EMBEDDINGS = frozenset({"/v1/embeddings"})


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
            endpoints=ENGINE,
            has_tools=False,
            has_images=False,
            has_json=False,
            disabled_reason=disabled_reason,
        )
    return Target(
        name=target.name,
        kind=target.kind,
        model=target.model,
        endpoints=frozenset(target.endpoints) if target.endpoints else _endpoints_of(target.model),
        context_tokens=target.context_tokens,
        input_usd_per_mtok=target.prices.input_usd_per_mtok,
        output_usd_per_mtok=target.prices.output_usd_per_mtok,
        disabled_reason=disabled_reason,
    )


def served_name(model: str) -> str:
    """The id the engine serves a model under: a local folder's own name, else the name as it is."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def _endpoints_of(model: str) -> frozenset[str]:
    return EMBEDDINGS if "embed" in model.lower() else CHAT
