from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.chance import uniforms
from engine.judge import decide, no_proposal
from engine.sampler import Choice, Row, candidate_probs, penalise
from engine.sequence import Sampling, Sequence
from tests.engine.toy import make_sequence

VOCAB = 40


def sequence_with(sampling: Sampling, output: list[int] | None = None) -> Sequence:
    sequence = make_sequence("s", [1, 2, 3], sampling=sampling)
    sequence.output_ids = output or []
    return sequence


def sample(logits: torch.Tensor, sequences: list[Sequence]) -> list[Choice]:
    """The choice of each row, without drafts."""
    nothing = no_proposal(len(sequences), logits.device)
    judged = decide(nothing, logits, sequences, [()] * len(sequences))
    return [one.choices[0] for one in judged]


def reference_probs(logits: list[float], sampling: Sampling) -> list[float]:
    """The same filters written naively, for one row."""
    highest = max(logits)
    weights = [math.exp((logit - highest) / sampling.temperature) for logit in logits]
    total = sum(weights)
    probs = [weight / total for weight in weights]
    order = sorted(range(len(probs)), key=lambda token: -probs[token])
    if sampling.top_k:
        order = order[: sampling.top_k]
    mass, kept = sum(probs[token] for token in order), set[int]()
    before = 0.0
    for rank, token in enumerate(order):
        if rank > 0 and before >= sampling.top_p * mass:
            break
        kept.add(token)
        before += probs[token]
    least = sampling.min_p * max(probs)
    return [prob if token in kept and prob >= least else 0.0 for token, prob in enumerate(probs)]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-600, 600), min_size=VOCAB, max_size=VOCAB, unique=True),
    st.floats(0.2, 2.0),
    st.integers(0, VOCAB + 5),
    st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.97, 1.0]),
    st.sampled_from([0.0, 0.05, 0.3]),
)
def test_filters_keep_what_a_naive_reading_keeps(
    scores: list[int], temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = [score / 100 for score in scores]
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    ours = candidate_probs(torch.tensor([logits]), [sequence_with(sampling)])[0].tolist()
    for token, (got, expected) in enumerate(zip(ours, reference_probs(logits, sampling), strict=True)):
        on_the_edge = abs(got - expected) > 1e-5 and min(got, expected) == 0.0
        assert on_the_edge is False or is_borderline(logits, sampling, token), (token, got, expected)
        assert on_the_edge or got == pytest.approx(expected, abs=1e-5)


def is_borderline(logits: list[float], sampling: Sampling, token: int) -> bool:
    """Whether float32 may decide differently: a hair more or less of top_p or min_p flips the token."""
    decisions = set()
    for nudge in (-1e-5, 1e-5):
        nudged = Sampling(
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p + nudge,
            min_p=sampling.min_p * (1 + nudge),
        )
        decisions.add(reference_probs(logits, nudged)[token] > 0)
    return len(decisions) == 2


def test_a_vocabulary_longer_than_the_short_list_is_filtered_exactly() -> None:
    logits = torch.randn(3, 2000, generator=torch.Generator().manual_seed(5)) * 0.3  # flat: top_p needs many
    samplings = [Sampling(top_p=0.9), Sampling(top_k=700), Sampling(top_k=5, top_p=0.5)]
    ours = candidate_probs(logits.clone(), [sequence_with(sampling) for sampling in samplings])
    for row, sampling in enumerate(samplings):
        expected = torch.tensor(reference_probs(logits[row].tolist(), sampling))
        assert abs(int((ours[row] > 0).sum()) - int((expected > 0).sum())) <= 1
        assert (ours[row] - expected).abs().sum() < 2e-3


def test_rows_do_not_influence_each_other() -> None:
    logits = torch.randn(4, 500, generator=torch.Generator().manual_seed(1))
    samplings = [
        Sampling(seed=3, top_p=0.8),
        Sampling(temperature=0.0),
        Sampling(seed=4, frequency_penalty=1.0),
        Sampling(seed=5, top_k=7, min_p=0.2),
    ]
    together = sample(logits.clone(), [sequence_with(sampling, [5, 5, 9]) for sampling in samplings])
    alone = [
        sample(logits[row : row + 1].clone(), [sequence_with(sampling, [5, 5, 9])])[0]
        for row, sampling in enumerate(samplings)
    ]
    assert together == alone


def test_zero_temperature_takes_the_most_likely() -> None:
    logits = torch.tensor([[0.0, 3.0, 2.9]])
    assert sample(logits, [sequence_with(Sampling(temperature=0.0))])[0].token_id == 1


def test_penalties_follow_their_definitions() -> None:
    logits = torch.tensor([2.0, 1.0, -1.0, 4.0, 5.0])
    sampling = Sampling(presence_penalty=0.5, frequency_penalty=0.25, repetition_penalty=2.0)
    sequence = make_sequence("s", [1, 2], sampling=sampling)
    sequence.output_ids = [3, 3, 0]
    penalise(logits, Row(sequence))
    # seen anywhere: 0, 1, 2, 3 (positive halved, negative doubled); generated: 3 twice, 0 once
    assert logits.tolist() == pytest.approx([1.0 - 0.75, 0.5, -2.0, 2.0 - 1.0, 5.0])


def test_a_seed_repeats_its_answer_and_another_does_not() -> None:
    def answer(seed: int) -> list[int]:
        sequence = sequence_with(Sampling(seed=seed))
        for _ in range(40):
            sequence.output_ids.append(sample(torch.zeros(1, VOCAB), [sequence])[0].token_id)
        return sequence.output_ids

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, top_p=0.85, top_k=9)])
def test_draws_follow_the_distribution(sampling: Sampling) -> None:
    """Chi-square over 20,000 seeds; the bound is the 99.99th percentile, and the seeds are fixed."""
    count, logits = 20_000, torch.linspace(-2, 2, 12)
    expected = np.array(reference_probs(logits.tolist(), sampling))
    expected = expected / expected.sum() * count
    sequences = [
        make_sequence("s", [1], sampling=Sampling(**{**fields_of(sampling), "seed": seed}))
        for seed in range(count)
    ]
    drawn = [choice.token_id for choice in sample(logits.repeat(count, 1), sequences)]
    observed = np.bincount(drawn, minlength=12)
    possible = expected > 0
    assert not observed[~possible].any()
    degrees = int(possible.sum()) - 1
    statistic = float((((observed - expected) ** 2)[possible] / expected[possible]).sum())
    assert statistic < degrees + 3.72 * math.sqrt(2 * degrees) + 9.2  # Laurent and Massart's bound, x = 9.2


