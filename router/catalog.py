"""`Target` and `Catalog`: what exists to route to, and what a model name that an app wrote means.

In: the deployment's targets and model map, as values. Out: names resolved to targets. Knows nothing of health.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

from router.shapes import SHAPES

Kind = Literal["engine", "vllm", "sglang", "openai", "anthropic", "litellm"]


@dataclass(frozen=True, slots=True)
class Target:
    """One place a call can go. `usd_*` are dollars per million tokens; None = unknown.

    `endpoints` are all that it can serve; those in `native` it speaks itself, the others are translated for it.
    """

    name: str
    kind: Kind
    model: str
    endpoints: frozenset[str] = frozenset({"/v1/chat/completions"})
    native: frozenset[str] = frozenset({"/v1/chat/completions"})
    context_tokens: int | None = None
    refuses_unsupported: bool = False  # a call that a translation cannot carry over whole is not for it
    has_tools: bool = True
    has_images: bool = True
    has_json: bool = True
    input_usd_per_mtok: float | None = None
    output_usd_per_mtok: float | None = None
    cached_usd_per_mtok: float | None = None  # of input that the target still has from an earlier call
    disabled_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """What a model name means: targets it pins (empty = route freely), those that stand in for them, and a shape it
    declares."""

    pinned: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()
    shape: str | None = None
    via: str = "auto"


@dataclass(frozen=True, slots=True)
class Catalog:
    """All targets by name, in the order of the configuration, with the map of names that apps already use."""

    targets: Mapping[str, Target]
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fallbacks: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of some of `models`
    unknown_model: Literal["auto", "reject"] = "auto"

    def resolve(self, model: str) -> Named | None:
        """`auto`, names in the map, targets, patterns in the map in order, `unknown_model`. None = refuse the name."""
        name: str | None = model
        if model not in self.models or model == "auto":
            if named := self._builtin(model):
                return named
            name = next((pattern for pattern in self.models if fnmatchcase(model, pattern)), None)
        if name is None:
            return Named(via="unknown_model") if self.unknown_model == "auto" else None
        mapped, fallback = self.models[name], self.fallbacks.get(name, ())
        if len(mapped) == 1 and (single := self._builtin(mapped[0])):
            return Named(single.pinned, fallback, single.shape, via="models")
        return Named(mapped, fallback, via="models")

    def _builtin(self, model: str) -> Named | None:
        if model == "auto":
            return Named()
        if model in self.targets:
            return Named(pinned=(model,), via="target")
        prefix, _, shape = model.partition("/")
        if prefix == "auto" and shape in SHAPES:
            return Named(shape=shape, via="auto/<shape>")
        return None
