"""From logits to verdicts: warps row by row, greedy beside sampling, seeds that reproduce."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from engine.drafters.base import Proposal
from engine.judge import judge, no_proposal, target_probs
from engine.sampler import Row, candidate_probs, penalise
from engine.sequence import Sampling, Sequence
from tests.engine.toy import make_sequence

WARPED = Sampling(
    temperature=0.7,
    top_k=6,
    top_p=0.9,
    min_p=0.02,
    presence_penalty=0.4,
    frequency_penalty=0.3,
    repetition_penalty=1.2,
)


def test_each_row_is_warped_as_plain_decoding_would_warp_it() -> None:
    logits = torch.randn(9, 12, generator=torch.Generator().manual_seed(5))
    warped, plain = make_sequence("a", [1, 2], sampling=WARPED), make_sequence("b", [3])
    warped.output_ids, plain.output_ids = [4, 4], [5]
    drafted = [[7, 4, 7], [1, 1, 1, 1]]
    probs, first_rows = target_probs(logits.clone(), [warped, plain], drafted)
    assert first_rows.tolist() == [0, 4]
    for count in range(4):
        alone = replace(warped, output_ids=warped.output_ids + drafted[0][:count])
        row = logits[count].clone()
        penalise(row, Row(alone))
        expected = candidate_probs(row.unsqueeze(0), [alone])[0]
        assert torch.allclose(probs[count], expected / expected.sum(), atol=1e-6)
    assert probs[4:].argmax(-1).tolist() == logits[4:].argmax(-1).tolist()
    assert probs[4:].amax(-1).tolist() == [1.0] * 5
    assert warped.output_ids == [4, 4]


def test_an_answer_may_not_end_before_its_least_length_wherever_the_row_is_in_a_round() -> None:
    for temperature in (0.0, 1.0):
        sequence = make_sequence("a", [1], sampling=Sampling(temperature=temperature))
        sequence = replace(sequence, output_ids=[4], min_new_tokens=3, suppressed_ids=frozenset({7}))
        logits = torch.zeros(4, 12)
        logits[:, 7] = 9.0  # the rows decide the tokens at places 1 to 4 of the answer
        probs, _ = target_probs(logits.clone(), [sequence], [[5, 6, 8]])
        assert (probs[:, 7] > 0.9).tolist() == [False, False, True, True]
        assert probs[:2, 7].tolist() == [0.0, 0.0]


def test_rows_sum_to_one_whatever_was_filtered() -> None:
    logits = torch.randn(5, 30, generator=torch.Generator().manual_seed(6))
    sequence = make_sequence("a", [1], sampling=WARPED)
    probs, _ = target_probs(logits, [sequence], [[2, 3, 4, 5]])
    assert torch.allclose(probs.sum(-1), torch.ones(5), atol=1e-6)


def random_logits(count: int, seed: int) -> Tensor:
    return 2 * torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def test_a_step_without_a_proposal_draws_each_sequences_next_token() -> None:
    logits = random_logits(2, 1)
    sequences = [
        make_sequence("a", [1]),
        make_sequence("b", [2], sampling=Sampling(temperature=1.0, top_k=1)),
    ]
    verdict = judge(no_proposal(2, torch.device("cpu")), logits.clone(), sequences, [[], []])
    assert verdict.accepted.tolist() == [0, 0]
    assert verdict.next_ids.tolist() == logits.argmax(-1).tolist()


def test_a_greedy_sequence_gets_the_same_verdict_beside_a_sampling_one() -> None:
    logits = random_logits(8, 2)
    token_ids = torch.cat([logits[:2].argmax(-1), torch.tensor([0])]).view(1, 3)
    greedy, other = make_sequence("a", [1]), make_sequence("b", [2], sampling=Sampling(temperature=1.0))
    alone = judge(Proposal(token_ids, torch.tensor([3])), logits[:4].clone(), [greedy], token_ids.tolist())
    both = Proposal(token_ids.expand(2, 3), torch.tensor([3, 3]))
    beside = judge(both, logits.clone(), [greedy, other], both.token_ids.tolist())
    assert (int(alone.accepted[0]), int(alone.next_ids[0])) == (2, int(logits[2].argmax()))
    assert int(beside.accepted[0]) == int(alone.accepted[0])
    assert int(beside.next_ids[0]) == int(alone.next_ids[0])


def test_a_verdict_depends_on_seed_and_place_not_on_the_batch() -> None:
    logits, drafted = random_logits(9, 3), [[4, 5], [6], [1, 2, 3]]
    samplings = [Sampling(temperature=1.0, seed=seed, presence_penalty=0.2) for seed in (5, 6, 7)]
    sequences = [make_sequence(str(one.seed), [1], sampling=one) for one in samplings]
    sequences[2].output_ids = [8, 9]

    def verdicts(order: list[int]) -> dict[int, tuple[int, int]]:
        first = [0, 3, 5]
        rows = torch.cat([logits[first[one] : first[one] + len(drafted[one]) + 1] for one in order])
        tokens = [drafted[one] + [0] * (3 - len(drafted[one])) for one in order]
        proposal = Proposal(torch.tensor(tokens), torch.tensor([len(drafted[one]) for one in order]))
        chosen: list[Sequence] = [sequences[one] for one in order]
        verdict = judge(proposal, rows.clone(), chosen, [drafted[one] for one in order])
        return dict(
            zip(order, zip(verdict.accepted.tolist(), verdict.next_ids.tolist(), strict=True), strict=True)
        )

    together = verdicts([0, 1, 2])
    assert verdicts([2, 0, 1]) == together
    assert {**verdicts([0]), **verdicts([1]), **verdicts([2])} == together
