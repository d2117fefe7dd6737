"""Checks of sparkgate.yaml that span several keys: names, what model names lead to, ports.

In: the raw mapping, any part of which may be absent or wrong in itself (that is reported elsewhere), so that
these mistakes appear together with all others. Out: pairs of key path and message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.config.mistakes import KeyPath
from gateway.config.strict import did_you_mean
from router.shapes import SHAPES

Found = list[tuple[KeyPath, str]]
BUNDLED = "engine"  # the target that stands for the bundled engine when none of kind engine is listed
_PATHS = (
    "/metrics",
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/models",
    "/responses",
    "/messages",
)
PORTS = {"port": 8080, "engine_port": 8090, "dashboard_port": 8501}  # with their defaults


def all_mistakes(data: Mapping[str, Any]) -> Found:
    names = [_part(target, "name") for target in _targets(data)]
    known = known_targets(data)
    found = [*_names(names, _has_bundled(data)), *_models(data.get("models"), known), *_ports(data)]
    return found + _servers(_targets(data))


def known_targets(data: Mapping[str, Any]) -> list[str]:
    """The names that a policy may use, as far as they can be read from a file with mistakes."""
    names = [_part(target, "name") for target in _targets(data)]
    return [BUNDLED] * _has_bundled(data) + [name for name in names if isinstance(name, str)]


def _targets(data: Mapping[str, Any]) -> list[Any]:
    listed = data.get("targets")
    return list(listed) if isinstance(listed, list | tuple) else []


def _has_bundled(data: Mapping[str, Any]) -> bool:
    return _engine_is_on(data) and "engine" not in [_part(target, "kind") for target in _targets(data)]


def _part(value: Any, key: str) -> Any:
    """`value.key`, of a mapping or of a checked model."""
    return value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)


def _engine_is_on(data: Mapping[str, Any]) -> bool:
    enabled = _part(data.get("engine"), "enabled")
    return str(enabled).lower() not in ("false", "no", "off", "0")


def _names(names: list[Any], has_bundled: bool) -> Found:
    found: Found = []
    for index, name in enumerate(names):
        at: KeyPath = ("targets", index, "name")
        if isinstance(name, str) and name in names[:index]:
            found.append((at, f"'{name}' already names another target; names must be unique"))
        if name == "auto":
            found.append((at, "'auto' is the model name that routes and cannot name a target"))
        if name == BUNDLED and has_bundled:
            found.append((at, "is the bundled engine's name; take another, or set engine.enabled: false"))
    return found


def _servers(targets: list[Any]) -> Found:
    """Of kinds vllm and sglang: addresses with more in them than where the server is, and machines paid for twice."""
    found: Found = []
    paid: dict[str, int] = {}
    for index, target in enumerate(targets):
        url = _part(target, "url")
        if _part(target, "kind") not in ("vllm", "sglang") or not isinstance(url, str):
            continue
        root = url.rstrip("/").removesuffix("/v1").rstrip("/")
        path = next((path for path in _PATHS if url.rstrip("/").endswith(path)), None)
        if path is not None:
            cut = url.rstrip("/").removesuffix(path).removesuffix("/v1")
            found.append((("targets", index, "url"), f"ends in {path}, which is appended to it: write {cut}"))
        elif _part(target, "cost_per_hour_usd") is not None and paid.setdefault(root, index) != index:
            first = f"targets[{paid[root]}]"
            said = f"is that of {first} already, which is the same server: say what its machine costs in one of them"
            found.append((("targets", index, "cost_per_hour_usd"), said))
    return found


def _models(models: Any, known: list[str]) -> Found:
    """Entries of `models` that lead nowhere."""
    if not isinstance(models, Mapping):
        return []
    found: Found = []
    for model, mapped in models.items():
        at: KeyPath = ("models", model)
        if isinstance(mapped, str):
            reason = _leads_nowhere(mapped, known, in_list=False)
            found += [(at, reason)] if reason else []
        elif isinstance(mapped, list | tuple):
            found += _dead_ends(at, mapped, known)
        else:
            targets, fallback = _part(mapped, "targets"), _part(mapped, "fallback")
            found += _dead_ends((*at, "targets"), targets, known)
            if fallback:
                found += _dead_ends((*at, "fallback"), fallback, known)
    return found


def _dead_ends(at: KeyPath, names: Any, known: list[str]) -> Found:
    if not isinstance(names, list | tuple):
        return []
    if not names:
        return [(at, "leads to no target; name one, or `auto`")]
    reasons = [_leads_nowhere(to, known, in_list=True) if isinstance(to, str) else None for to in names]
    return [((*at, index), reason) for index, reason in enumerate(reasons) if reason]


def _leads_nowhere(to: str, known: list[str], in_list: bool) -> str | None:
    prefix, _, shape = to.partition("/")
    if prefix != "auto":
        return None if to in known else f"no target is called '{to}'; {did_you_mean(to, [*known, 'auto'])}"
    if in_list:
        return f"'{to}' cannot stand in a list; list targets, or give `{to}` alone"
    if "/" in to and shape not in SHAPES:
        return f"there is no task shape '{shape}'; {did_you_mean(shape, SHAPES)}"
    return None


def _ports(data: Mapping[str, Any]) -> Found:
    found: Found = []
    taken: dict[str, str] = {}
    for key, default in PORTS.items():
        if key == "engine_port" and not _engine_is_on(data):
            continue
        port = str(data.get(key, default))  # "8090" is what the environment gives
        if port != "0" and port in taken:
            written, other = (key, taken[port]) if key in data else (taken[port], key)
            found.append(((written,), f"{port} is {other} already"))
        taken.setdefault(port, key)
    return found
