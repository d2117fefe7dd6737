"""`init --from-litellm`: what a LiteLLM proxy's file becomes, that nothing of it goes unsaid and no secret is told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.cli.from_litellm import STRATEGIES, convert
from gateway.cli.litellm_targets import OPENAI_LIKE
from gateway.cli.output import Refused
from gateway.config.catalog import catalog
from gateway.config.load import parse_deployment
from gateway.config.mistakes import ConfigError
from gateway.ledger.price_map import PriceMap
from tests.gateway.cli.conftest import Cli

CONFIGS = Path(__file__).with_name("litellm")
NAMES = ("teams", "clouds", "prices")


def converted(name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, tuple[str, str]]]:
    """sparkgate.yaml, policy.yaml, and by key of LiteLLM's file what became of it."""
    made = convert((CONFIGS / f"{name}.yaml").read_text(), "config.yaml")
    notes = {note.key: (str(note.fate), note.here) for note in made.notes}
    return yaml.safe_load(made.deployment), yaml.safe_load(made.policy), notes


def leaves(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from leaves(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for index, item in enumerate(value):
            yield from leaves(item, f"{key}[{index}]")
    elif key:
        yield key


def is_told(leaf: str, keys: set[str]) -> bool:
    return any(leaf == key or leaf.startswith((f"{key}.", f"{key}[")) for key in keys)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_passes_policy_check(cli: Cli, folder: Path, name: str) -> None:
    shutil.copy(CONFIGS / f"{name}.yaml", folder / "config.yaml")
    said = json.loads(cli("init", "--from-litellm", "config.yaml", "--json").output)
    assert said["written"] == ["sparkgate.yaml", "policy.yaml"]
    environment = dict.fromkeys(said["variables"], "http://127.0.0.1:1")
    checked = json.loads(cli("policy", "check", "--json", env=environment).output)
    assert (checked["ok"], checked["mistakes"], checked["disabled"]) == (True, [], {})


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_told_of(name: str) -> None:
    keys = set(converted(name)[2])
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert [leaf for leaf in leaves(values) if not is_told(leaf, keys)] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_secret_is_written_or_shown(cli: Cli, folder: Path, name: str) -> None:
    shutil.copy(CONFIGS / f"{name}.yaml", folder / "config.yaml")
    shown = cli("init", "--from-litellm", "config.yaml").output
    files = (folder / "sparkgate.yaml").read_text() + (folder / "policy.yaml").read_text()
    assert ("secret" in (CONFIGS / f"{name}.yaml").read_text()) is (name != "prices")
    assert "plain-secret" not in shown + files
    assert "sk-master" not in shown + files


def test_deployments_become_targets_and_names_lead_to_them() -> None:
    deployment, _, notes = converted("teams")
    targets = {target["name"]: target for target in deployment["targets"]}
    assert list(targets) == [
        "gpt-4o-1",
        "gpt-4o-openai",
        "claude-sonnet",
        "team-llama-hosted-vllm",
        "embeddings",
    ]
    azure = targets["gpt-4o-1"]
    assert (azure["kind"], azure["model"], azure["api_key"]) == (
        "litellm",
        "azure/gpt-4o-eu",
        "${AZURE_EU_KEY}",
    )
    assert azure["prices"]["output_usd_per_mtok"] > azure["prices"]["input_usd_per_mtok"] > 0
    openai = targets["gpt-4o-openai"]
    assert (openai["kind"], openai["model"], openai["max_parallel"]) == ("openai", "gpt-4o", 40)
    assert openai["api_key"] == targets["embeddings"]["api_key"] == "${GPT_4O_OPENAI_API_KEY}"
    assert targets["embeddings"]["endpoints"] == ["/v1/embeddings"]
    llama = targets["team-llama-hosted-vllm"]
    assert (llama["base_url"], llama["context_tokens"]) == ("http://10.0.0.7:8000/v1", 131072)
    assert "kind vllm" in notes["model_list[3].litellm_params.model"][1]
    assert "api_key" not in llama
    assert llama["prices"] == {"input_usd_per_mtok": 0.05, "output_usd_per_mtok": 0.2}
    assert {target["unsupported"] for target in targets.values()} == {"drop"}
    assert deployment["models"] == {
        "team/llama": "team-llama-hosted-vllm",
        "gpt-4o": {"targets": ["gpt-4o-1", "gpt-4o-openai"], "fallback": ["claude-sonnet"]},
        "gpt-4": {"targets": ["gpt-4o-1", "gpt-4o-openai"], "fallback": ["claude-sonnet"]},
        "claude-sonnet": {"targets": ["claude-sonnet"], "fallback": ["gpt-4o-1", "gpt-4o-openai"]},
        "llama": "team-llama-hosted-vllm",
    }
    assert (deployment["unknown_model"], deployment["engine"]) == ("reject", {"enabled": False})
    assert notes["model_list[5].model_name"] == ("nothing", "left out with its model")
    assert "no other mode" in notes["model_list[5].litellm_params.model"][1]
    assert notes["model_list[0].litellm_params.api_version"][1].startswith("set AZURE_API_VERSION")


def test_settings_become_a_policy() -> None:
    _, policy, notes = converted("teams")
    assert policy["defaults"] == {
        "objective": "ttft",
        "cache": {"ttl_s": 600},
        "timeouts": {"total_s": 90, "first_token_s": 20, "idle_s": 20},
        "retries": {"max": 3},  # one, and one for each other target of the chain
    }
    assert notes["router_settings.fallbacks"][0] == "taken"
    assert notes["router_settings.cooldown_time"][0] == "elsewhere"
    assert notes["general_settings.database_url"][0] == "nothing"
    assert notes["router_settings.model_group_alias.lost"][0] == "nothing"


def test_servers_of_openais_api_are_called_as_they_are_and_others_through_litellm() -> None:
    targets = {target["name"]: target for target in converted("clouds")[0]["targets"]}
    kinds = {name: target["kind"] for name, target in targets.items()}
    assert kinds == {
        "bedrock-sonnet": "litellm",
        "gemini-flash": "litellm",
        "vertex": "litellm",
        "deepseek": "openai",
        "groq-llama": "openai",
        "gpt-4o-mini": "openai",
        "claude-haiku": "anthropic",
        "glm": "litellm",  # its address does not end in /v1
        "private": "openai",
        "tokens-in-url": "openai",
        "shared": "openai",
        "ollama": "litellm",
    }
    assert targets["glm"]["model"] == "openai/glm-4.6"
    assert targets["deepseek"]["base_url"] == "https://api.deepseek.com/v1"
    assert targets["private"]["base_url"] == "${HOUSE_URL}"
    assert targets["claude-haiku"]["api_key"] == "${ANTHROPIC_API_KEY}"
    assert targets["tokens-in-url"]["base_url"] == "${TOKENS_IN_URL_BASE_URL}"
    assert targets["shared"]["api_key"] == "${SHARED_API_KEY}"


def test_prices_are_per_million_tokens_wherever_they_stood() -> None:
    deployment, policy, notes = converted("prices")
    first, second = deployment["targets"]
    assert first["prices"] == {
        "input_usd_per_mtok": 0.1,
        "output_usd_per_mtok": 0.4,
        "cached_usd_per_mtok": 0.01,
        "service_tiers": {"flex": {"input_usd_per_mtok": 0.05}},
        "above": [{"input_tokens": 128000, "input_usd_per_mtok": 0.2, "output_usd_per_mtok": 0.8}],
    }
    assert second["prices"] == {"input_usd_per_mtok": 0.12, "output_usd_per_mtok": 0.45}
    assert deployment["models"] == {"house": [first["name"], second["name"]]}
    assert policy["defaults"] == {"objective": "cost_per_completed_task", "retries": {"max": 1}}
    assert notes["model_list[1].model_info.input_cost_per_second"][0] == "nothing"


def test_different_secrets_never_share_a_variable() -> None:
    names = ("openai", "a.b", "a-b", "deepseek")
    keys = ("sk-1", "sk-2", "sk-3", "os.environ/A_B_API_KEY_2")
    listed = [
        {"model_name": name, "litellm_params": {"model": "openai/m", "api_key": key}}
        for name, key in zip(names, keys, strict=True)
    ]
    targets = yaml.safe_load(convert(yaml.safe_dump({"model_list": listed}), "c").deployment)["targets"]
    assert [target["api_key"] for target in targets] == [
        "${OPENAI_API_KEY_2}",
        "${A_B_API_KEY}",
        "${A_B_API_KEY_3}",
        "${A_B_API_KEY_2}",
    ]


def test_the_router_finds_what_the_app_asked_for() -> None:
    made = convert((CONFIGS / "teams.yaml").read_text(), "config.yaml")
    loaded = parse_deployment(made.deployment, "sparkgate.yaml", dict.fromkeys(made.variables, "http://x"))
    known = catalog(loaded.deployment, loaded.disabled)
    asked = {
        name: known.resolve(name) for name in ("gpt-4o", "gpt-4", "claude-sonnet", "team/llama", "nobody")
    }
    found = {name: (named.pinned, named.fallback) if named else None for name, named in asked.items()}
    both = ("gpt-4o-1", "gpt-4o-openai")
    assert found == {
        "gpt-4o": (both, ("claude-sonnet",)),
        "gpt-4": (both, ("claude-sonnet",)),
        "claude-sonnet": (("claude-sonnet",), both),
        "team/llama": (("team-llama-hosted-vllm",), ()),
        "nobody": None,
    }


def test_the_table_speaks_of_equal_keys_once(cli: Cli, folder: Path) -> None:
    shutil.copy(CONFIGS / "teams.yaml", folder / "config.yaml")
    lines = cli("init", "--from-litellm", "config.yaml", env={"AZURE_EU_KEY": "k"}).output.splitlines()
    assert lines[0] == "in LiteLLM's file\tis\there"
    assert "model_list[].model_name (5x)\ttaken over\tsparkgate.yaml: targets[].name, models" in lines
    assert "AZURE_EU_KEY  is set: as LiteLLM's" in lines
    assert any(line.startswith("ANTHROPIC_API_KEY  NOT set") for line in lines)


def test_neither_file_is_written_where_one_exists(cli: Cli, folder: Path) -> None:
    shutil.copy(CONFIGS / "teams.yaml", folder / "config.yaml")
    (folder / "policy.yaml").write_text("version: 1\n")
    refused = cli("init", "--from-litellm", "config.yaml").exception
    assert isinstance(refused, Refused)
    assert "policy.yaml would be overwritten" in str(refused)
    assert not (folder / "sparkgate.yaml").exists()


@pytest.mark.parametrize("text", ["", "[]", "model_list: {}", "targets: []"])
def test_another_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="has no model_list"):
        convert(text, "config.yaml")


def test_a_key_given_twice_is_refused_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"config\.yaml:3"):
        convert("model_list: []\nlitellm_settings: {}\nlitellm_settings: {num_retries: 1}\n", "config.yaml")


