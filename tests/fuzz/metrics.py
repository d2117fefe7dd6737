"""What vLLM and SGLang tell at `/metrics`: any page is read or not known, and what it comes to are finite numbers."""

from __future__ import annotations

import math
from random import Random

from gateway.upstreams.server_metrics import Kind, read
from gateway.upstreams.server_pace import Pace
from tests.fuzz import mutate
from tests.fuzz.base import FuzzTarget, must

VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="m \\"x\\" {"} 0.25
vllm:generation_tokens_total{engine="0",model_name="m"} 1234.0
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01"} 7.0
vllm:inter_token_latency_seconds_sum{engine="0"} 3.5
vllm:inter_token_latency_seconds_count{engine="0"} 350.0
vllm:request_prefill_time_seconds_sum{engine="0"} 2.25
vllm:request_prompt_tokens_sum{engine="0"} 900.0
vllm:spec_decode_num_drafts_total{engine="0"} 100
vllm:spec_decode_num_draft_tokens_total{engine="0"} 700
vllm:spec_decode_num_accepted_tokens_total{engine="0"} 210
vllm:prefix_cache_queries_total{engine="0"} 5e3
vllm:prefix_cache_hits_total{engine="0"} 2.5e3
"""
SGLANG = """\
sglang:num_running_reqs{model_name="m",tp_rank="0",pp_rank="0"} 2.0
sglang:num_queue_reqs{model_name="m",tp_rank="0",pp_rank="0"} 0.0
sglang:token_usage{model_name="m",tp_rank="0"} 0.5
sglang:gen_throughput{model_name="m",tp_rank="0"} 88.0
sglang:spec_accept_length{model_name="m",tp_rank="0"} 2.7
sglang:cache_hit_rate{model_name="m",tp_rank="0"} 0.1
"""
CORPUS: tuple[tuple[Kind, str], ...] = (("vllm", VLLM), ("sglang", SGLANG))
NUMBERS = (b" NaN", b" +Inf", b" -1", b" 1e308", b" 1e-320", b" 0", b" 99999999999999999999", b" 1_0", b"")
Given = tuple[Kind, tuple[str, ...]]


def make(chance: Random) -> Given:
    """Three pages of one server."""
    kind, page = chance.choice(CORPUS)
    return kind, tuple(_spoiled(chance, page) for _ in range(3))


def _spoiled(chance: Random, page: str) -> str:
    lines = page.encode().splitlines()
    for _ in range(chance.randint(0, 3)):
        at = chance.randrange(len(lines))
        lines[at] = lines[at].rpartition(b" ")[0] + chance.choice(NUMBERS)
    raw = b"\n".join(lines)
    if chance.random() < 0.5:
        raw = mutate.raw(chance, raw)
    return raw.decode(errors="replace")


def take(given: Given) -> None:
    kind, pages = given
    pace = Pace(kind, max_batch=8)
    for second, page in enumerate(pages):
        reading = read(kind, page)
        if reading is not None:
            _check(pace.look(reading, float(second)))


def _check(value: object) -> None:
    if isinstance(value, dict):
        for inner in value.values():
            _check(inner)
    elif isinstance(value, list):
        for inner in value:
            _check(inner)
    elif isinstance(value, float):
        must(math.isfinite(value), f"a figure is {value}")


TARGETS = (FuzzTarget("engines' metrics", 0.04, make, take),)
