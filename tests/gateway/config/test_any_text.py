"""Whatever stands in a file: it is loaded, or its mistakes are told; nothing else ever happens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import yaml
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.catalog import catalog
from gateway.config.load import load_policy, parse_deployment
from gateway.config.mistakes import ConfigError
from router.shapes import SHAPES

Loaded = TypeVar("Loaded")
KEYS = [
    "targets",
    "models",
    "name",
    "kind",
    "url",
    "base_url",
    "model",
    "api_key",
    "prices",
    "endpoints",
    "engine",
    "enabled",
    "port",
    "engine_port",
    "database_url",
    "ledger",
    "on_full",
    "shapes",
    "defaults",
    "rules",
    "when",
    "shape",
    "timeouts",
    "first_token_s",
    "total_s",
    "slo",
    "retries",
    "max",
    "candidates",
    "fallback",
    "objective",
    "header.x",
    "metadata.y",
    "short_chat",
    "support",
    "version",
    "openai",
    "[key]",
]
WORDS = (
    "auto",
    "auto/support",
    "engine",
    "openai",
    "litellm",
    "http://h",
    "${A}",
    "${B:-c}",
    "${",
    "ttft",
    "",
)
scalars = (
    st.sampled_from(WORDS + SHAPES)
    | st.integers(-2, 9000)
    | st.floats(-1, 2)
    | st.booleans()
    | st.none()
    | st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)
files = st.dictionaries(st.sampled_from(KEYS), values, max_size=5)


def outcome_of(load: Callable[[], Loaded]) -> Loaded | ConfigError:
    try:
        return load()
    except ConfigError as error:
        return error


def is_placed(error: ConfigError, text: str) -> bool:
    """There are mistakes, each on a line of the text."""
    last = text.count("\n") + 1
    return bool(error.mistakes) and all(1 <= (mistake.line or 1) <= last for mistake in error.mistakes)


@given(files)
def test_a_deployment_is_loaded_or_its_mistakes_are_told(file: dict[str, Any]) -> None:
    text = yaml.safe_dump(file)
    loaded = outcome_of(lambda: parse_deployment(text, "f.yaml", {"A": "1"}))
    if isinstance(loaded, ConfigError):
        assert is_placed(loaded, text)
    else:
        assert set(catalog(loaded.deployment, loaded.disabled).targets) == set(loaded.target_names)


@given(files)
def test_a_policy_is_loaded_or_its_mistakes_are_told(file: dict[str, Any]) -> None:
    text = yaml.safe_dump(file)
    policy = outcome_of(lambda: load_policy(text, "f.yaml", ("engine",)))
    if isinstance(policy, ConfigError):
        assert is_placed(policy, text)
    else:
        deadlines = [policy.for_shape(shape).timeouts for shape in SHAPES]
        assert all(timeouts.first_token_s <= timeouts.total_s for timeouts in deadlines)


@given(st.text(max_size=60))
def test_any_text_at_all_is_loaded_or_its_mistakes_are_told(text: str) -> None:
    for found in (
        outcome_of(lambda: parse_deployment(text, "f.yaml", {})),
        outcome_of(lambda: load_policy(text, "f.yaml", ("engine",))),
    ):
        assert not isinstance(found, ConfigError) or found.mistakes
