"""`Deployment`: sparkgate.yaml as checked values: what exists. Frozen after start.

In: a mapping (see `config.load` for files, line numbers and `${ENV}`). Out: pydantic models that refuse
unknown keys and bad values; `config.catalog` makes the router's `Catalog` of them. How to choose between
targets is policy.yaml's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from gateway.config import deployment_checks
from gateway.config.mistakes import KeyPath
from gateway.config.strict import AnyPort, NonNegative, Port, PositiveInt, Strict, Workers, mistake

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
URL_PATTERN = r"^https?://[^\s/]+\S*$"


def _is_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise mistake("should be letters, digits, `.`, `_` and `-` only, at most 64 of them")
    return name


def _is_http_url(url: str) -> str:
    if not re.fullmatch(URL_PATTERN, url):
        raise mistake("should be an address that begins with http:// or https://")
    return url.rstrip("/")


def _names_something(text: str) -> str:
    if not text.strip():
        raise mistake("is empty; leave it out, or name something")
    return text


Name = Annotated[str, AfterValidator(_is_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})]
HttpUrl = Annotated[
    str, AfterValidator(_is_http_url), WithJsonSchema({"type": "string", "pattern": URL_PATTERN})
]
NotEmpty = Annotated[
    str, AfterValidator(_names_something), WithJsonSchema({"type": "string", "minLength": 1})
]
Endpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
Endpoints = Annotated[tuple[Endpoint, ...], Field(min_length=1)]


class EngineSettings(Strict):
    """The bundled engine process. `cost_per_hour_usd` is what its machine costs."""

    enabled: bool = True
    model: str = "smollm2-135m-instruct"
    dtype: Literal["auto", "bfloat16", "float32", "w8a16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    drafter: NotEmpty = "auto"  # the engine knows which there are
    max_batch: PositiveInt = 16
    threads: PositiveInt | None = None
    cost_per_hour_usd: NonNegative | None = 0.20


class Prices(Strict):
    """Dollars per million tokens; what is absent comes from litellm's price map, else is unknown."""

    input_usd_per_mtok: NonNegative | None = None
    cached_usd_per_mtok: NonNegative | None = None
    cache_write_usd_per_mtok: NonNegative | None = None
    output_usd_per_mtok: NonNegative | None = None


class EngineTarget(Strict):
    """A sparkgate engine reached over HTTP; its own `/state` is read."""

    kind: Literal["engine"]
    name: Name
    url: HttpUrl
    model: str | None = None  # asked of the engine when absent
    cost_per_hour_usd: NonNegative | None = None  # default: engine.cost_per_hour_usd


class OpenAITarget(Strict):
    """An OpenAI-compatible server. `model` None = the caller's model name is passed on."""

    kind: Literal["openai"]
    name: Name
    base_url: HttpUrl
    model: str
    api_key: str | None = Field(default=None, repr=False)
    context_tokens: PositiveInt | None = None
    endpoints: Endpoints | None = None  # default: embeddings for a model named like one, else chat
    prices: Prices = Prices()


class LitellmTarget(Strict):
    """Any provider that litellm can call, by litellm's model name (`anthropic/…`)."""

    kind: Literal["litellm"]
    name: Name
    model: str
    api_key: str | None = Field(default=None, repr=False)
    base_url: HttpUrl | None = None
    context_tokens: PositiveInt | None = None
    endpoints: Endpoints | None = None  # default: embeddings for a model named like one, else chat
    prices: Prices = Prices()


AnyTarget = Annotated[EngineTarget | OpenAITarget | LitellmTarget, Field(discriminator="kind")]


class LedgerSettings(Strict):
    """The spool on disk: its limit, and what happens to new calls when it is full."""

    on_full: Literal["refuse", "serve"] = "refuse"
    max_spool_mb: PositiveInt = 1024
    retention_days: PositiveInt = 90


class Deployment(Strict):
    """sparkgate.yaml. Every key has a default, so an empty file is a working deployment."""

    database_url: str = Field(default="embedded", repr=False)
    host: str = "127.0.0.1"
    port: AnyPort = 8080
    engine_port: Port = 8090
    dashboard_port: Port = 8501
    workers: Workers = 1
    shutdown_grace_s: NonNegative = 30.0
    engine: EngineSettings = EngineSettings()
    targets: tuple[AnyTarget, ...] = ()
    models: dict[str, str | tuple[str, ...]] = Field(default_factory=dict)
    unknown_model: Literal["auto", "reject"] = "auto"
    ledger: LedgerSettings = LedgerSettings()

    @classmethod
    def cross_mistakes(cls, data: Mapping[str, Any]) -> list[tuple[KeyPath, str]]:
        return deployment_checks.all_mistakes(data)

    @property
    def effective_targets(self) -> tuple[AnyTarget, ...]:
        """The listed targets; without an engine target among them, the bundled engine when it is enabled."""
        if not self.engine.enabled or any(target.kind == "engine" for target in self.targets):
            return self.targets
        bundled = EngineTarget(kind="engine", name="engine", url=f"http://127.0.0.1:{self.engine_port}")
        return (bundled, *self.targets)
