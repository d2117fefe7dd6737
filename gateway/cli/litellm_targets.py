"""One deployment of LiteLLM's `model_list` as a target of sparkgate.yaml.

In: its `litellm_params` and `model_info`, the `Account` to tell of every key, the `Secrets`. Out: the target as plain
values, or None where nothing here can serve it. Facts of providers are those of litellm's own sources.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from math import inf
from typing import Any
from urllib.parse import urlsplit

from gateway.cli.litellm_account import Account
from gateway.config.mistakes import KeyPath
from gateway.ledger.price_map import PriceMap

# Servers of OpenAI's API: their address (None = it is always given), and where litellm looks for their key.
OPENAI_LIKE: Mapping[str, tuple[str | None, str | None]] = {
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "text-completion-openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "cerebras": ("https://api.cerebras.ai/v1", "CEREBRAS_API_KEY"),
    "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "moonshot": ("https://api.moonshot.ai/v1", "MOONSHOT_API_KEY"),
    "nvidia_nim": ("https://integrate.api.nvidia.com/v1", "NVIDIA_NIM_API_KEY"),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "together_ai": ("https://api.together.ai/v1", "TOGETHERAI_API_KEY"),
    "xai": ("https://api.x.ai/v1", "XAI_API_KEY"),
    "custom_openai": (None, None),
    "hosted_vllm": (None, None),
    "litellm_proxy": (None, None),
    "lm_studio": (None, None),
}
# What litellm also reads from the environment; a target of kind litellm takes it from there.
FROM_ENVIRONMENT = {
    "api_version": "AZURE_API_VERSION",
    "azure_ad_token": "AZURE_AD_TOKEN",
    "aws_access_key_id": "AWS_ACCESS_KEY_ID",
    "aws_secret_access_key": "AWS_SECRET_ACCESS_KEY",
    "aws_session_token": "AWS_SESSION_TOKEN",
    "aws_region_name": "AWS_REGION_NAME",
    "vertex_project": "VERTEXAI_PROJECT",
    "vertex_location": "VERTEXAI_LOCATION",
    "vertex_credentials": "GOOGLE_APPLICATION_CREDENTIALS",
}
MODES = {
    "chat": None,
    "embedding": "/v1/embeddings",
    "completion": "/v1/completions",
    "responses": "/v1/responses",
}
NO_KEYS = frozenset(
    {"", "none", "null", "empty", "dummy", "fake", "fake-key", "no-key", "not-needed", "na", "n/a"}
)
_PRICES = {
    "input_cost_per_token": "input_usd_per_mtok",
    "output_cost_per_token": "output_usd_per_mtok",
    "cache_read_input_token_cost": "cached_usd_per_mtok",
    "cache_creation_input_token_cost": "cache_write_usd_per_mtok",
    "cache_creation_input_token_cost_above_1hr": "cache_write_1h_usd_per_mtok",
    "output_cost_per_reasoning_token": "reasoning_usd_per_mtok",
    "input_cost_per_audio_token": "audio_input_usd_per_mtok",
    "output_cost_per_audio_token": "audio_output_usd_per_mtok",
    "input_cost_per_image_token": "image_input_usd_per_mtok",
    "output_cost_per_image_token": "image_output_usd_per_mtok",
}
_PRICE_KEY = re.compile(r"(?P<what>.+?)(?:_above_(?P<k>\d+)k_tokens|_(?P<tier>flex|priority|batches))?")
_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")


class Secrets:
    """Environment variables that stand for values which may not be written down: LiteLLM's own, or new names."""

    def __init__(self, text: str) -> None:
        """`text`: the file, whose own variables no new name may take."""
        self.variables: dict[str, str] = {}  # what the user has to set, and what to
        self._names: dict[str, str] = {}
        usual = [variable for _, variable in OPENAI_LIKE.values() if variable]
        self._taken = {*_REFERENCE.findall(text), *usual, *FROM_ENVIRONMENT.values(), "ANTHROPIC_API_KEY"}

    def reference(self, value: str, new_name: str) -> str:
        """`${NAME}` for `os.environ/NAME`, and for a secret in plain, under `new_name`; equal ones share a name."""
        if found := _REFERENCE.fullmatch(value):
            self.variables.setdefault(found[1], "as LiteLLM's")
            return f"${{{found[1]}}}"
        if value not in self._names:
            wanted = name = _variable(new_name)
            number = 1
            while name in self._taken:
                number += 1
                name = f"{wanted}_{number}"
            self._taken.add(name)
            self._names[value] = name
            self.variables[name] = "the secret that the LiteLLM file has in plain"
        return f"${{{self._names[value]}}}"