MODELS = st.sampled_from(
    ["gpt-4o", "openai/x", "azure/y", "anthropic/z", "openai/*", "", "os.environ/M", "a/${b}", *OPENAI_LIKE]
)
WORDS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 10**7),
    st.floats(),
    MODELS,
    st.text(max_size=20),
    st.just("SECRET-1"),
)
ADDRESSES = st.sampled_from(
    ["http://h", "https://h/v1/", "https://u:SECRET-1@h", "https://h/v3", "os.environ/U", ""]
)
PARAMS = st.fixed_dictionaries(
    {"model": MODELS},
    optional={
        "api_key": st.sampled_from(["SECRET-1", "os.environ/K", "none", "os.environ/not-a-name"]),
        "api_base": ADDRESSES,
        "rpm": WORDS,
        "max_parallel_requests": WORDS,
        "input_cost_per_token": WORDS,
        "output_cost_per_token_above_200k_tokens": WORDS,
        "custom_llm_provider": st.sampled_from(["openai", "azure", "hosted_vllm"]),
        "new_key": WORDS,
    },
)
DEPLOYMENTS = st.fixed_dictionaries(
    {
        "model_name": st.sampled_from(["a", "b", "auto", "x/y", "*", "", "-", "engine"]),
        "litellm_params": PARAMS,
    },
    optional={
        "model_info": st.dictionaries(st.sampled_from(["mode", "max_input_tokens", "base_model"]), WORDS),
        "tpm": WORDS,
    },
)
CHAINS = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.sampled_from("abc")), max_size=2), max_size=2
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "routing_strategy": st.sampled_from([*STRATEGIES, "unheard-of"]),
        "fallbacks": CHAINS,
        "default_fallbacks": st.lists(st.sampled_from("abc")),
        "num_retries": WORDS,
        "timeout": WORDS,
        "stream_timeout": WORDS,
        "model_group_alias": st.dictionaries(st.sampled_from("abcd"), st.sampled_from("abcd")),
        "cache": st.booleans(),
        "cache_params": st.fixed_dictionaries({"ttl": WORDS}),
        "drop_params": WORDS,
        "master_key": st.just("SECRET-1"),
    },
)
FILES = st.fixed_dictionaries(
    {"model_list": st.lists(DEPLOYMENTS, max_size=5)},
    optional={
        "router_settings": SETTINGS,
        "litellm_settings": SETTINGS,
        "general_settings": SETTINGS,
        "other": WORDS,
    },
)


@given(FILES)
def test_whatever_the_file_says_both_files_are_right_every_key_is_told_of_and_no_secret(values: Any) -> None:
    made = convert(yaml.safe_dump(values), "config.yaml", PriceMap({}, "none"))
    keys = {note.key for note in made.notes}
    assert [leaf for leaf in leaves(values) if not is_told(leaf, keys)] == []
    assert "SECRET-1" not in made.deployment + made.policy + repr(made.notes) + repr(made.variables)
