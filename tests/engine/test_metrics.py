"""What the engine's metrics say after steps and rounds that the test reports itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from engine.drafters.lookup import PromptLookup
from engine.metrics import EngineMetrics
from engine.model import Llama
from engine.observer import StepTimes
from engine.sequence import Round, Sampling, Speculation
from engine.speculation_stats import DIMENSIONS
from tests.engine.toy import load_toy, make_engine, make_sequence, run_all

Samples = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
def metrics(toy_model: Llama) -> EngineMetrics:
    return EngineMetrics(make_engine(toy_model))


def samples(metrics: EngineMetrics) -> Samples:
    """By name without its prefix, and the values of its labels."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {
        (sample.name.removeprefix("sparkgate_engine_"), tuple(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def report_rounds(metrics: EngineMetrics) -> None:
    warm = make_sequence("a", [1] * 300, sampling=Sampling(temperature=0.7))
    warm.shape = "support"
    metrics.round_done(warm, Round(7, 5, 3, 4), 2)
    metrics.round_done(make_sequence("b", [1]), Round(7, 2, 2, 3), 2)
    metrics.round_done(make_sequence("b", [1]), Round(0, 0, 0, 1), 1)


def test_rounds_are_counted_in_all_and_by_band(metrics: EngineMetrics) -> None:
    report_rounds(metrics)
    found = samples(metrics)
    figures = ("rounds", "draft_tokens", "verified_tokens", "accepted_tokens", "committed_tokens")
    assert [found[f"{figure}_total", ()] for figure in figures] == [3, 14, 7, 5, 8]
    assert [found[f"shape_{figure}_total", ("support",)] for figure in figures] == [1, 7, 5, 3, 4]
    assert [found[f"temperature_{figure}_total", ("0",)] for figure in figures] == [2, 7, 2, 2, 4]
    assert [found[f"concurrency_{figure}_total", ("2-4",)] for figure in figures] == [2, 14, 7, 5, 7]
    assert [found[f"context_{figure}_total", ("<=1024",)] for figure in figures] == [1, 7, 5, 3, 4]


def test_what_the_loop_reports_is_what_its_sequences_count(toy_model: Llama) -> None:
    engine = make_engine(toy_model, drafter=PromptLookup())
    engine.observer = metrics = EngineMetrics(engine)
    sequences = [make_sequence(str(number), [7, 8, 9, number] * 5, 40) for number in range(3)]
    modes: tuple[Speculation, ...] = ("fixed", "auto", "off")
    for sequence, mode in zip(sequences, modes, strict=True):
        sequence.speculation = mode
    run_all(engine, sequences)
    found = samples(metrics)
    counts = [sequence.counts for sequence in sequences]
    assert found["rounds_total", ()] == sum(count.rounds for count in counts)
    assert found["draft_tokens_total", ()] == sum(count.drafted for count in counts) > 0
    assert found["verified_tokens_total", ()] == sum(count.verified for count in counts) > 0
    assert found["accepted_tokens_total", ()] == sum(count.accepted for count in counts) > 0
    assert found["committed_tokens_total", ()] == sum(len(sequence.output_ids) - 1 for sequence in sequences)
    spent = sum(value for (name, _), value in found.items() if name == "step_phase_seconds_total")
    assert spent == pytest.approx(found["step_seconds_sum", ()])


def test_latencies_have_the_names_of_the_genai_conventions(toy_model: Llama) -> None:
    engine = make_engine(toy_model)
    engine.observer = metrics = EngineMetrics(engine, "toy")
    sequences = [make_sequence("a", [7, 8, 9], 5), make_sequence("b", [7, 8], 1)]
    run_all(engine, sequences)
    found = samples(metrics)
    labels = ("sparkgate", "toy")
    names = ("time_to_first_token", "time_per_output_token", "request_duration")
    assert [found[f"gen_ai_server_{name}_seconds_count", labels] for name in names] == [2, 1, 2]
    spent = [sequence.timings() for sequence in sequences]
    whole = sum(timings.queue_s + timings.prefill_s + timings.decode_s for timings in spent)
    assert found["gen_ai_server_request_duration_seconds_sum", labels] == pytest.approx(whole)
    per_token = found["gen_ai_server_time_per_output_token_seconds_sum", labels]
    assert per_token == pytest.approx(spent[0].decode_s / (len(sequences[0].output_ids) - 1))


def test_slots_tell_how_often_they_were_verified_and_survived(metrics: EngineMetrics) -> None:
    report_rounds(metrics)
    found = samples(metrics)
    slots = [(str(slot),) for slot in range(1, 6)]
    assert [found["slot_verified_total", slot] for slot in slots] == [2, 2, 1, 1, 1]
    assert [found["slot_accepted_total", slot] for slot in slots] == [2, 2, 1, 0, 0]


def test_the_number_of_series_is_bounded(metrics: EngineMetrics) -> None:
    before = set(samples(metrics))
    for number in range(100):
        sequence = make_sequence("a", [1] * number, sampling=Sampling(temperature=number / 50))
        sequence.shape = f"shape {number}"
        metrics.round_done(sequence, Round(0, 0, 0, 1), number + 1)
    found = samples(metrics)
    assert set(found) == before
    assert found["shape_rounds_total", ("other",)] == 100
    assert sum(len(bands) for bands in DIMENSIONS.values()) == sum(
        name.endswith("_rounds_total") for name, _ in found
    )


def test_the_time_of_steps_is_split_by_phase(metrics: EngineMetrics) -> None:
    assert set(metrics.step_s.values()) == {None}
    metrics.step_done(StepTimes(0.010, 0.030, 0.004, 0.002))
    metrics.step_done(StepTimes(0.020, 0.030, 0.004, 0.002))
    found = samples(metrics)
    assert found["step_phase_seconds_total", ("draft",)] == pytest.approx(0.030)
    assert found["step_phase_seconds_total", ("verify",)] == pytest.approx(0.060)
    assert found["step_phase_seconds_total", ("sample",)] == pytest.approx(0.008)
    assert found["step_phase_seconds_total", ("overhead",)] == pytest.approx(0.004)
    assert found["step_seconds_sum", ()] == pytest.approx(0.102)
    assert metrics.step_s == pytest.approx(
        {"draft": 0.011, "verify": 0.030, "sample": 0.004, "overhead": 0.002}
    )


def test_without_a_gpu_nothing_is_said_of_one(metrics: EngineMetrics) -> None:
    assert not [name for name, _ in samples(metrics) if name.startswith("gpu")]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpus_memory_is_told(toy_folder: Path) -> None:
    engine = make_engine(load_toy(toy_folder, device="cuda"))
    found = samples(EngineMetrics(engine))
    assert found["gpu_memory_allocated_bytes", ()] >= sum(layer.nbytes for layer in engine.cache.layers)
    assert found["gpu_memory_reserved_bytes", ()] >= found["gpu_memory_allocated_bytes", ()]
    assert 0.0 <= found.get(("gpu_utilisation_fraction", ()), 0.0) <= 1.0