def target(
    params: Mapping[str, Any],
    info: Mapping[str, Any],
    at: tuple[KeyPath, KeyPath],
    name: str,
    account: Account,
    secrets: Secrets,
    listed: PriceMap,
) -> dict[str, Any] | None:
    """`at`: the paths of `params` and `info`. A deployment that cannot be served is told of, key by key."""
    at_params, at_info = at
    provider, model = provider_of(params, listed)
    if refusal := _refusal(model, info):
        account.tell((*at_params, "model"), "nothing", refusal)
        return None
    kind = _kind(provider, params.get("api_base") or params.get("base_url"))
    made: dict[str, Any] = {"name": name, "kind": kind}
    _add_address(made, params, at_params, provider, account, secrets)
    called = f"{provider}/{model}" if provider and kind == "litellm" else model
    is_reference = called.startswith("os.environ/")
    made["model"] = secrets.reference(called, f"{name}_MODEL") if is_reference else _plain(called)
    here = "sparkgate.yaml: targets[].kind, base_url, model"
    if provider == "hosted_vllm" and kind == "openai":
        here += "; kind vllm, with url and without prices, reads its load as well"
    for key in ("model", "custom_llm_provider"):
        if key in params:
            account.tell((*at_params, key), "taken", here)
    _add_key(made, params, at_params, provider, account, secrets)
    _add_settings(made, params, info, at, account)
    for key, variable in FROM_ENVIRONMENT.items():
        if kind == "litellm" and params.get(key) is not None:
            account.tell((*at_params, key), "elsewhere", f"set {variable}: one value for all targets")
            secrets.variables.setdefault(variable, f"the value of {key}")
    prices = _prices(params, at_params, account) or _prices(info, at_info, account)
    prices = prices or _base_model_prices(info, at_info, account, listed)
    if prices:
        made["prices"] = prices
    return made


def provider_of(params: Mapping[str, Any], listed: PriceMap) -> tuple[str, str]:
    """(provider, model). A name without a provider is looked up in the price list, as litellm does; "" if unknown."""
    model = str(params.get("model") or "")
    if given := params.get("custom_llm_provider"):
        return str(given), model.removeprefix(f"{given}/")
    prefix, slash, rest = model.partition("/")
    if slash and not model.startswith("os.environ/"):
        return (prefix, rest) if prefix in OPENAI_LIKE or prefix == "anthropic" else ("", model)
    found = listed.find(model)
    if found is not None:
        provider = found.provider
        return (provider, model) if provider in OPENAI_LIKE or provider == "anthropic" else ("", model)
    return ("openai", model) if params.get("api_base") or params.get("base_url") else ("", model)


def _refusal(model: str, info: Mapping[str, Any]) -> str | None:
    """Why there can be no target of this."""
    mode = info.get("mode")
    if not model:
        return "left out: it names no model"
    if "*" in model:
        return "left out: a target serves one model; list those that your apps use"
    if mode is not None and str(mode) not in MODES:
        return "left out: chat, completions, responses, messages and embeddings are served, no other mode"
    if mode is None and re.match(r"(auto_router|complexity_router|adaptive_router|quality_router)/", model):
        return "left out: the model name `auto` routes, by policy.yaml"
    return None


def _kind(provider: str, base_url: Any) -> str:
    """Servers that are called as they are, but where their address does not end in what we append to."""
    if provider == "anthropic":
        return "anthropic"
    if provider not in OPENAI_LIKE or (OPENAI_LIKE[provider][0] is None and not base_url):
        return "litellm"
    if not isinstance(base_url, str) or _REFERENCE.fullmatch(base_url):
        return "openai"
    path = urlsplit(base_url).path.rstrip("/")
    return "openai" if path == "" or path.endswith("/v1") else "litellm"


def _add_address(
    made: dict[str, Any],
    params: Mapping[str, Any],
    at: KeyPath,
    provider: str,
    account: Account,
    secrets: Secrets,
) -> None:
    for key in ("api_base", "base_url"):
        given = params.get(key)
        if isinstance(given, str) and given and "base_url" not in made:
            parts = urlsplit(given)
            is_secret = given.startswith("os.environ/") or "@" in parts.netloc or bool(parts.query)
            new_name = f"{made['name']}_BASE_URL"
            made["base_url"] = secrets.reference(given, new_name) if is_secret else _plain(given)
            here = "sparkgate.yaml: targets[].base_url, where /v1 need not be written"
            account.tell((*at, key), "taken", here)
    if "base_url" not in made and made["kind"] == "openai":
        made["base_url"] = OPENAI_LIKE[provider][0]


