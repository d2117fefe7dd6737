"""`Deployment`: sparkgate.yaml as checked values: what exists. Frozen after start.

In: a mapping (see `config.load` for files, line numbers and `${ENV}`). Out: pydantic models that refuse
unknown keys and bad values; `config.catalog` makes the router's `Catalog` of them. How to choose between
targets is policy.yaml's business.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, WithJsonSchema

from gateway.config import deployment_checks
from gateway.config.mistakes import KeyPath
from gateway.config.strict import (
    AnyPort,
    NonNegative,
    NonNegativeInt,
    Port,
    PositiveInt,
    Share,
    Strict,
    Workers,
    mistake,
)

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
URL_PATTERN = r"^https?://[^\s/]+\S*$"


def _is_name(name: str) -> str:
    if not re.fullmatch(NAME_PATTERN, name):
        raise mistake("should be letters, digits, `.`, `_` and `-` only, at most 64 of them")
    return name


def _is_http_url(url: str) -> str:
    if not re.fullmatch(URL_PATTERN, url):
        raise mistake("should be an address that begins with http:// or https://")
    if "@" in url:
        raise mistake("should name no user and password: they would not be sent")
    if "?" in url or "#" in url:
        raise mistake("should have no `?` and no `#`: what follows would not be sent")
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
Endpoint = Literal[
    "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"
]
LitellmEndpoint = Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
LitellmEndpoints = Annotated[tuple[LitellmEndpoint, ...], Field(min_length=1)]
Endpoints = Annotated[tuple[Endpoint, ...], Field(min_length=1)]


class EngineSettings(Strict):
    """The bundled engine process. `cost_per_hour_usd` is what its machine costs."""

    enabled: bool = True
    model: str = "smollm2-135m-instruct"
    dtype: Literal["auto", "bfloat16", "float32", "w8a16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    drafter: NotEmpty = "auto"  # bundled, lookup, none, a folder, a hub id: the engine knows which there are
    draft_schedule: Literal["prefix", "delayed"] = "prefix"  # by confidences of this step, or two before
    max_batch: PositiveInt = 16
    threads: PositiveInt | None = None
    cost_per_hour_usd: NonNegative | None = 0.20


class TokenPrices(Strict):
    """Dollars per million tokens. Cached and written tokens are parts of the input, reasoning is a part of the output:
    without a price of its own, a part costs what the whole does."""

    input_usd_per_mtok: NonNegative | None = None
    cached_usd_per_mtok: NonNegative | None = None
    cache_write_usd_per_mtok: NonNegative | None = None
    cache_write_1h_usd_per_mtok: NonNegative | None = None
    output_usd_per_mtok: NonNegative | None = None
    reasoning_usd_per_mtok: NonNegative | None = None
    audio_input_usd_per_mtok: NonNegative | None = None
    audio_output_usd_per_mtok: NonNegative | None = None
    image_input_usd_per_mtok: NonNegative | None = None
    image_output_usd_per_mtok: NonNegative | None = None


class PricesAbove(TokenPrices):
    """Of all tokens of calls with more input than this; what is absent stays as it is below."""

    input_tokens: PositiveInt


class Prices(TokenPrices):
    """What is absent comes from litellm's price map, else is unknown. `service_tiers`: by the name that answers give
    in `service_tier`; what is absent there is as for other calls."""

    above: tuple[PricesAbove, ...] = ()
    service_tiers: dict[str, TokenPrices] = Field(default_factory=dict)
    usd_per_request: NonNegative | None = None
    usd_per_web_search: NonNegative | None = None


class AnyKindOfTarget(Strict):
    """What every target may say. `max_parallel` calls at a time, `queue` more wait for their turn."""

    name: Name
    max_parallel: PositiveInt | None = None
    queue: NonNegativeInt = 100
    unsupported: Literal["drop", "reject"] = "drop"  # parameters that a translation cannot carry over


class EngineTarget(AnyKindOfTarget):
    """A sparkgate engine reached over HTTP; its own `/state` is read."""

    kind: Literal["engine"]
    url: HttpUrl
    model: str | None = None  # asked of the engine when absent
    cost_per_hour_usd: NonNegative | None = None  # default: engine.cost_per_hour_usd


class ServerTarget(AnyKindOfTarget):
    """A server of vLLM or SGLang on a machine of one's own; its `/metrics` are read. `max_batch`: of all its engines
    together."""

    kind: Literal["vllm", "sglang"]
    url: HttpUrl
    model: NotEmpty
    api_key: str | None = Field(default=None, repr=False)
    context_tokens: PositiveInt | None = None
    endpoints: Endpoints | None = None
    max_batch: PositiveInt = 256
    cost_per_hour_usd: NonNegative | None = None


class Provider(AnyKindOfTarget):
    """A target that is paid by the token. `endpoints` are those it speaks itself; by default what its kind and
    its model's name suggest."""

    model: str
    api_key: str | None = Field(default=None, repr=False)
    context_tokens: PositiveInt | None = None
    endpoints: Endpoints | None = None
    prices: Prices = Prices()