def fields_of(sampling: Sampling) -> dict[str, float]:
    return {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": sampling.top_k}


def test_uniforms_are_even_along_an_answer_and_across_seeds() -> None:
    numbers = np.arange(20_000, dtype=np.uint64)
    fixed = np.full_like(numbers, 7)
    along, across = uniforms(fixed, numbers), uniforms(numbers, fixed)
    for values in (along, across):
        assert 0.0 < values.min() < values.max() < 1.0
        counts = np.histogram(values, bins=50, range=(0, 1))[0]
        assert ((counts - 400) ** 2 / 400).sum() < 49 + 3.72 * math.sqrt(98) + 9.2
    assert abs(np.corrcoef(along[:-1], along[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(along, across)[0, 1]) < 0.03


def test_logprobs_are_the_models_own_whatever_the_sampling() -> None:
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(2))
    own = logits.log_softmax(-1)[0]
    sampling = Sampling(temperature=0.3, top_k=3, presence_penalty=1.0, seed=1, top_logprobs=4)
    choice = sample(logits, [sequence_with(sampling, [4])])[0]
    assert choice.logprob is not None
    assert choice.logprob.logprob == pytest.approx(float(own[choice.token_id]), abs=1e-5)
    values, ids = own.topk(4)
    assert [token for token, _ in choice.logprob.top] == ids.tolist()
    assert [value for _, value in choice.logprob.top] == pytest.approx(values.tolist(), abs=1e-5)


def test_logprobs_without_alternatives_have_none() -> None:
    choice = sample(torch.zeros(1, 4), [sequence_with(Sampling(temperature=0.0, top_logprobs=0))])[0]
    assert choice.logprob is not None
    assert choice.logprob.top == ()


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_suppressed_tokens_come_only_after_the_minimum(temperature: float) -> None:
    favourite = torch.full((1, VOCAB), -1.0)
    favourite[0, 7] = 50.0
    sequence = make_sequence(
        "s",
        [1],
        sampling=Sampling(temperature=temperature, top_logprobs=1),
        min_new_tokens=2,
        suppressed_ids=frozenset({7}),
    )
    chosen = []
    for _ in range(3):
        (choice,) = sample(favourite.clone(), [sequence])
        sequence.output_ids.append(choice.token_id)
        chosen.append(choice.token_id == 7)
        assert choice.logprob is not None
        assert choice.logprob.top[0][0] == 7  # log probabilities stay the model's own
    assert chosen == [False, False, True]


def test_a_minimum_leaves_other_draws_alone() -> None:
    """A draw is the same wherever suppressing took no probability away."""
    logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(3))
    logits[0, 7] = float("-inf")

    def draws(min_new_tokens: int) -> list[int]:
        sequence = make_sequence(
            "s",
            [1],
            sampling=Sampling(seed=5),
            min_new_tokens=min_new_tokens,
            suppressed_ids=frozenset({7}),
        )
        for _ in range(20):
            (choice,) = sample(logits.clone(), [sequence])
            sequence.output_ids.append(choice.token_id)
        return sequence.output_ids

    assert draws(0) == draws(10) == draws(20)
