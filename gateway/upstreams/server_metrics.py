"""What vLLM and SGLang tell at `/metrics`, as one `Reading` whatever their version.

In: the page in Prometheus' text format. Out: loads as of now, and counters since the server's start. Counters are read
with and without `_total`. Engines side by side (labels `engine`, `dp_rank`) are summed, shares averaged over them; what
several ranks of one engine tell alike (`tp_rank` and its like) counts once. What is missing is None. Knows no time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["vllm", "sglang"]
LEAST, MOST = 1e-9, 1e18  # beyond, a figure is 0 or none: sums and ratios of them stay finite


@dataclass(frozen=True, slots=True)
class Reading:
    """`interval_s` and `intervals`: between two outputs of a sequence, a step apart at vLLM and a token at SGLang.

    `prefill_tokens` were computed for `prefills` prompts in `prefill_s`, summed over them. `throughput`: tokens/s.
    `committed`: tokens a pass of the target, where the server tells that itself; else it follows from `drafts` of
    `drafted` tokens, of which `accepted` stood.
    """

    running: float | None = None
    waiting: float | None = None
    kv_used: float | None = None
    generated: float | None = None
    interval_s: float | None = None
    intervals: float | None = None
    prefill_tokens: float | None = None
    prefill_s: float | None = None
    prefills: float | None = None
    cache_asked: float | None = None
    cache_hits: float | None = None
    hit_rate: float | None = None
    throughput: float | None = None
    drafts: float | None = None
    drafted: float | None = None
    accepted: float | None = None
    committed: float | None = None


# Names by figure, newest first, without `vllm:`, `sglang:` and `_total`; what follows `|` is a label that has to fit.
_VLLM: Mapping[str, tuple[str, ...]] = {
    "running": ("num_requests_running",),
    "waiting": ("num_requests_waiting",),
    "kv_used": ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
    "generated": ("generation_tokens",),
    "interval_s": ("inter_token_latency_seconds_sum", "time_per_output_token_seconds_sum"),
    "intervals": ("inter_token_latency_seconds_count", "time_per_output_token_seconds_count"),
    "prefill_tokens": ("request_prefill_kv_computed_tokens_sum", "request_prompt_tokens_sum"),
    "prefill_s": ("request_prefill_time_seconds_sum",),
    "prefills": ("request_prefill_time_seconds_count",),
    "cache_asked": ("prefix_cache_queries", "gpu_prefix_cache_queries"),
    "cache_hits": ("prefix_cache_hits", "gpu_prefix_cache_hits"),
    "drafts": ("spec_decode_num_drafts",),
    "drafted": ("spec_decode_num_draft_tokens",),
    "accepted": ("spec_decode_num_accepted_tokens",),
}
_SGLANG: Mapping[str, tuple[str, ...]] = {
    "running": ("num_running_reqs",),
    "waiting": ("num_queue_reqs",),
    "kv_used": ("token_usage",),
    "generated": ("generation_tokens",),
    "interval_s": ("inter_token_latency_seconds_sum", "time_per_output_token_seconds_sum"),
    "intervals": ("inter_token_latency_seconds_count", "time_per_output_token_seconds_count"),
    "prefill_tokens": ('realtime_tokens|mode="prefill_compute"',),
    "prefill_s": ('per_stage_req_latency_seconds_sum|stage="prefill_forward"',),
    "prefills": ('per_stage_req_latency_seconds_count|stage="prefill_forward"',),
    "hit_rate": ("cache_hit_rate",),
    "throughput": ("gen_throughput",),
    "committed": ("spec_accept_length",),
}
_NAMES: Mapping[Kind, Mapping[str, tuple[str, ...]]] = {"vllm": _VLLM, "sglang": _SGLANG}
_SHARES = frozenset({"kv_used", "hit_rate", "committed"})
_RANKS = re.compile(r'(?:tp_rank|pp_rank|moe_ep_rank|priority)="[^"]*",?')
_LABELS = r'(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?'


def _series(kind: Kind) -> re.Pattern[str]:
    names = {name.partition("|")[0] for known in _NAMES[kind].values() for name in known}
    return re.compile(rf"^{kind}:({'|'.join(sorted(names))})(?:_total)?{_LABELS}[ \t]+(\S+)", re.MULTILINE)


_SERIES: Mapping[Kind, re.Pattern[str]] = {"vllm": _series("vllm"), "sglang": _series("sglang")}


def read(kind: Kind, page: str) -> Reading | None:
    """None where the page has not even the load: another program's, or of a version that is not known here."""
    told: dict[str, list[tuple[str, float]]] = {}
    for name, labels, value in _SERIES[kind].findall(page):
        if (number := _number(value)) is not None:
            told.setdefault(name, []).append((labels, number))
    found: dict[str, float] = {}
    for figure, names in _NAMES[kind].items():
        values = next(filter(None, (_of_engines(name, told) for name in names)), None)
        if values:
            found[figure] = sum(values) / (len(values) if figure in _SHARES else 1)
    return Reading(**found) if "running" in found else None


def _of_engines(name: str, told: Mapping[str, list[tuple[str, float]]]) -> list[float]:
    """A value for each set of labels without those of ranks and priorities: the largest, which is the whole."""
    name, _, wanted = name.partition("|")
    engines: dict[str, float] = {}
    for labels, value in told.get(name, ()):
        if wanted in labels:
            whose = _RANKS.sub("", labels)
            engines[whose] = max(value, engines.get(whose, value))
    return list(engines.values())


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    if not abs(value) <= MOST:
        return None
    return value if abs(value) >= LEAST else 0.0
