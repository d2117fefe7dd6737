"""Rejection sampling: DeepSpec's cases, the algebra that makes it lossless, and its edges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.commit import commit
from engine.drafters.base import Proposal
from engine.judge import Judged, target_probs
from engine.sampler import Choice
from engine.scheduler import Chunk
from engine.sequence import Round, Sampling, Sequence
from engine.speculation import Drafts, Proposed, round_of
from engine.verify import (
    accept_probs,
    count_accepted,
    next_token_probs,
    verify,
    verify_chosen,
)
from tests.engine.drafters import parity
from tests.engine.toy import make_sequence

ONE = torch.tensor([0])


def proposal_of(token_ids: Tensor, draft_probs: Tensor, vocabulary: Tensor | None = None) -> Proposal:
    """All slots to be verified; `token_ids` [B, n] are the drafter's ids."""
    return Proposal(
        token_ids=token_ids if vocabulary is None else vocabulary[token_ids],
        lengths=torch.full((len(token_ids),), token_ids.shape[1]),
        token_probs=draft_probs.gather(2, token_ids.unsqueeze(2)).squeeze(2),
        draft_probs=draft_probs,
        vocabulary=vocabulary,
    )


def committed(
    drafted: list[int], accepted: int, next_id: int, stop_ids: frozenset[int]
) -> tuple[Sequence, Round]:
    """A sequence after a round, and what the round came to."""
    sequence = make_sequence("a", [1], 100, end_ids=stop_ids)
    chunk = Chunk(sequence, 1, tuple(drafted))
    judged = Judged(accepted, [Choice(token_id, None) for token_id in [*drafted[:accepted], next_id]])
    commit(sequence, judged.choices, 0.0)
    proposed = Proposed(0, tuple(drafted), [], len(drafted))
    return sequence, round_of(Drafts(of={sequence: proposed}), chunk, judged, sequence.num_tokens - 1)


@pytest.mark.parametrize("case", range(len(parity.facts("rejection_sampling")["cases"])))
def test_deepspecs_cases(case: int) -> None:
    expected = parity.facts("rejection_sampling")["cases"][case]
    stored = {
        name.removeprefix(f"case{case}."): tensor
        for name, tensor in parity.tensors("rejection_sampling").items()
        if name.startswith(f"case{case}.")
    }
    drafted: list[int] = stored["drafted"][0].tolist()
    sequence = make_sequence("a", [1], sampling=Sampling(temperature=expected["temperature"]))
    probs, first_rows = target_probs(stored["target_logits"][0].clone(), [sequence], [drafted])
    proposal = proposal_of(stored["drafted"], stored["q"])
    accepted = count_accepted(proposal, probs, first_rows, stored["u"])
    parity.assert_near(
        next_token_probs(proposal, probs, first_rows, accepted), stored["next_token_distribution"]
    )
    stop_ids = frozenset(expected["stop_token_ids"] or [])
    next_id = 1 + max([*drafted, *stop_ids])  # none that stops
    sequence, done = committed(drafted, int(accepted[0]), next_id, stop_ids)
    assert done.accepted == expected["accepted_draft_tokens"]
    assert done.verified == expected["effective_proposal_length"]
    assert (sequence.finish_reason == "stop") == expected["terminated_by_stop_token"]


def distribution(size: int) -> st.SearchStrategy[list[float]]:
    """Positive and zero weights, not all zero."""
    weight = st.one_of(st.just(0.0), st.floats(1e-3, 1.0))
    return st.lists(weight, min_size=size, max_size=size).filter(lambda weights: sum(weights) > 0)


def normalised(weights: list[float]) -> Tensor:
    tensor = torch.tensor(weights, dtype=torch.float64)
    return tensor / tensor.sum()


def outcome_probs(draft: Tensor, target: Tensor, vocabulary: Tensor | None = None) -> Tensor:
    """The exact distribution of the first committed token: draft x accept + rejected x residual."""
    columns = torch.arange(len(draft)).unsqueeze(1)  # every token the drafter could draw: B = its vocabulary
    proposal = proposal_of(columns, draft.expand(len(draft), 1, -1), vocabulary)
    rows = torch.zeros(len(draft), dtype=torch.long)
    target_rows = target.expand(2, -1)
    accept = accept_probs(proposal, target_rows, rows)[:, 0]
    residual = next_token_probs(
        proposal, target_rows, rows, torch.zeros_like(rows)
    )  # as if all were rejected
    accepted = torch.zeros_like(target).index_add(0, proposal.token_ids[:, 0], draft * accept)
    return accepted + (draft * (1.0 - accept)) @ residual


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9).flatmap(lambda size: st.tuples(distribution(size), distribution(size))))
def test_draft_times_accept_plus_residual_is_the_target(pair: tuple[list[float], list[float]]) -> None:
    draft, target = normalised(pair[0]), normalised(pair[1])
    assert (outcome_probs(draft, target) - target).abs().max() < 1e-12


