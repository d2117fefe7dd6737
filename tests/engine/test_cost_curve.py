from __future__ import annotations

from pathlib import Path

import pytest

from engine.cost_curve import keep_curve, kept_curve, measure_curve
from engine.kv_cache import KVCache
from engine.model import Llama

CURVE = {1: 0.0064, 8: 0.0081}


def test_a_pass_is_measured_at_every_number_of_rows_that_can_be(toy_model: Llama) -> None:
    config = toy_model.config
    cache = KVCache(
        config.num_layers, 64, config.num_kv_heads, config.head_dim, toy_model.dtype, toy_model.device
    )
    ticks = iter(range(1000))
    curve = measure_curve(toy_model, cache, 40, 8, lambda: float(next(ticks)))
    assert curve == dict.fromkeys((1, 4, 8, 16, 17, 24, 32, 33), 1.0)


def test_a_kept_curve_is_found_again_by_what_it_belongs_to(tmp_path: Path) -> None:
    file = tmp_path / "run" / "step_costs.json"
    keep_curve(file, "this machine", CURVE)
    assert kept_curve(file, "this machine") == CURVE
    assert kept_curve(file, "another one") is None
    keep_curve(file, "another one", {1: 1.0})
    assert kept_curve(file, "another one") == {1: 1.0}
    assert [path.name for path in file.parent.iterdir()] == ["step_costs.json"]


@pytest.mark.parametrize(
    "content", ["", "[]", '{"a": []}', '{"a": {"x": 1}}', '{"a": {"1": null}}', '{"a": {}}']
)
def test_a_damaged_file_is_as_none(tmp_path: Path, content: str) -> None:
    file = tmp_path / "step_costs.json"
    assert kept_curve(file, "a") is None
    file.write_text(content)
    assert kept_curve(file, "a") is None
