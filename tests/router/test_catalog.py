from __future__ import annotations

from router.catalog import Named
from tests.router.calls import catalog

MODELS = {"gpt-4o": ("auto",), "claude-*": ("auto/code_generation",), "fast": ("a", "b"), "solo": ("b",)}


def test_builtin_names() -> None:
    known = catalog("a", "b")
    assert known.resolve("auto") == Named()
    assert known.resolve("auto/support") == Named(shape="support", via="auto/<shape>")
    assert known.resolve("b") == Named(pinned=("b",), via="target")


def test_names_that_apps_use_are_mapped_exact_first_then_patterns() -> None:
    known = catalog("a", "b", models=MODELS)
    assert known.resolve("gpt-4o") == Named(via="models")
    assert known.resolve("claude-opus") == Named(shape="code_generation", via="models")
    assert known.resolve("fast") == Named(pinned=("a", "b"), via="models")
    assert known.resolve("solo") == Named(pinned=("b",), via="models")


def test_a_name_in_the_map_goes_before_a_target_of_that_name() -> None:
    known = catalog("a", "b", models={"a": ("a", "b"), "*": ("b",)}, fallbacks={"a": ("c",), "*": ("a",)})
    assert known.resolve("a") == Named(pinned=("a", "b"), fallback=("c",), via="models")
    assert known.resolve("b") == Named(pinned=("b",), via="target")
    assert known.resolve("other") == Named(pinned=("b",), fallback=("a",), via="models")
    assert catalog("a", models={"auto": ("a",)}).resolve("auto") == Named()


def test_unknown_names_are_routed_or_refused_as_configured() -> None:
    assert catalog("a").resolve("whatever") == Named(via="unknown_model")
    assert catalog("a", unknown_model="reject").resolve("whatever") is None
    assert catalog("a", unknown_model="reject").resolve("auto/no-such-shape") is None