def _add_key(
    made: dict[str, Any],
    params: Mapping[str, Any],
    at: KeyPath,
    provider: str,
    account: Account,
    secrets: Secrets,
) -> None:
    key = params.get("api_key")
    if isinstance(key, str) and key.strip().lower() in NO_KEYS:
        account.tell((*at, "api_key"), "taken", "no key: it says that there is none")
    elif isinstance(key, str):
        made["api_key"] = secrets.reference(key, f"{made['name']}_API_KEY")
        is_plain = not _REFERENCE.fullmatch(key)
        here = "sparkgate.yaml: targets[].api_key" + (", from a new environment variable" if is_plain else "")
        account.tell((*at, "api_key"), "taken", here)
    elif made["kind"] != "litellm" and "api_base" not in params and "base_url" not in params:
        usual = "ANTHROPIC_API_KEY" if provider == "anthropic" else OPENAI_LIKE[provider][1]
        if usual:
            made["api_key"] = secrets.reference(f"os.environ/{usual}", usual)


def _add_settings(
    made: dict[str, Any],
    params: Mapping[str, Any],
    info: Mapping[str, Any],
    at: tuple[KeyPath, KeyPath],
    account: Account,
) -> None:
    at_params, at_info = at
    parallel = params.get("max_parallel_requests")
    if _is_count(parallel):
        made["max_parallel"] = parallel
        account.tell((*at_params, "max_parallel_requests"), "taken", "sparkgate.yaml: targets[].max_parallel")
    context = info.get("max_input_tokens")
    if _is_count(context):
        made["context_tokens"] = context
        account.tell((*at_info, "max_input_tokens"), "taken", "sparkgate.yaml: targets[].context_tokens")
    if isinstance(params.get("drop_params"), bool):
        made["unsupported"] = "drop" if params["drop_params"] else "reject"
        account.tell((*at_params, "drop_params"), "taken", "sparkgate.yaml: targets[].unsupported")
    if info.get("mode") is not None:
        endpoint = MODES[info["mode"]]
        is_native = endpoint != "/v1/responses" or made["kind"] == "openai"
        if endpoint and is_native and made["kind"] != "anthropic":
            made["endpoints"] = [endpoint]
        account.tell((*at_info, "mode"), "taken", "sparkgate.yaml: targets[].endpoints")
    elif str(params.get("model", "")).startswith("text-completion-openai/"):
        made["endpoints"] = ["/v1/completions"]


def _prices(given: Mapping[str, Any], at: KeyPath, account: Account) -> dict[str, Any]:
    prices: dict[str, Any] = {}
    above: dict[int, dict[str, Any]] = {}
    for key, value in given.items():
        usd_per_mtok = _usd_per_mtok(value)
        part = _PRICE_KEY.fullmatch(str(key))
        if usd_per_mtok is None or part is None:
            continue
        if key == "input_cost_per_request":
            prices["usd_per_request"] = usd_per_mtok / 1e6
        elif key in _PRICES:
            prices[_PRICES[key]] = usd_per_mtok
        elif part["what"] in _PRICES and part["k"]:
            above.setdefault(int(part["k"]) * 1000, {})[_PRICES[part["what"]]] = usd_per_mtok
        elif part["what"] in _PRICES and part["tier"]:
            tiers = prices.setdefault("service_tiers", {})
            tiers.setdefault(part["tier"], {})[_PRICES[part["what"]]] = usd_per_mtok
        else:
            continue
        account.tell((*at, key), "taken", "sparkgate.yaml: targets[].prices, per million tokens")
    if above:
        prices["above"] = [{"input_tokens": tokens, **rates} for tokens, rates in sorted(above.items())]
    return prices


def _base_model_prices(
    info: Mapping[str, Any], at: KeyPath, account: Account, listed: PriceMap
) -> dict[str, Any]:
    """Of the model behind a deployment whose own name (Azure's) no list knows."""
    found = listed.find(str(info["base_model"])) if "base_model" in info else None
    if found is None or found.tariff is None:
        return {}
    account.tell((*at, "base_model"), "taken", "sparkgate.yaml: targets[].prices, as listed today")
    rates = found.tariff.standard
    given = {
        "input_usd_per_mtok": rates.input,
        "cached_usd_per_mtok": rates.cached,
        "output_usd_per_mtok": rates.output,
    }
    return {key: float(rate) for key, rate in given.items() if rate is not None}


def _usd_per_mtok(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        usd = float(Decimal(str(value)) * 1_000_000)
    except (InvalidOperation, OverflowError, ValueError):
        return None
    return usd if 0 <= usd < inf else None


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _plain(text: str) -> str:
    """As it is, in a file where `${` begins a reference."""
    return text.replace("${", "$${")


def _variable(name: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").upper()
    return f"_{cleaned}" if cleaned[:1].isdigit() else cleaned
