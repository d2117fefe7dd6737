"""`Telemetry` as sparkgate.yaml has it: `telemetry:`, and who serves the targets."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from gateway.config.deployment import (
    AnthropicTarget,
    AnyTarget,
    Deployment,
    EngineTarget,
    LitellmTarget,
    ServerTarget,
)
from gateway.telemetry.settings import Server, Telemetry, switched

# OpenTelemetry's names of providers, where litellm's are others, and by the domains of their servers.
_PROVIDERS = {
    "azure": "azure.ai.openai",
    "azure_ai": "azure.ai.inference",
    "bedrock": "aws.bedrock",
    "gemini": "gcp.gemini",
    "mistral": "mistral_ai",
    "vertex_ai": "gcp.vertex_ai",
    "watsonx": "ibm.watsonx.ai",
    "xai": "x_ai",
}
_DOMAINS = {
    "deepseek.com": "deepseek",
    "groq.com": "groq",
    "mistral.ai": "mistral_ai",
    "perplexity.ai": "perplexity",
    "x.ai": "x_ai",
}


def telemetry_of(deployment: Deployment, env: Mapping[str, str]) -> Telemetry | None:
    """None = off. What the file says comes before the environment."""
    given = deployment.telemetry
    telemetry = Telemetry(
        endpoint=given.otlp_endpoint,
        headers=given.headers,
        service_name=given.service_name,
        sample=given.sample,
        callers=given.callers,
        servers={target.name: server_of(target) for target in deployment.effective_targets},
    )
    return switched(telemetry, env)


def server_of(target: AnyTarget) -> Server:
    if isinstance(target, EngineTarget):
        return _at("sparkgate", target.url)
    if isinstance(target, ServerTarget):
        return _at(target.kind, target.url)
    if isinstance(target, AnthropicTarget):
        return _at("anthropic", target.base_url)
    if isinstance(target, LitellmTarget):
        prefix = target.model.partition("/")[0]
        return _at(_PROVIDERS.get(prefix, prefix), target.base_url)
    domain = ".".join((urlsplit(target.base_url).hostname or "").split(".")[-2:])
    return _at(_DOMAINS.get(domain, "openai"), target.base_url)  # whose API it speaks, where no more is known


def _at(provider: str, url: str | None) -> Server:
    if url is None:
        return Server(provider)
    parts = urlsplit(url)
    return Server(provider, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
