"""`Account`: what became of every key of a LiteLLM configuration, so that nothing of it is lost without a word.

In: the parsed file, and what the conversion tells as it goes. Out: `Note`s in the order of the file; keys that nobody
spoke of are among them, with what is known of why they have no counterpart. Values are never shown: they may be secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gateway.config.mistakes import KeyPath, dotted
from gateway.config.yaml_source import Source

Fate = Literal["taken", "elsewhere", "nothing"]
BUILT_IN = "breakers close a target after failures and let it back with probes; nothing to set"
LIMITS = "limits belong to keys: sparkgate keys create --rpm --tpm --parallel --daily-usd"
SHARED = "workers and gateways share what they know through Postgres; no Redis"
BODY = "the app says it in its request"
_SECTIONS = ("litellm_params", "model_info")
_NO_COUNTERPART = "nothing that is known of"
# What is known of keys that are not written into a file: is it done otherwise here, and how?
_KNOWN: Mapping[str, tuple[Fate, str]] = {
    "allowed_fails": ("elsewhere", BUILT_IN),
    "allowed_fails_policy": ("elsewhere", BUILT_IN),
    "cooldown_time": ("elsewhere", BUILT_IN),
    "retry_after": ("elsewhere", "pauses double from 0.25 s; an upstream's Retry-After is kept to"),
    "retry_policy": (
        "nothing",
        "which failures are tried again is fixed (docs/api.md); how often: defaults.retries",
    ),
    "enable_pre_call_checks": ("elsewhere", "a prompt that a target cannot hold is never sent to it"),
    "context_window_fallbacks": (
        "elsewhere",
        "a prompt too long for one target goes to its other candidates",
    ),
    "content_policy_fallbacks": (
        "elsewhere",
        "what one target's filter refuses goes to its other candidates",
    ),
    "routing_strategy_args": ("elsewhere", "estimates fade by policy.yaml: defaults.half_life_s, explore"),
    "weight": ("nothing", "shares are for policy candidates: {target, weight}; pinned names are ranked"),
    "order": ("nothing", "pinned targets are ranked by the objective; an order is policy.yaml's fallback"),
    "rpm": ("nothing", "a target has max_parallel, and 429 sends calls elsewhere; keys have --rpm"),
    "tpm": ("nothing", "a target has max_parallel, and 429 sends calls elsewhere; keys have --tpm"),
    "timeout": ("nothing", "deadlines are policy.yaml's, by task shape: timeouts"),
    "stream_timeout": ("nothing", "deadlines are policy.yaml's, by task shape: timeouts"),
    "max_retries": ("elsewhere", "policy.yaml: defaults.retries, for all targets"),
    "max_budget": ("elsewhere", LIMITS),
    "budget_duration": ("elsewhere", LIMITS),
    "max_parallel_requests": ("elsewhere", LIMITS),
    "global_max_parallel_requests": ("elsewhere", LIMITS),
    "max_tokens": ("nothing", BODY),
    "temperature": ("nothing", BODY),
    "top_p": ("nothing", BODY),
    "redis_host": ("elsewhere", SHARED),
    "redis_port": ("elsewhere", SHARED),
    "redis_password": ("elsewhere", SHARED),
    "redis_url": ("elsewhere", SHARED),
    "coordination_redis": ("elsewhere", SHARED),
    "use_redis_transaction_buffer": ("elsewhere", "records wait in the spool on disk"),
    "proxy_batch_write_at": ("elsewhere", "records reach Postgres within about a second"),
    "store_model_in_db": ("nothing", "targets are in sparkgate.yaml; policies have versions in the database"),
    "success_callback": (
        "elsewhere",
        "every call is in Postgres; /metrics; telemetry (docs/observability.md)",
    ),
    "failure_callback": (
        "elsewhere",
        "every call is in Postgres; /metrics; telemetry (docs/observability.md)",
    ),
    "callbacks": ("elsewhere", "every call is in Postgres; /metrics; telemetry (docs/observability.md)"),
    "turn_off_message_logging": ("elsewhere", "prompts and answers are not stored"),
    "set_verbose": ("nothing", "logs are in the data directory's logs/"),
    "json_logs": ("nothing", "logs are in the data directory's logs/"),
    "alerting": ("elsewhere", "alert rules for Prometheus: docs/alerts.yaml"),
    "ui_access_mode": ("elsewhere", "sparkgate.yaml: dashboard.sign_in"),
    "supports_function_calling": ("nothing", "what a target can do is known by its kind"),
    "id": ("nothing", "a target's id is its name"),
    "guardrails": ("nothing", "there are no guardrails here"),
    "mcp_servers": ("nothing", "there is no MCP gateway here"),
}


@dataclass(frozen=True, slots=True)
class Note:
    """`taken`: written into a file; `elsewhere`: done another way here; `nothing`: has no counterpart."""

    key: str
    line: int | None
    fate: Fate
    here: str

    @property
    def general_key(self) -> str:
        """The same for every deployment of a list."""
        return "".join("[]" if "]" in part else part for part in _pieces(self.key))


class Account:
    """Notes by key path. The first word on a key counts."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._told: dict[KeyPath, tuple[Fate, str]] = {}

    def tell(self, path: KeyPath, fate: Fate, here: str) -> None:
        self._told.setdefault(path, (fate, here))

    def notes(self) -> list[Note]:
        """Every key that was told of, and every one that was not, in the order of the file."""
        for path in self._untold(self._source.values, ()):
            self.tell(path, *_KNOWN.get(str(path[-1]), ("nothing", _NO_COUNTERPART)))
        line_of = self._source.key_line
        found = [Note(dotted(path), line_of(path), fate, here) for path, (fate, here) in self._told.items()]
        return sorted(found, key=lambda note: note.line or 0)

    def _untold(self, value: Any, path: KeyPath) -> Iterator[KeyPath]:
        """The highest keys below which nothing was told: sections are entered, one known by its own name is not."""
        if path in self._told:
            return
        told_below = any(told[: len(path)] == path for told in self._told)
        is_section = (len(path) <= 1 or path[-1] in _SECTIONS) and isinstance(value, dict) and bool(value)
        if path and not told_below and (not is_section or path[-1] in _KNOWN):
            yield path
            return
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, item in items:
            yield from self._untold(item, (*path, key))


def _pieces(key: str) -> Iterator[str]:
    """`a[0].b` in pieces of which the ones with a bracket are indices."""
    for index, piece in enumerate(key.replace("]", "[").split("[")):
        yield f"[{piece}]" if index % 2 else piece