class OpenAITarget(Provider):
    """An OpenAI-compatible server."""

    kind: Literal["openai"]
    base_url: HttpUrl


class AnthropicTarget(Provider):
    """A server of Anthropic's Messages API."""

    kind: Literal["anthropic"]
    base_url: HttpUrl = "https://api.anthropic.com"


class LitellmTarget(Provider):
    """Any provider that litellm can call, by litellm's model name (`bedrock/…`)."""

    kind: Literal["litellm"]
    endpoints: LitellmEndpoints | None = None
    base_url: HttpUrl | None = None


AnyTarget = Annotated[
    EngineTarget | ServerTarget | OpenAITarget | AnthropicTarget | LitellmTarget, Field(discriminator="kind")
]


class LedgerSettings(Strict):
    """The spool on disk: its limit, and what happens to new calls when it is full."""

    on_full: Literal["refuse", "serve"] = "refuse"
    max_spool_mb: PositiveInt = 1024
    retention_days: PositiveInt = 90


class TelemetrySettings(Strict):
    """Traces and metrics for an OpenTelemetry collector, over OTLP/HTTP. Off unless an endpoint is given here or in
    `OTEL_EXPORTER_OTLP_ENDPOINT`. `sample`: the share of traces to keep of those that begin here."""

    otlp_endpoint: HttpUrl | None = None
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    service_name: NotEmpty | None = None  # default: as OTEL_SERVICE_NAME says, else sparkgate
    sample: Share = 1.0
    callers: bool = True  # spans name the caller


class DashboardSettings(Strict):
    """Who has to sign in: at `auto` everybody, unless only this machine can reach the dashboard. `database_url` is that
    of a role that may only read; left out, one is made on the embedded Postgres, and a server's `database_url` serves.
    """

    sign_in: Literal["auto", "required", "never"] = "auto"
    database_url: NotEmpty | None = Field(default=None, repr=False)


class ModelName(Strict):
    """What a model name that apps send leads to, and what stands in where none of that answers."""

    targets: tuple[str, ...]
    fallback: tuple[str, ...] = ()


def _meaning_form(value: Any) -> str:
    """The branches apart by form, so that a mistake is reported by the branch that was meant."""
    if isinstance(value, Mapping | ModelName):
        return "keys"
    return "list" if isinstance(value, list | tuple) else "one"


Meaning = Annotated[
    Annotated[str, Tag("one")] | Annotated[tuple[str, ...], Tag("list")] | Annotated[ModelName, Tag("keys")],
    Discriminator(_meaning_form),
]


class Deployment(Strict):
    """sparkgate.yaml. Every key has a default, so an empty file is a working deployment."""

    database_url: str = Field(default="embedded", repr=False)
    host: str = "127.0.0.1"
    port: AnyPort = 8080
    engine_port: Port = 8090
    dashboard_port: Port = 8501
    workers: Workers = 1
    shutdown_delay_s: NonNegative = 0.0
    shutdown_grace_s: NonNegative = 30.0
    engine: EngineSettings = EngineSettings()
    targets: tuple[AnyTarget, ...] = ()
    models: dict[str, Meaning] = Field(default_factory=dict)
    unknown_model: Literal["auto", "reject"] = "auto"
    ledger: LedgerSettings = LedgerSettings()
    dashboard: DashboardSettings = DashboardSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

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
