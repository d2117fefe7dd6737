"""A deployment as the router's catalog."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.catalog import CHAT, COUNT_TOKENS, EMBEDDINGS, MESSAGES, RESPONSES, catalog, served_name
from gateway.config.load import parse_deployment
from router.catalog import Catalog, Named, Target

TEXT = """\
targets:
  - name: cheap
    kind: openai
    base_url: "https://api.example/v1"
    model: m-1
    api_key: "${ABSENT}"
    context_tokens: 64000
    prices: {input_usd_per_mtok: 0.1, output_usd_per_mtok: 0.4}
  - {name: vectors, kind: litellm, model: openai/text-embedding-3-small}
  - {name: bge, kind: openai, base_url: "http://h/v1", model: bge-m3, endpoints: [/v1/embeddings]}
models: {gpt-4o: auto, "claude-*": auto/support, fast: [engine, cheap], big: cheap}
unknown_model: reject
"""


ANY_CHAT = CHAT | RESPONSES | MESSAGES | COUNT_TOKENS  # what chat carries


def of(text: str) -> Catalog:
    loaded = parse_deployment(text, "sparkgate.yaml", {})
    return catalog(loaded.deployment, loaded.disabled)


def test_targets_keep_their_order_the_bundled_engine_first() -> None:
    assert list(of(TEXT).targets) == ["engine", "cheap", "vectors", "bge"]


def test_the_engine_does_chat_and_plain_completions() -> None:
    assert of("").targets["engine"] == Target(
        name="engine",
        kind="engine",
        model="smollm2-135m-instruct",
        endpoints=ANY_CHAT | {"/v1/completions"},
        native=CHAT | {"/v1/completions"},
        has_images=False,
    )


def test_an_upstream_carries_its_limits_prices_and_why_it_is_disabled() -> None:
    assert of(TEXT).targets["cheap"] == Target(
        name="cheap",
        kind="openai",
        model="m-1",
        endpoints=ANY_CHAT,
        context_tokens=64000,
        input_usd_per_mtok=0.1,
        output_usd_per_mtok=0.4,
        disabled_reason="the environment variable ABSENT is not set",
    )


def test_unknown_prices_stay_none() -> None:
    vectors = of(TEXT).targets["vectors"]
    assert (vectors.input_usd_per_mtok, vectors.output_usd_per_mtok) == (None, None)


def test_embedding_models_serve_embeddings_by_name_or_by_setting() -> None:
    targets = of(TEXT).targets
    assert targets["vectors"].endpoints == EMBEDDINGS
    assert targets["bge"].endpoints == EMBEDDINGS


@pytest.mark.parametrize(
    ("target", "native"),
    [
        ('kind: openai, base_url: "https://api.openai.com/v1"', CHAT | RESPONSES),
        ('kind: openai, base_url: "https://api.example/v1"', CHAT),
        ("kind: anthropic", MESSAGES | COUNT_TOKENS),
        ('kind: openai, base_url: "http://h/v1", endpoints: [/v1/messages]', MESSAGES | COUNT_TOKENS),
        ("kind: litellm", CHAT),
    ],
)
def test_what_a_target_speaks_itself_and_what_is_translated_for_it(
    target: str, native: frozenset[str]
) -> None:
    made = of(f"targets: [{{name: x, model: m, unsupported: reject, {target}}}]").targets["x"]
    assert (made.native, made.endpoints) == (native, ANY_CHAT)
    assert made.refuses_unsupported


def test_the_model_map_resolves() -> None:
    known = of(TEXT)
    assert known.resolve("gpt-4o") == Named(via="models")
    assert known.resolve("claude-sonnet-4") == Named(shape="support", via="models")
    assert known.resolve("fast") == Named(pinned=("engine", "cheap"), via="models")
    assert known.resolve("big") == Named(pinned=("cheap",), via="models")
    assert known.resolve("nobody-knows") is None


def test_a_listed_engine_may_name_its_model() -> None:
    known = of("targets: [{name: e, kind: engine, url: 'http://h:1', model: other}]")
    assert known.targets["e"].model == "other"


@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_a_server_does_chat_and_plain_completions_and_has_no_price_of_a_token(kind: str) -> None:
    server = f"name: pool, kind: {kind}, url: 'http://h:1', model: Qwen/Qwen3-4B, context_tokens: 32768"
    assert of(f"targets: [{{{server}, cost_per_hour_usd: 2.5}}]").targets["pool"] == Target(
        name="pool",
        kind=kind,  # type: ignore[arg-type]
        model="Qwen/Qwen3-4B",
        endpoints=ANY_CHAT | {"/v1/completions"},
        native=CHAT | {"/v1/completions"},
        context_tokens=32768,
    )


def test_served_names(tmp_path: Path) -> None:
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert served_name(f"{folder}/") == "my-model"
    assert served_name("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"
