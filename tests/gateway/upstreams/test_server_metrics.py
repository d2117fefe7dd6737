"""Pages of vLLM and SGLang of several versions are read alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstreams.server_metrics import Kind, Reading, read

PAGES = Path(__file__).resolve().parents[2] / "fixtures" / "metrics"


def page(name: str) -> str:
    return (PAGES / f"{name}.txt").read_text()


V0 = Reading(3, 2, 0.25, 4000, 79.6, 3980, prefill_tokens=9000, prefill_s=1.8, prefills=20)
V1 = Reading(
    *(5, 0, 0.5, 1500, 4.9, 490, 1000, 0.5, 4),
    cache_asked=1000,
    cache_hits=400,
    drafts=500,
    drafted=3500,
    accepted=1000,
)
NOW = Reading(
    *(10, 3, 0.5, 3000, 7.7, 770, 600, 0.5, 2),
    cache_asked=1000,
    cache_hits=400,
    drafts=800,
    drafted=3200,
    accepted=2400,
)
SGLANG_OLD = Reading(162, 2826, 0.28, 7500, 150, 7400, hit_rate=0.01, throughput=86.5)
SGLANG_NOW = Reading(8, 1, 0.3, 6000, 35, 7000, 900, 0.3, 3, hit_rate=0.4, throughput=1000, committed=3.5)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("vllm", "vllm-0.6", V0),
        ("vllm", "vllm-0.8", V1),
        ("vllm", "vllm-0.32", NOW),
        ("sglang", "sglang-0.4", SGLANG_OLD),
        ("sglang", "sglang-0.5", SGLANG_NOW),
    ],
)
def test_every_version_is_read_alike(kind: Kind, name: str, expected: Reading) -> None:
    found = read(kind, page(name))
    assert found is not None
    for figure in Reading.__slots__:
        assert getattr(found, figure) == pytest.approx(getattr(expected, figure)), figure


def test_counters_are_read_with_and_without_total() -> None:
    assert read("vllm", page("vllm-0.32").replace("_total{", "{")) == read("vllm", page("vllm-0.32"))


def test_a_label_may_hold_anything() -> None:
    odd = r'model_name="a \"}\\ b, tp_rank=1"'
    told = f"vllm:num_requests_running{{{odd}}} 2.0\nvllm:num_requests_waiting{{{odd}}} 1\n"
    assert read("vllm", told) == Reading(running=2.0, waiting=1.0)


@pytest.mark.parametrize(
    "told", ["", "<html>404</html>", page("sglang-0.5"), 'vllm:num_requests_running{engine="0"} NaN']
)
def test_a_page_without_a_load_tells_nothing(told: str) -> None:
    assert read("vllm", told) is None


@given(st.text(st.sampled_from('vllm:num_requests_running_total{}"\\=, 0.1eE+-NaInf\n'), max_size=200))
def test_no_page_is_too_strange(told: str) -> None:
    read("vllm", told)
    read("sglang", f"sglang:num_running_reqs{{{told}}} {told}")