@settings(max_examples=30, deadline=None)
@given(distribution(4), distribution(9), st.permutations(range(9)))
def test_a_reduced_draft_vocabulary_is_lossless_too(
    draft: list[float], target: list[float], ids: list[int]
) -> None:
    exact = normalised(target)
    vocabulary = torch.tensor(ids[:4])
    assert (outcome_probs(normalised(draft), exact, vocabulary) - exact).abs().max() < 1e-12


def test_certain_drafts_are_lossless() -> None:
    target = normalised([1.0, 5.0, 0.0, 2.0])
    for token in range(4):
        proposal, rows = Proposal(torch.tensor([[token]]), torch.tensor([1])), target.expand(2, -1)
        accept = accept_probs(proposal, rows, ONE)[0, 0]
        residual = next_token_probs(proposal, rows, ONE, torch.tensor([0]))[0]
        certain = torch.zeros(4, dtype=torch.float64)
        certain[token] = 1.0
        assert (accept * certain + (1 - accept) * residual - target).abs().max() < 1e-12


def test_a_point_below_the_chance_accepts() -> None:
    target = torch.tensor([[0.25, 0.75, 0.0]], dtype=torch.float64).expand(2, -1)
    draft = torch.tensor([[[0.5, 0.25, 0.25]]], dtype=torch.float64)
    for token, chance in enumerate((0.5, 1.0, 0.0)):
        proposal = proposal_of(torch.tensor([[token]]), draft)
        for point in (1e-9, 0.4999, 0.5, 1 - 1e-9):
            points = torch.tensor([[point]], dtype=torch.float64)
            assert int(count_accepted(proposal, target, ONE, points)) == int(point < chance)


def test_slots_beyond_the_length_are_not_tested_and_the_next_token_is_the_targets_own() -> None:
    target = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # two rows: the anchor and one drafted token
    whole = Proposal(torch.tensor([[1, 2, 2]]), torch.tensor([1]))
    low = torch.full((1, 3), 1e-6, dtype=torch.float64)
    verdict = verify(whole, target, ONE, low, torch.full((1, 4), 0.5, dtype=torch.float64))
    assert (int(verdict.accepted), int(verdict.next_ids)) == (1, 2)
    none = replace(whole, lengths=torch.tensor([0]))
    assert int(count_accepted(none, target, ONE, low)) == 0
    assert next_token_probs(none, target, ONE, ONE).tolist() == [[0.0, 1.0, 0.0]]


def test_equal_distributions_reject_nothing_and_never_divide_by_nothing() -> None:
    probs = torch.tensor([[0.25, 0.75, 0.0]] * 2)
    proposal = proposal_of(torch.tensor([[1]]), probs[:1].unsqueeze(1))
    almost = torch.tensor([[1.0 - 2**-49]], dtype=torch.float64)
    assert int(count_accepted(proposal, probs, ONE, almost)) == 1
    assert next_token_probs(proposal, probs, ONE, ONE).tolist() == probs[:1].tolist()


def test_greedy_verification_equals_sampling_with_certain_targets() -> None:
    generator = torch.Generator().manual_seed(3)
    target_ids = torch.randint(0, 3, (4 * 5,), generator=generator)
    token_ids = torch.randint(0, 3, (4, 4), generator=generator)
    token_ids[0] = target_ids[:4]
    proposal = Proposal(token_ids, torch.tensor([4, 4, 2, 0]))
    first_rows = torch.arange(4) * 5
    certain = torch.nn.functional.one_hot(target_ids, 3).double()
    points = torch.rand((4, 4), generator=generator, dtype=torch.float64)
    sampled = verify(proposal, certain, first_rows, points, torch.rand((4, 5), generator=generator))
    greedy = verify_chosen(proposal, target_ids, first_rows)
    assert greedy.accepted.tolist() == sampled.accepted.tolist()
    assert greedy.next_ids.tolist() == sampled.next_ids.tolist()
    assert int(greedy.accepted[0]) == 4


def test_a_stop_token_inside_the_accepted_drafts_ends_the_round_there() -> None:
    sequence, done = committed([5, 9, 6, 7], 3, 8, frozenset({9}))
    assert (sequence.output_ids, sequence.finish_reason) == ([5, 9], "stop")
    assert done == Round(drafted=2, verified=2, accepted=2, committed=2)


def test_a_stop_token_that_was_rejected_ends_nothing() -> None:
    sequence, done = committed([5, 9, 6], 1, 8, frozenset({9}))
    assert (sequence.output_ids, sequence.finish_reason) == ([5, 8], None)
    assert done == Round(drafted=3, verified=3, accepted=1, committed=2)


def test_a_stop_token_after_the_accepted_drafts_ends_the_sequence_with_them() -> None:
    sequence, done = committed([5, 6], 2, 9, frozenset({9}))
    assert (sequence.output_ids, sequence.finish_reason) == ([5, 6, 9], "stop")
    assert done == Round(drafted=2, verified=2, accepted=2, committed=3)
