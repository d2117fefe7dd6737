"""The gateway's latency histograms once more by the names of OpenTelemetry's GenAI conventions, as Prometheus writes
them, for dashboards that know nothing of sparkgate.

In: metric families as they are scraped. Out: the same, and copies of some. Nothing is measured twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

NAMES = {
    "sparkgate_ttft_seconds": "gen_ai_server_time_to_first_token_seconds",
    "sparkgate_tpot_seconds": "gen_ai_server_time_per_output_token_seconds",
    "sparkgate_completion_seconds": "gen_ai_server_request_duration_seconds",
}


@dataclass(frozen=True, slots=True)
class Served:
    """Who serves a target, and by which model."""

    provider: str
    model: str


class GenAiNames(Collector):
    """`ours` and the copies. A target that is none of the configuration's has no copy."""

    def __init__(self, ours: Collector, targets: Mapping[str, Served]) -> None:
        self._ours, self._targets = ours, targets

    def collect(self) -> Iterator[Metric]:
        for family in self._ours.collect():
            yield family
            if name := NAMES.get(family.name):
                yield self._copy(family, name)

    def _copy(self, family: Metric, name: str) -> Metric:
        copy = Metric(name, family.documentation, family.type)
        for sample in family.samples:
            if served := self._targets.get(sample.labels["target"]):
                rest = {key: value for key, value in sample.labels.items() if key not in ("target", "shape")}
                is_chat = sample.labels["shape"] != "embedding"
                labels = rest | {
                    "gen_ai_operation_name": "chat" if is_chat else "embeddings",
                    "gen_ai_provider_name": served.provider,
                    "gen_ai_request_model": served.model,
                    "sparkgate_target": sample.labels["target"],
                    "sparkgate_shape": sample.labels["shape"],
                }
                copy.add_sample(name + sample.name.removeprefix(family.name), labels, sample.value)
        return copy
