"""The YAML files under docs/deploy load as they are, their policies with the targets beside them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.deployment import ServerTarget
from gateway.config.load import load_deployment, load_policy
from router.policy import Policy

DEPLOY = Path(__file__).resolve().parents[3] / "docs" / "deploy"
FOLDERS = sorted({path.parent for path in DEPLOY.rglob("sparkgate.yaml")})
KEYS = {"VLLM_API_KEY": "a", "SGLANG_API_KEY": "b"}


def test_there_are_files_for_both_servers() -> None:
    assert {"vllm", "sglang"} <= {folder.name for folder in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_is_a_working_configuration(folder: Path) -> None:
    loaded = load_deployment(folder / "sparkgate.yaml", KEYS)
    assert not loaded.disabled
    policy = load_policy((folder / "policy.yaml").read_text(), "policy.yaml", loaded.target_names)
    assert isinstance(policy, Policy)
    pools = [target for target in loaded.deployment.targets if isinstance(target, ServerTarget)]
    assert pools
    assert all(pool.kind == folder.name and pool.cost_per_hour_usd for pool in pools)


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_the_example_of_a_page_is_a_target(name: str, tmp_path: Path) -> None:
    text = (DEPLOY / f"{name}.md").read_text().split("```yaml\n", 1)[1].split("```", 1)[0]
    (tmp_path / "sparkgate.yaml").write_text(text)
    (pool,) = load_deployment(tmp_path / "sparkgate.yaml", KEYS).deployment.targets
    assert isinstance(pool, ServerTarget)
    assert (pool.kind, pool.model) == (name, "Qwen/Qwen3-4B")
