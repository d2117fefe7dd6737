"""Who may import whom: the folders' rules, and the order of gateway's sub-packages, read from the source itself."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("router", "gateway", "engine", "dashboard", "migrations")
# What one folder may import of ours, besides itself.
MAY_IMPORT = {
    "router": (),
    "gateway": ("router",),
    "engine": (),
    "dashboard": (),
    "migrations": ("gateway.ledger",),
}
# Each may import those before it; `app` stands for the files directly in gateway/.
GATEWAY_ORDER = (
    *("config", "telemetry", "ledger", "callers", "upstreams", "wire", "http", "dispatch"),
    *("surfaces", "control", "bench", "app", "supervise", "cli"),
)
NOT_IN_ROUTER = {"asyncio", "logging", "os", "random", "socket", "threading", "time"}  # decisions are pure
HEAVY = {"torch", "transformers", "streamlit"}  # the gateway installs and starts without them


@dataclass(frozen=True)
class Import:
    """`file` imports `module` at `line`; lazily if inside a function."""

    file: str
    line: int
    module: str
    lazy: bool

    @property
    def root(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports_of(file: str, source: str) -> Iterator[Import]:
    """Every import statement, `from a import b` both as `a` and as `a.b`, relative ones made absolute."""
    package = Path(file).with_suffix("").parts[:-1]
    tree = ast.parse(source)
    in_functions = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module])))
            base = start if node.level else str(node.module)
            modules = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in modules:
            yield Import(file, node.lineno, module, id(node) in in_functions)


def imports_in(folder: str) -> list[Import]:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files, f"{folder} holds no Python file"
    return [found for file in files for found in imports_of(str(file.relative_to(ROOT)), file.read_text())]


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer(module_parts: tuple[str, ...]) -> int | None:
    """The place in GATEWAY_ORDER of `gateway.x…`; None for `gateway` itself."""
    if len(module_parts) < 2:
        return None
    return GATEWAY_ORDER.index(module_parts[1] if module_parts[1] in GATEWAY_ORDER else "app")


def breaks_folder_rule(found: Import) -> bool:
    folder = Path(found.file).parts[0]
    if found.root not in OURS or found.root == folder:
        return False
    allowed = MAY_IMPORT[folder]
    return not any(
        is_within(found.module, package) or is_within(package, found.module) for package in allowed
    )


def breaks_gateway_order(found: Import) -> bool:
    if found.root != "gateway":
        return False
    own = layer(Path(found.file).with_suffix("").parts)
    imported = layer(tuple(found.module.split(".")))
    return own is not None and imported is not None and imported > own


def breaks_router_purity(found: Import) -> bool:
    if found.file.startswith("router/training/"):  # run by hand, never loaded by a decision
        return False
    is_allowed = found.root == "numpy" or found.root == "router" or found.root in sys.stdlib_module_names
    return not is_allowed or found.root in NOT_IN_ROUTER or is_within(found.module, "router.training")


def breaks_lightness(found: Import) -> bool:
    return found.root in HEAVY or (found.root == "litellm" and not found.lazy)


@pytest.mark.parametrize("folder", OURS)
def test_a_folder_imports_of_ours_only_what_it_may(folder: str) -> None:
    assert [str(found) for found in imports_in(folder) if breaks_folder_rule(found)] == []


def test_gateways_sub_packages_import_only_earlier_ones() -> None:
    assert [str(found) for found in imports_in("gateway") if breaks_gateway_order(found)] == []


def test_every_sub_package_of_gateway_has_its_place_in_the_order() -> None:
    folders = {path.parent.name for path in (ROOT / "gateway").glob("*/__init__.py")}
    assert folders == set(GATEWAY_ORDER) - {"app"}


def test_the_router_reads_no_clock_draws_no_chance_and_does_no_io() -> None:
    assert [str(found) for found in imports_in("router") if breaks_router_purity(found)] == []


@pytest.mark.parametrize("folder", ["gateway", "router"])
def test_the_gateway_starts_without_what_is_heavy(folder: str) -> None:
    assert [str(found) for found in imports_in(folder) if breaks_lightness(found)] == []


@pytest.mark.parametrize(
    ("file", "source", "breaks"),
    [
        ("router/decide.py", "import gateway.wire", breaks_folder_rule),
        ("engine/serve.py", "from router.policy import Policy", breaks_folder_rule),
        ("dashboard/app.py", "def page():\n    import gateway.ledger.tables", breaks_folder_rule),
        ("migrations/env.py", "from gateway.config.load import load_policy", breaks_folder_rule),
        ("gateway/cli/up.py", "import engine.serve", breaks_folder_rule),
        ("gateway/ledger/drain.py", "from gateway import dispatch", breaks_gateway_order),
        ("gateway/ledger/drain.py", "from ..supervise import ports", breaks_gateway_order),
        ("gateway/control/api.py", "from gateway.app import Parts", breaks_gateway_order),
        ("gateway/app.py", "import gateway.supervise.main", breaks_gateway_order),
        ("router/decide.py", "from time import monotonic", breaks_router_purity),
        ("router/decide.py", "import pydantic", breaks_router_purity),
        ("gateway/upstreams/base.py", "import litellm", breaks_lightness),
        ("gateway/upstreams/base.py", "def load():\n    from torch import nn", breaks_lightness),
    ],
)
def test_each_rule_finds_what_breaks_it(file: str, source: str, breaks: object) -> None:
    assert callable(breaks)
    assert any(breaks(found) for found in imports_of(file, source))


@pytest.mark.parametrize(
    ("file", "source", "breaks"),
    [
        ("migrations/env.py", "from gateway.ledger.tables import metadata", breaks_folder_rule),
        ("gateway/app.py", "from router.policy import Policy", breaks_folder_rule),
        ("gateway/dispatch/walk.py", "from gateway.ledger import records", breaks_gateway_order),
        ("gateway/worker.py", "from gateway.app import GatewayApp", breaks_gateway_order),
        ("gateway/wire/chat.py", "from .errors import GatewayError", breaks_gateway_order),
        ("router/decide.py", "import math\nimport numpy as np", breaks_router_purity),
        ("gateway/upstreams/litellm_provider.py", "def load():\n    import litellm", breaks_lightness),
    ],
)
def test_no_rule_forbids_what_is_meant(file: str, source: str, breaks: object) -> None:
    assert callable(breaks)
    assert not any(breaks(found) for found in imports_of(file, source))
