"""`Deployment`: sparkgate.yaml as checked values: what exists. Frozen after start.

In: a mapping (see `config.load` for files, line numbers and `${ENV}`). Out: pydantic models that refuse unknown
keys and bad values, and the router's `Catalog`. How to choose between targets is policy.yaml's business.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s/]+.*$")]
PositiveInt = Annotated[int, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class EngineSettings(Strict):
    """The bundled engine process. `cost_per_hour_usd` is what its machine costs."""

    enabled: bool = True
    model: str = "smollm2-135m-instruct"
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
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
    prices: Prices = Prices()


class LitellmTarget(Strict):
    """Any provider that litellm can call, by litellm's model name (`anthropic/…`)."""

    kind: Literal["litellm"]
    name: Name
    model: str
    api_key: str | None = Field(default=None, repr=False)
    base_url: HttpUrl | None = None
    context_tokens: PositiveInt | None = None
    prices: Prices = Prices()


AnyTarget = Annotated[EngineTarget | OpenAITarget | LitellmTarget, Field(discriminator="kind")]


class LedgerSettings(Strict):
    """The spool on disk: its limit, and what happens to new calls when it is full."""

    on_full: Literal["refuse", "serve"] = "refuse"
    max_spool_mb: PositiveInt = 1024
    retention_days: PositiveInt = 90


class Deployment(Strict):
    """sparkgate.yaml. Every key has a default, so an empty file is a working deployment."""

    database_url: str = "embedded"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    engine_port: Annotated[int, Field(ge=1, le=65535)] = 8090
    dashboard_port: Annotated[int, Field(ge=1, le=65535)] = 8501
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    shutdown_grace_s: NonNegative = 30.0
    engine: EngineSettings = EngineSettings()
    targets: tuple[AnyTarget, ...] = ()
    models: dict[str, str | tuple[str, ...]] = {}
    unknown_model: Literal["auto", "reject"] = "auto"
    ledger: LedgerSettings = LedgerSettings()

    @field_validator("targets")
    @classmethod
    def _names_are_unique(cls, targets: tuple[AnyTarget, ...]) -> tuple[AnyTarget, ...]:
        names = [target.name for target in targets]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"target names must be unique; given more than once: {', '.join(twice)}")
        if "auto" in names:
            raise ValueError("'auto' is the routing model name and cannot name a target")
        return targets

    @model_validator(mode="after")
    def _models_exist(self) -> Deployment:
        known = {target.name for target in self.effective_targets} | {"auto"}
        for name, mapped in self.models.items():
            for to in (mapped,) if isinstance(mapped, str) else mapped:
                if to not in known and not to.startswith("auto/"):
                    raise ValueError(f"models.{name}: no target is called '{to}'; there are {sorted(known)}")
        return self

    @property
    def effective_targets(self) -> tuple[AnyTarget, ...]:
        """The listed targets; without an engine target among them, the bundled engine when it is enabled."""
        if not self.engine.enabled or any(target.kind == "engine" for target in self.targets):
            return self.targets
        bundled = EngineTarget(kind="engine", name="engine", url=f"http://127.0.0.1:{self.engine_port}")
        return (bundled, *self.targets)
